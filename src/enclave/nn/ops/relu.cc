#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

void forward(OpContext& context) {
  for_elements(context.pool, element_count(context.in_shape(0)),
               [&](std::int64_t begin, std::int64_t count) {
                 kernels::relu(context.in[0] + begin, context.out[0] + begin, count);
               });
}

void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  for_elements(context.pool, element_count(context.in_shape(0)),
               [&](std::int64_t begin, std::int64_t count) {
                 kernels::relu_backward(context.out[0] + begin, context.d_out[0] + begin,
                                        context.d_in[0] + begin, count, context.accumulate[0]);
               });
}

}  // namespace

OpDef relu_op() {
  return {.type = "Relu",
          .infer = same_shape,
          .forward = forward,
          .backward = backward,
          .needs = {.outputs = true},
          .blocking = Blocking::kSame,
          .in_place_inputs = 1};
}

}  // namespace tempo
