// ArgMax and ArgMin: where along an axis the largest or smallest element is.
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"
#include "enclave/nn/ops/strided_loop.h"

namespace tempo {
namespace {

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  Shape out = context.inputs[0];
  const auto axis = checked_axis(context.node, context.node.int_or("axis", 0), out.size());
  if (!axis) return axis.error();
  out[*axis] = 1;
  if (context.node.int_or("keepdims", 1) == 0) {
    out.erase(out.begin() + static_cast<std::ptrdiff_t>(*axis));
  }
  return std::vector<Shape>{out};
}

template <class T>
void find_extremes(OpContext& context) {
  const Shape& in = context.in_shape(0);
  const std::size_t axis = *checked_axis(context.node, context.node.int_or("axis", 0), in.size());
  const std::int64_t length = in[axis];
  const bool wants_last = context.node.int_or("select_last_index", 0) != 0;
  const bool wants_largest = context.node.op_type == "ArgMax";
  const auto wins = [=](T x, T best) {
    return (wants_largest ? x > best : x < best) || (wants_last && x == best);
  };
  Shape lanes = in, from = activation_strides(in, context.in_block(0));
  const std::int64_t step = from[axis];
  lanes[axis] = 1;
  const StridedLoop<2> loop(lanes, {onnx_strides(lanes), from});
  std::int64_t* y = OpContext::ints(context.out[0]);
  loop.parallel_rows(context.pool, [&](const auto& at) {
    const auto& [size, strides] = loop.inner();
    for (std::int64_t i = 0; i < size; ++i) {
      const T* x = OpContext::elements<T>(context.in[0]) + at[1] + i * strides[1];
      std::int64_t best = 0;
      for (std::int64_t k = 1; k < length; ++k) {
        if (wins(x[k * step], x[best * step])) best = k;
      }
      y[at[0] + i * strides[0]] = best;
    }
  });
}

void forward(OpContext& context) {
  if (type_of_first(context.graph, context.node) == DataType::kFloat32) {
    find_extremes<float>(context);
  } else {
    find_extremes<std::int64_t>(context);
  }
}

OpDef arg_op(std::string_view type) {
  return {.type = type,
          .notes = "no gradient",
          .unsupported = unsupported_storage,
          .output_type = integer_type,
          .infer = infer,
          .forward = forward};
}

}  // namespace

OpDef arg_max_op() {
  return arg_op("ArgMax");
}
OpDef arg_min_op() {
  return arg_op("ArgMin");
}

}  // namespace tempo
