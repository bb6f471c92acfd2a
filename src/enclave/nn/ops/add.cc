#include <algorithm>

#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/broadcast.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

void forward(OpContext& context) {
  if (type_of_first(context.graph, context.node) == DataType::kInt64) {
    map_pairs<std::int64_t>(context, wrapping_add);
    return;
  }
  const BroadcastWalk walk(context);
  float* out = context.out[0];
  const float* a = context.in[0];
  const float* b = context.in[1];
  if (walk.is_whole(0) && walk.is_whole(1)) {
    for_elements(context.pool, walk.elements(), [&](std::int64_t begin, std::int64_t count) {
      kernels::add(a + begin, b + begin, out + begin, count, context.fused_relu);
    });
    return;
  }
  const std::int64_t width = walk.width();
  const std::int64_t sa = walk.inner_stride(0), sb = walk.inner_stride(1);
  context.pool.parallel_for(
      walk.row_count(), grain_for(width), [&](std::int64_t begin, std::int64_t end) {
        walk.rows(begin, end, [&](std::int64_t to, std::int64_t from_a, std::int64_t from_b) {
          if (sa == 1 && sb == 1) {
            kernels::add(a + from_a, b + from_b, out + to, width, context.fused_relu);
            return;
          }
          for (std::int64_t i = 0; i < width; ++i) {
            out[to + i] = a[from_a + i * sa] + b[from_b + i * sb];
          }
          if (context.fused_relu) kernels::relu(out + to, out + to, width);
        });
      });
}

// d_out, masked where the Relu was shut.
struct OutputGradient {
  const float* d_out;
  const float* out;  // null without a fused Relu

  void give(std::int64_t begin, std::int64_t count, float* to, bool accumulate) const {
    if (out != nullptr) {
      kernels::relu_backward(out + begin, d_out + begin, to, count, accumulate);
    } else {
      kernels::copy(d_out + begin, to, count, accumulate);
    }
  }
};

void backward_whole(OpContext& context, const OutputGradient& gradient, std::size_t side,
                    std::int64_t elements) {
  for_elements(context.pool, elements, [&](std::int64_t begin, std::int64_t count) {
    gradient.give(begin, count, context.d_in[side] + begin, context.accumulate[side]);
  });
}

// Sums over rows for an operand that is one row, such as a bias, where nothing is masked.
void backward_row(OpContext& context, const BroadcastWalk& walk, std::size_t side) {
  const FeatureView view{.positions = walk.row_count(), .width = walk.width()};
  const auto add_rows = [&](const RowRun& run, double* to) {
    kernels::column_sums(context.d_out[0] + run.offset, run.rows, run.width, to);
  };
  store_sums(reduce_rows(context.pool, view, 1, add_rows), context.d_in[side],
             context.accumulate[side]);
}

void backward_sums(OpContext& context, const OutputGradient& gradient, const BroadcastWalk& walk,
                   std::size_t side) {
  sum_broadcast(context, walk, side, [&](std::int64_t begin, std::int64_t end, const auto& body) {
    std::vector<float> row(static_cast<std::size_t>(walk.width()));
    walk.rows(begin, end, [&](std::int64_t from, std::int64_t at_a, std::int64_t at_b) {
      gradient.give(from, walk.width(), row.data(), false);
      body(side == 0 ? at_a : at_b, row.data());
    });
  });
}

void backward(OpContext& context) {
  const BroadcastWalk walk(context);
  const OutputGradient gradient{context.d_out[0], context.fused_relu ? context.out[0] : nullptr};
  // An operand whose gradient lies where d_out lies goes last.
  for (const bool in_place : {false, true}) {
    for (std::size_t side = 0; side < 2; ++side) {
      float* d_in = context.d_in[side];
      if (d_in == nullptr || (d_in == context.d_out[0]) != in_place) continue;
      if (walk.is_whole(side)) {
        backward_whole(context, gradient, side, walk.elements());
      } else if (walk.is_row(side) && gradient.out == nullptr) {
        backward_row(context, walk, side);
      } else {
        backward_sums(context, gradient, walk, side);
      }
    }
  }
}

}  // namespace

OpDef add_op() {
  return {.type = "Add",
          .min_opset = 6,
          .notes = "with broadcasting",
          .unsupported = unsupported_pair,
          .output_type = type_of_first,
          .infer = broadcast_shape,
          .forward = forward,
          .backward = backward,
          .blocking = Blocking::kSame,
          .in_place_inputs = 2,
          .relu_fusion = ReluFusion::kReadsOutput};
}

}  // namespace tempo
