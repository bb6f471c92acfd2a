#include <algorithm>

#include "enclave/nn/ops/onnx_ordered.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  if (context.inputs[0].size() < 2) {
    return shape_error(context.node, "Trilu needs matrices", "rank 2 or more",
                       shape_to_string(context.inputs[0]));
  }
  return std::vector<Shape>{context.inputs[0]};
}

// Which columns of a row stay: those from `diagonal` + row on (upper), or those up to it (lower).
struct Triangle {
  std::int64_t rows, columns, diagonal = 0;
  bool upper;

  explicit Triangle(const OpContext& context)
      : rows(context.in_shape(0)[context.in_shape(0).size() - 2]),
        columns(context.in_shape(0).back()),
        upper(context.node.int_or("upper", 1) != 0) {
    const auto k = constant_ints(context.shape_context(), 1);
    if (k && !k->empty()) diagonal = std::clamp((*k)[0], -rows, columns);
  }

  std::int64_t first(std::int64_t row) const {
    return upper ? std::clamp<std::int64_t>(row + diagonal, 0, columns) : 0;
  }
  std::int64_t last(std::int64_t row) const {
    return upper ? columns : std::clamp<std::int64_t>(row + diagonal + 1, 0, columns);
  }
};

template <class T>
void keep(OpContext& context, const T* from, T* to, bool accumulate) {
  const Triangle triangle(context);
  const std::int64_t columns = triangle.columns;
  context.pool.parallel_for(
      element_count(context.in_shape(0)) / columns, grain_for(columns),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          const std::int64_t row = r % triangle.rows;
          const std::int64_t first = triangle.first(row), last = triangle.last(row);
          for (std::int64_t c = 0; c < columns; ++c) {
            const T kept = c >= first && c < last ? from[r * columns + c] : T{0};
            to[r * columns + c] = accumulate ? to[r * columns + c] + kept : kept;
          }
        }
      });
}

void forward(OpContext& context) {
  if (type_of_first(context.graph, context.node) == DataType::kInt64) {
    keep(context, OpContext::ints(context.in[0]), OpContext::ints(context.out[0]), false);
    return;
  }
  const Shape& shape = context.in_shape(0);
  const OnnxOrdered x(context.pool, shape, context.in_block(0), context.in[0]);
  OnnxOrderedResult y(context.pool, shape, context.out_block(0), context.out[0], false);
  keep(context, x.data(), y.data(), false);
  y.finish();
}

void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Shape& shape = context.in_shape(0);
  const OnnxOrdered dy(context.pool, shape, context.out_block(0), context.d_out[0]);
  OnnxOrderedResult dx(context.pool, shape, context.in_block(0), context.d_in[0],
                       context.accumulate[0]);
  keep(context, dy.data(), dx.data(), dx.accumulates());
  dx.finish();
}

}  // namespace

OpDef trilu_op() {
  return {.type = "Trilu",
          .min_opset = 14,
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .flops_an_element = 0};
}

}  // namespace tempo
