#include <algorithm>
#include <atomic>
#include <vector>

#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/onnx_ordered.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

Result<std::size_t> axis_of(const Node& node, std::size_t rank) {
  return checked_axis(node, node.int_or("axis", 0), rank);
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const Shape& in = context.inputs[0];
  const auto axis = axis_of(context.node, in.size());
  if (!axis) return axis.error();
  if (const auto indices = constant_ints(context, 1)) {
    for (const std::int64_t index : *indices) {
      if (index >= -in[*axis] && index < in[*axis]) continue;
      return shape_error(context.node, "an index of Gather is out of range",
                         "below " + std::to_string(in[*axis]), std::to_string(index));
    }
  }
  Shape out(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(*axis));
  out.insert(out.end(), context.inputs[1].begin(), context.inputs[1].end());
  out.insert(out.end(), in.begin() + static_cast<std::ptrdiff_t>(*axis) + 1, in.end());
  return std::vector<Shape>{out};
}

// The data is outer x size x inner, the result outer x count x inner.
struct Rows {
  std::int64_t outer = 1, size = 1, inner = 1, count = 1;

  explicit Rows(const OpContext& context) : count(element_count(context.in_shape(1))) {
    const Shape& in = context.in_shape(0);
    const std::size_t axis = *axis_of(context.node, in.size());
    for (std::size_t i = 0; i < in.size(); ++i) {
      (i < axis ? outer : i == axis ? size : inner) *= in[i];
    }
  }
  // Of an index that forward has checked.
  std::int64_t source(std::int64_t index) const { return index < 0 ? index + size : index; }
};

template <class T>
void gather_rows(OpContext& context, const Rows& rows, const T* from, T* to) {
  const std::int64_t* indices = OpContext::ints(context.in[1]);
  context.pool.parallel_for(
      rows.outer * rows.count, grain_for(rows.inner), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          const std::int64_t source = rows.source(indices[r % rows.count]);
          const T* row = from + (r / rows.count * rows.size + source) * rows.inner;
          std::copy_n(row, rows.inner, to + r * rows.inner);
        }
      });
}

bool check_indices(OpContext& context, const Rows& rows) {
  const std::int64_t* indices = OpContext::ints(context.in[1]);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    if (indices[i] >= -rows.size && indices[i] < rows.size) continue;
    context.status = index_error(context.node, rows.size, indices[i]);
    return false;
  }
  return true;
}

void forward(OpContext& context) {
  const Rows rows(context);
  if (!check_indices(context, rows)) return;
  if (type_of_first(context.graph, context.node) == DataType::kInt64) {
    gather_rows(context, rows, OpContext::ints(context.in[0]), OpContext::ints(context.out[0]));
    return;
  }
  const OnnxOrdered x(context.pool, context.in_shape(0), context.in_block(0), context.in[0]);
  OnnxOrderedResult y(context.pool, context.out_shape(0), context.out_block(0), context.out[0],
                      false);
  gather_rows(context, rows, x.data(), y.data());
  y.finish();
}

// Each row of the data gets the sum of the rows that were copied from it, in their order.
void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Rows rows(context);
  const std::int64_t* indices = OpContext::ints(context.in[1]);
  const OnnxOrdered dy(context.pool, context.out_shape(0), context.out_block(0), context.d_out[0]);
  OnnxOrderedResult dx(context.pool, context.in_shape(0), context.in_block(0), context.d_in[0],
                       context.accumulate[0]);
  if (!dx.accumulates()) {
    for_elements(context.pool, element_count(context.in_shape(0)),
                 [&](std::int64_t begin, std::int64_t count) {
                   std::fill_n(dx.data() + begin, count, 0.0F);
                 });
  }
  // Columns are cut among threads, so that no two of them add to one element.
  const std::int64_t total = rows.outer * rows.inner;
  context.pool.parallel_for(
      total, grain_for(rows.count), [&](std::int64_t begin, std::int64_t end) {
        while (begin < end) {
          const std::int64_t outer = begin / rows.inner, column = begin % rows.inner;
          const std::int64_t width = std::min(rows.inner - column, end - begin);
          for (std::int64_t k = 0; k < rows.count; ++k) {
            const float* from = dy.data() + (outer * rows.count + k) * rows.inner + column;
            const std::int64_t row = outer * rows.size + rows.source(indices[k]);
            kernels::add_scaled(from, 1, dx.data() + row * rows.inner + column, width);
          }
          begin += width;
        }
      });
  dx.finish();
}

}  // namespace

OpDef gather_op() {
  return {.type = "Gather",
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .needs = {.inputs = true},
          .flops_an_element = 0};
}

}  // namespace tempo
