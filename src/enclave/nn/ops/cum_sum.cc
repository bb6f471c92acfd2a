// CumSum: running sums along an axis.
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"
#include "enclave/nn/ops/strided_loop.h"

namespace tempo {
namespace {

Result<std::size_t> axis_of(const ShapeContext& context) {
  const auto axis = constant_ints(context, 1);
  if (!axis || axis->size() != 1) {
    return shape_error(context.node, "CumSum's axis is not one number", "input 1");
  }
  return checked_axis(context.node, axis->front(), context.inputs[0].size());
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const auto axis = axis_of(context);
  if (!axis) return axis.error();
  return std::vector<Shape>{context.inputs[0]};
}

// A tensor of the input's shape.
template <class T>
struct Operand {
  T* data;
  int block;
};

// Runs along every lane, `backwards` from its end. Sums are of type Sum.
template <class Sum, class T>
void sum_lanes(OpContext& context, Operand<const T> from, Operand<T> to, bool backwards,
               bool accumulate) {
  const Shape& shape = context.in_shape(0);
  const std::size_t axis = *axis_of(context.shape_context());
  const bool excludes_own = context.node.int_or("exclusive", 0) != 0;
  const Shape to_strides = activation_strides(shape, to.block);
  const Shape from_strides = activation_strides(shape, from.block);
  const std::int64_t length = shape[axis];
  Shape lanes = shape;
  lanes[axis] = 1;
  const StridedLoop<2> loop(lanes, {to_strides, from_strides});
  loop.parallel_rows(context.pool, [&](const auto& at) {
    const auto& [size, strides] = loop.inner();
    for (std::int64_t i = 0; i < size; ++i) {
      const T* x = from.data + at[1] + i * strides[1];
      T* y = to.data + at[0] + i * strides[0];
      Sum sum = 0;
      for (std::int64_t k = 0; k < length; ++k) {
        const std::int64_t index = backwards ? length - 1 - k : k;
        const Sum next = sum + static_cast<Sum>(x[index * from_strides[axis]]);
        const auto value = static_cast<T>(excludes_own ? sum : next);
        T& target = y[index * to_strides[axis]];
        target = accumulate ? target + value : value;
        sum = next;
      }
    }
  });
}

bool is_reverse(const OpContext& context) {
  return context.node.int_or("reverse", 0) != 0;
}

void forward(OpContext& context) {
  const int from = context.in_block(0), to = context.out_block(0);
  if (type_of_first(context.graph, context.node) == DataType::kFloat32) {
    sum_lanes<double, float>(context, {context.in[0], from}, {context.out[0], to},
                             is_reverse(context), false);
  } else {  // wraps around
    sum_lanes<std::uint64_t, std::int64_t>(context, {OpContext::ints(context.in[0]), from},
                                           {OpContext::ints(context.out[0]), to},
                                           is_reverse(context), false);
  }
}

// An element is part of the sums from its own place on: the same from the other end.
void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  sum_lanes<double, float>(context, {context.d_out[0], context.out_block(0)},
                           {context.d_in[0], context.in_block(0)}, !is_reverse(context),
                           context.accumulate[0]);
}

}  // namespace

OpDef cum_sum_op() {
  return {.type = "CumSum",
          .min_opset = 11,
          .notes = "along a constant axis",
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer,
          .forward = forward,
          .backward = backward};
}

}  // namespace tempo
