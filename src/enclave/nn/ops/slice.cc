// Slice and Pad: a tensor is part of the other one, at constant places.
#include <algorithm>
#include <limits>

#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

void fill(OpContext& context, float* to, const Shape& shape, float value) {
  for_elements(context.pool, element_count(shape), [&](std::int64_t begin, std::int64_t count) {
    std::fill_n(to + begin, count, value);
  });
}

// --- Slice ---

// By dimension of the input: first index, distance, count.
struct Range {
  std::int64_t first, step, count;
};

std::int64_t count_of(const Range& range, std::int64_t end) {
  const std::int64_t length = range.step > 0 ? end - range.first : range.first - end;
  const std::int64_t distance = std::abs(range.step);
  return length <= 0 ? 0 : 1 + (length - 1) / distance;
}

// Opset 9 has attributes, later ones inputs: data, starts, ends, axes, steps.
Result<std::vector<Range>> ranges_of(const ShapeContext& context) {
  const Node& node = context.node;
  const Shape& in = context.inputs[0];
  const auto list = [&](std::size_t input, const char* attribute) {
    return constant_ints(context, input).value_or(node.ints_or(attribute, {}));
  };
  const auto starts = list(1, "starts"), ends = list(2, "ends");
  auto axes = list(3, "axes"), steps = list(4, "steps");
  if (axes.empty()) {
    for (std::size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<std::int64_t>(i));
  }
  if (steps.empty()) steps.assign(starts.size(), 1);
  if (ends.size() != starts.size() || axes.size() != starts.size() ||
      steps.size() != starts.size()) {
    return shape_error(node, "Slice's starts, ends, axes and steps disagree",
                       std::to_string(starts.size()) + " of each");
  }
  std::vector<Range> ranges;
  for (const std::int64_t dim : in) ranges.push_back({0, 1, dim});
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const auto axis = checked_axis(node, axes[i], in.size());
    if (!axis) return axis.error();
    const std::int64_t size = in[*axis];
    const bool backwards = steps[i] < 0;
    if (steps[i] == 0 || steps[i] == std::numeric_limits<std::int64_t>::min()) {
      return shape_error(node, "Slice's step makes no sense", "not 0", std::to_string(steps[i]));
    }
    const auto clamp = [&](std::int64_t index, std::int64_t lowest) {
      if (index < 0 && index >= -size) index += size;
      return std::clamp<std::int64_t>(index, lowest, backwards ? size - 1 : size);
    };
    Range range{clamp(starts[i], 0), steps[i], 0};
    range.count = count_of(range, clamp(ends[i], backwards ? -1 : 0));
    if (range.count == 0 && !context.allows_empty) {
      return shape_error(node, "Slice leaves nothing of dimension " + std::to_string(*axis),
                         "at least one element", shape_to_string(in));
    }
    if (range.count == 1) range.step = 1;  // a huge one would overflow
    ranges[*axis] = range;
  }
  return ranges;
}

Result<std::vector<Shape>> infer_slice(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const auto ranges = ranges_of(context);
  if (!ranges) return ranges.error();
  Shape out;
  for (const Range& range : *ranges) out.push_back(range.count);
  return std::vector<Shape>{out};
}

// Where the result lies in the input.
Part slice_part(const OpContext& context) {
  const auto ranges = *ranges_of(context.shape_context());
  Part part{0, activation_strides(context.in_shape(0), context.in_block(0))};
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    part.offset += ranges[i].first * part.strides[i];
    part.strides[i] *= ranges[i].step;
  }
  return part;
}

void slice_forward(OpContext& context) {
  const Shape& out = context.out_shape(0);
  copy_part(context.pool, type_of_first(context.graph, context.node), out, context.in[0],
            slice_part(context), context.out[0],
            {0, activation_strides(out, context.out_block(0))});
}

void slice_backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Shape& out = context.out_shape(0);
  const Part part = slice_part(context);
  if (!context.accumulate[0]) fill(context, context.d_in[0], context.in_shape(0), 0);
  strided_copy(context.pool, out, context.d_out[0], activation_strides(out, context.out_block(0)),
               context.d_in[0] + part.offset, part.strides, true);
}

// --- Pad ---

// Opset 10 has attributes, later ones inputs: data, pads, value, axes. What stands before and after
// each dimension; negative pads cut.
struct Padding {
  Shape before, after;
};

Result<Padding> padding_of(const ShapeContext& context) {
  const Node& node = context.node;
  const std::size_t rank = context.inputs[0].size();
  const auto pads = constant_ints(context, 1).value_or(node.ints_or("pads", {}));
  std::vector<std::int64_t> axes;
  if (const auto given = constant_ints(context, 3)) {
    axes = *given;
  } else {
    for (std::size_t i = 0; i < rank; ++i) axes.push_back(static_cast<std::int64_t>(i));
  }
  if (pads.size() != 2 * axes.size()) {
    return shape_error(node, "Pad's pads do not fit", std::to_string(2 * axes.size()) + " numbers",
                       std::to_string(pads.size()));
  }
  Padding padding{Shape(rank, 0), Shape(rank, 0)};
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const auto axis = checked_axis(node, axes[i], rank);
    if (!axis) return axis.error();
    padding.before[*axis] = pads[i];
    padding.after[*axis] = pads[axes.size() + i];
  }
  return padding;
}

Result<std::vector<Shape>> infer_pad(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  const auto padding = padding_of(context);
  if (!padding) return padding.error();
  Shape out;
  for (std::size_t i = 0; i < in.size(); ++i) {
    for (const std::int64_t pad : {padding->before[i], padding->after[i]}) {
      if (pad > -in[i] && pad < kMaxTensorElements) continue;
      return shape_error(context.node, "Pad's pads make no sense",
                         "more than " + std::to_string(-in[i]), std::to_string(pad));
    }
    out.push_back(in[i] + padding->before[i] + padding->after[i]);
    if (out.back() < 1) {
      return shape_error(context.node, "Pad leaves nothing of dimension " + std::to_string(i));
    }
  }
  return std::vector<Shape>{out};
}

std::string unsupported_pad(const Graph& graph, const Node& node) {
  if (node.string_or("mode", "constant") != "constant") return "only mode = constant";
  const Tensor* value = input_tensor(graph, node, 2);
  if (value != nullptr && (value->kind != TensorKind::kConstant || value->floats.size() != 1)) {
    return "its value must be a constant";
  }
  return unsupported_storage(graph, node);
}

// What both sides have in common.
struct Overlap {
  Shape dims;
  Part in, out;

  explicit Overlap(const OpContext& context) {
    const Padding padding = *padding_of(context.shape_context());
    const Shape& shape = context.in_shape(0);
    in.strides = activation_strides(shape, context.in_block(0));
    out.strides = activation_strides(context.out_shape(0), context.out_block(0));
    for (std::size_t i = 0; i < shape.size(); ++i) {
      const std::int64_t cut_before = std::max<std::int64_t>(0, -padding.before[i]);
      const std::int64_t cut_after = std::max<std::int64_t>(0, -padding.after[i]);
      dims.push_back(shape[i] - cut_before - cut_after);
      in.offset += cut_before * in.strides[i];
      out.offset += std::max<std::int64_t>(0, padding.before[i]) * out.strides[i];
    }
  }
};

void pad_forward(OpContext& context) {
  const Overlap overlap(context);
  const Tensor* given = input_tensor(context.graph, context.node, 2);
  const float value = given == nullptr ? context.node.float_or("value", 0) : given->floats[0];
  fill(context, context.out[0], context.out_shape(0), value);
  strided_copy(context.pool, overlap.dims, context.in[0] + overlap.in.offset, overlap.in.strides,
               context.out[0] + overlap.out.offset, overlap.out.strides, false);
}

void pad_backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Overlap overlap(context);
  if (!context.accumulate[0]) fill(context, context.d_in[0], context.in_shape(0), 0);
  strided_copy(context.pool, overlap.dims, context.d_out[0] + overlap.out.offset,
               overlap.out.strides, context.d_in[0] + overlap.in.offset, overlap.in.strides, true);
}

}  // namespace

OpDef slice_op() {
  return {.type = "Slice",
          .notes = "at constant places",
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer_slice,
          .forward = slice_forward,
          .backward = slice_backward,
          .flops_an_element = 0};
}

OpDef pad_op() {
  return {.type = "Pad",
          .min_opset = 2,
          .notes = "by a constant",
          .unsupported = unsupported_pad,
          .infer = infer_pad,
          .forward = pad_forward,
          .backward = pad_backward,
          .flops_an_element = 0};
}

}  // namespace tempo
