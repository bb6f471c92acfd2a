#include <algorithm>

#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"

namespace tempo {
namespace {

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  const auto target = constant_ints(context, 1);
  if (!target) return shape_error(context.node, "Expand lacks its target", "input 1");
  Shape out(std::max(in.size(), target->size()), 1);
  for (std::size_t i = 1; i <= out.size(); ++i) {
    const std::int64_t own = i <= in.size() ? in[in.size() - i] : 1;
    const std::int64_t wanted = i <= target->size() ? (*target)[target->size() - i] : 1;
    if (wanted < 1 || (own != wanted && own != 1 && wanted != 1)) {
      return shape_error(context.node, "Expand's target does not fit its input",
                         shape_to_string(in), shape_to_string(*target));
    }
    out[out.size() - i] = std::max(own, wanted);
  }
  return std::vector<Shape>{out};
}

Shape repeating_strides(const OpContext& context) {
  return broadcast_strides(context.in_shape(0), context.in_block(0), context.out_shape(0).size());
}

void forward(OpContext& context) {
  const Shape& out = context.out_shape(0);
  copy_part(context.pool, type_of_first(context.graph, context.node), out, context.in[0],
            {0, repeating_strides(context)}, context.out[0],
            {0, activation_strides(out, context.out_block(0))});
}

// Sums over what was repeated: for each element of the input, all places that it went to.
void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Shape& out = context.out_shape(0);
  const Shape in_strides = repeating_strides(context);
  const Shape out_strides = activation_strides(out, context.out_block(0));
  Shape kept, kept_in, kept_out, repeated, repeated_out;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (in_strides[i] == 0) {
      repeated.push_back(out[i]);
      repeated_out.push_back(out_strides[i]);
    } else {
      kept.push_back(out[i]);
      kept_in.push_back(in_strides[i]);
      kept_out.push_back(out_strides[i]);
    }
  }
  sum_parts(context.pool, kept, context.d_out[0], kept_out, repeated, repeated_out, context.d_in[0],
            kept_in, context.accumulate[0], 1);
}

}  // namespace

OpDef expand_op() {
  return {.type = "Expand",
          .min_opset = 8,
          .notes = "to a constant shape, which may contain the batch size",
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .flops_an_element = 0};
}

}  // namespace tempo
