// GatherND and GatherElements: the result is made of runs of the data that a tensor of indices
// names one by one.
#include <algorithm>
#include <vector>

#include "enclave/nn/ops/onnx_ordered.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// Runs of `width` elements of the data, in ONNX's order: where each run of the result is from.
struct Runs {
  std::int64_t width = 1;
  std::vector<std::int64_t> offsets;
};

// Counted from the end when negative.
Result<std::int64_t> checked_index(const Node& node, std::int64_t index, std::int64_t size) {
  if (index < -size || index >= size) return index_error(node, size, index);
  return index < 0 ? index + size : index;
}

// --- GatherElements ---

Result<std::vector<Shape>> infer_elements(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const Shape& in = context.inputs[0];
  const Shape& out = context.inputs[1];
  const auto axis = checked_axis(context.node, context.node.int_or("axis", 0), in.size());
  if (!axis) return axis.error();
  bool fits = in.size() == out.size();
  for (std::size_t i = 0; fits && i < in.size(); ++i) fits = i == *axis || out[i] <= in[i];
  if (!fits) {
    return shape_error(context.node, "GatherElements' indices do not fit its data",
                       shape_to_string(in), shape_to_string(out));
  }
  return std::vector<Shape>{out};
}

Result<Runs> element_runs(const OpContext& context) {
  const Shape& in = context.in_shape(0);
  const std::size_t axis = *checked_axis(context.node, context.node.int_or("axis", 0), in.size());
  Shape strides = onnx_strides(in);
  const std::int64_t step = strides[axis];
  strides[axis] = 0;  // the index says where along the axis
  Runs runs{1, offsets_of(context.in_shape(1), strides)};
  const std::int64_t* indices = OpContext::ints(context.in[1]);
  for (std::size_t i = 0; i < runs.offsets.size(); ++i) {
    const auto index = checked_index(context.node, indices[i], in[axis]);
    if (!index) return index.error();
    runs.offsets[i] += *index * step;
  }
  return runs;
}

// --- GatherND ---

// The data is batches x indexed dimensions x a run; the indices are batches x tuples x a place in
// the indexed dimensions.
struct Places {
  std::size_t batch_dims = 0, indexed = 0;

  static Result<Places> of(const ShapeContext& context) {
    const Shape& in = context.inputs[0];
    const Shape& indices = context.inputs[1];
    const std::int64_t batch_dims = context.node.int_or("batch_dims", 0);
    const auto ranks = static_cast<std::int64_t>(std::min(in.size(), indices.size()));
    const auto refuse = [&] {
      return shape_error(context.node, "GatherND's indices do not fit its data",
                         shape_to_string(in), shape_to_string(indices));
    };
    if (batch_dims < 0 || batch_dims >= ranks) return refuse();
    Places places{static_cast<std::size_t>(batch_dims), 0};
    const std::int64_t indexed = indices.back();
    if (indexed > static_cast<std::int64_t>(in.size()) - batch_dims) return refuse();
    places.indexed = static_cast<std::size_t>(indexed);
    if (!std::equal(in.begin(), in.begin() + batch_dims, indices.begin())) return refuse();
    return places;
  }
};

Result<std::vector<Shape>> infer_nd(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const auto places = Places::of(context);
  if (!places) return places.error();
  const Shape& in = context.inputs[0];
  Shape out(context.inputs[1].begin(), context.inputs[1].end() - 1);
  const std::size_t kept = places->batch_dims + places->indexed;
  out.insert(out.end(), in.begin() + static_cast<std::ptrdiff_t>(kept), in.end());
  return std::vector<Shape>{out};
}

Result<Runs> nd_runs(const OpContext& context) {
  const Places places = *Places::of(context.shape_context());
  const Shape& in = context.in_shape(0);
  const Shape strides = onnx_strides(in);
  const std::size_t first = places.batch_dims, end = first + places.indexed;
  Runs runs;
  for (std::size_t d = end; d < in.size(); ++d) runs.width *= in[d];
  std::int64_t batches = 1;
  for (std::size_t d = 0; d < first; ++d) batches *= in[d];
  const std::int64_t batch_size = element_count(in) / batches;
  const auto per_tuple = static_cast<std::int64_t>(places.indexed);
  const std::int64_t tuples = element_count(context.in_shape(1)) / per_tuple;
  const std::int64_t* indices = OpContext::ints(context.in[1]);
  for (std::int64_t tuple = 0; tuple < tuples; ++tuple) {
    std::int64_t offset = tuple / (tuples / batches) * batch_size;
    for (std::size_t d = first; d < end; ++d) {
      const auto index = checked_index(context.node, *indices++, in[d]);
      if (!index) return index.error();
      offset += *index * strides[d];
    }
    runs.offsets.push_back(offset);
  }
  return runs;
}

// --- Both ---

using MakeRuns = Result<Runs> (*)(const OpContext& context);

template <class T>
void copy_runs(ThreadPool& pool, const Runs& runs, const T* from, T* to) {
  pool.parallel_for(static_cast<std::int64_t>(runs.offsets.size()), grain_for(runs.width),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t r = begin; r < end; ++r) {
                        std::copy_n(from + runs.offsets[static_cast<std::size_t>(r)], runs.width,
                                    to + r * runs.width);
                      }
                    });
}

template <MakeRuns kMakeRuns>
void forward(OpContext& context) {
  const Result<Runs> runs = kMakeRuns(context);
  if (!runs) {
    context.status = runs.error();
    return;
  }
  if (type_of_first(context.graph, context.node) == DataType::kInt64) {
    copy_runs(context.pool, *runs, OpContext::ints(context.in[0]), OpContext::ints(context.out[0]));
    return;
  }
  const OnnxOrdered x(context.pool, context.in_shape(0), context.in_block(0), context.in[0]);
  OnnxOrderedResult y(context.pool, context.out_shape(0), context.out_block(0), context.out[0],
                      false);
  copy_runs(context.pool, *runs, x.data(), y.data());
  y.finish();
}

// Each element of the data gets the sum of what was copied from it, in order, on one thread.
template <MakeRuns kMakeRuns>
void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Runs runs = *kMakeRuns(context);
  const OnnxOrdered dy(context.pool, context.out_shape(0), context.out_block(0), context.d_out[0]);
  OnnxOrderedResult dx(context.pool, context.in_shape(0), context.in_block(0), context.d_in[0],
                       context.accumulate[0]);
  if (!dx.accumulates()) std::fill_n(dx.data(), element_count(context.in_shape(0)), 0.0F);
  const float* from = dy.data();
  for (const std::int64_t offset : runs.offsets) {
    float* to = dx.data() + offset;
    for (std::int64_t i = 0; i < runs.width; ++i) to[i] += *from++;
  }
  dx.finish();
}

}  // namespace

OpDef gather_elements_op() {
  return {.type = "GatherElements",
          .min_opset = 11,
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer_elements,
          .forward = forward<element_runs>,
          .backward = backward<element_runs>,
          .needs = {.inputs = true},
          .flops_an_element = 0};
}

OpDef gather_nd_op() {
  return {.type = "GatherND",
          .min_opset = 11,
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer_nd,
          .forward = forward<nd_runs>,
          .backward = backward<nd_runs>,
          .needs = {.inputs = true},
          .flops_an_element = 0};
}

}  // namespace tempo
