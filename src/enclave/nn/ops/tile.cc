#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"

namespace tempo {
namespace {

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  Shape out = context.inputs[0];
  const auto repeats = constant_ints(context, 1);
  if (!repeats || repeats->size() != out.size()) {
    return shape_error(context.node, "Tile's repeats do not fit its input",
                       std::to_string(out.size()) + " numbers",
                       repeats ? shape_to_string(*repeats) : "none");
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if ((*repeats)[i] < 1 || (*repeats)[i] > kMaxTensorElements / out[i]) {
      return shape_error(context.node, "Tile's repeats make no sense",
                         "from 1 to " + std::to_string(kMaxTensorElements / out[i]),
                         std::to_string((*repeats)[i]));
    }
    out[i] *= (*repeats)[i];
  }
  return std::vector<Shape>{out};
}

// Copy j of element i lies at i . own + j . copies.
struct Copies {
  Shape repeats, own, copies;

  explicit Copies(const OpContext& context)
      : own(activation_strides(context.out_shape(0), context.out_block(0))), copies(own) {
    const Shape& in = context.in_shape(0);
    for (std::size_t i = 0; i < in.size(); ++i) {
      repeats.push_back(context.out_shape(0)[i] / in[i]);
      copies[i] *= in[i];
    }
  }
};

void forward(OpContext& context) {
  const Copies c(context);
  Shape dims = c.repeats, to = c.copies, from(dims.size(), 0);
  const Shape& in = context.in_shape(0);
  const Shape in_strides = activation_strides(in, context.in_block(0));
  dims.insert(dims.end(), in.begin(), in.end());
  to.insert(to.end(), c.own.begin(), c.own.end());
  from.insert(from.end(), in_strides.begin(), in_strides.end());
  copy_part(context.pool, type_of_first(context.graph, context.node), dims, context.in[0],
            {0, from}, context.out[0], {0, to});
}

void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Copies c(context);
  const Shape& in = context.in_shape(0);
  sum_parts(context.pool, in, context.d_out[0], c.own, c.repeats, c.copies, context.d_in[0],
            activation_strides(in, context.in_block(0)), context.accumulate[0], 1);
}

}  // namespace

OpDef tile_op() {
  return {.type = "Tile",
          .min_opset = 6,
          .notes = "by constants, which may depend on the batch size",
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .flops_an_element = 0};
}

}  // namespace tempo
