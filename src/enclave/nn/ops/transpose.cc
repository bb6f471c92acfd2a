#include <algorithm>
#include <numeric>

#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"

namespace tempo {
namespace {

// Dimension i of the result is dimension order[i] of the input.
std::vector<std::int64_t> order_of(const Node& node, std::size_t rank) {
  std::vector<std::int64_t> reversed(rank);
  std::iota(reversed.rbegin(), reversed.rend(), 0);
  return node.ints_or("perm", reversed);
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  const std::vector<std::int64_t> order = order_of(context.node, in.size());
  std::vector<std::int64_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  std::vector<std::int64_t> dims(in.size());
  std::iota(dims.begin(), dims.end(), 0);
  if (sorted != dims) {
    return shape_error(context.node, "Transpose's order is no permutation of the dimensions",
                       "each dimension of " + shape_to_string(in) + " once",
                       shape_to_string(order));
  }
  Shape out;
  for (const std::int64_t dim : order) out.push_back(in[static_cast<std::size_t>(dim)]);
  return std::vector<Shape>{out};
}

// Strides in the input by dimension of the result.
Shape input_strides(const OpContext& context) {
  const Shape own = activation_strides(context.in_shape(0), context.in_block(0));
  Shape strides;
  for (const std::int64_t dim : order_of(context.node, own.size())) {
    strides.push_back(own[static_cast<std::size_t>(dim)]);
  }
  return strides;
}

void forward(OpContext& context) {
  const Shape& out = context.out_shape(0);
  copy_part(context.pool, type_of_first(context.graph, context.node), out, context.in[0],
            {0, input_strides(context)}, context.out[0],
            {0, activation_strides(out, context.out_block(0))});
}

void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Shape& out = context.out_shape(0);
  strided_copy(context.pool, out, context.d_out[0], activation_strides(out, context.out_block(0)),
               context.d_in[0], input_strides(context), context.accumulate[0]);
}

}  // namespace

OpDef transpose_op() {
  return {.type = "Transpose",
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .flops_an_element = 0};
}

}  // namespace tempo
