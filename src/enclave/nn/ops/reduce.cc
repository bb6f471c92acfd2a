// ReduceMean and ReduceSum: over any axes.
#include <algorithm>

#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// By dimension of the input: whether it is summed over. Axes are an attribute in older opsets, an
// input in newer ones.
Result<std::vector<bool>> reduced_dims(const Graph& graph, const Node& node, std::size_t rank) {
  std::vector<std::int64_t> axes = node.ints_or("axes", {});
  if (const Tensor* input = input_tensor(graph, node, 1)) axes = input->ints;
  const bool all = axes.empty() && node.int_or("noop_with_empty_axes", 0) == 0;
  std::vector<bool> reduced(rank, all);
  for (const std::int64_t axis : axes) {
    const std::int64_t dim = axis < 0 ? axis + static_cast<std::int64_t>(rank) : axis;
    if (dim < 0 || dim >= static_cast<std::int64_t>(rank)) {
      return shape_error(node, "an axis of " + node.op_type + " is out of range",
                         "below " + std::to_string(rank), std::to_string(axis));
    }
    reduced[static_cast<std::size_t>(dim)] = true;
  }
  return reduced;
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  auto reduced = reduced_dims(context.graph, context.node, in.size());
  if (!reduced) return reduced.error();
  const bool keeps = context.node.int_or("keepdims", 1) != 0;
  Shape out;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!(*reduced)[i]) {
      out.push_back(in[i]);
    } else if (keeps) {
      out.push_back(1);
    }
  }
  return std::vector<Shape>{out};
}

// The input as kept x summed dimensions.
struct Reduction {
  Shape kept, kept_in, kept_out;  // sizes, strides in the input and in the result
  Shape summed, summed_in;
  std::int64_t count = 1;  // elements of one sum

  explicit Reduction(const OpContext& context) {
    const Shape& in = context.in_shape(0);
    const Shape in_strides = activation_strides(in, context.in_block(0));
    const Shape out_strides = activation_strides(context.out_shape(0), context.out_block(0));
    const std::vector<bool> reduced = *reduced_dims(context.graph, context.node, in.size());
    const bool keeps = context.node.int_or("keepdims", 1) != 0;
    std::size_t out_dim = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (reduced[i]) {
        summed.push_back(in[i]);
        summed_in.push_back(in_strides[i]);
        count *= in[i];
        out_dim += keeps ? 1 : 0;
      } else {
        kept.push_back(in[i]);
        kept_in.push_back(in_strides[i]);
        kept_out.push_back(out_strides[out_dim++]);
      }
    }
  }
};

bool is_mean(const OpContext& context) {
  return context.node.op_type == "ReduceMean";
}

void forward(OpContext& context) {
  const Reduction r(context);
  const double scale = is_mean(context) ? 1.0 / static_cast<double>(r.count) : 1.0;
  sum_parts(context.pool, r.kept, context.in[0], r.kept_in, r.summed, r.summed_in, context.out[0],
            r.kept_out, false, scale);
}

void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Reduction r(context);
  Shape dims = r.kept, from = r.kept_out, to = r.kept_in;
  dims.insert(dims.end(), r.summed.begin(), r.summed.end());
  from.resize(dims.size(), 0);  // every element of a sum has its gradient
  to.insert(to.end(), r.summed_in.begin(), r.summed_in.end());
  const float scale = is_mean(context) ? 1.0F / static_cast<float>(r.count) : 1.0F;
  strided_copy(context.pool, dims, context.d_out[0], from, context.d_in[0], to,
               context.accumulate[0], scale);
}

std::string unsupported(const Graph& graph, const Node& node) {
  const Tensor* axes = input_tensor(graph, node, 1);
  if (axes != nullptr && (axes->kind != TensorKind::kConstant || axes->type != DataType::kInt64)) {
    return "its axes are not constant";
  }
  return unsupported_storage(graph, node);
}

OpDef reduce_op(std::string_view type) {
  return {.type = type,
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward,
          .backward = backward};
}

}  // namespace

OpDef reduce_mean_op() {
  return reduce_op("ReduceMean");
}
OpDef reduce_sum_op() {
  return reduce_op("ReduceSum");
}

}  // namespace tempo
