// Softmax, LogSoftmax and Hardmax, over one axis or over all from one on.
#include <algorithm>
#include <cmath>

#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// Before opset 13, everything from `axis` on is one distribution; since then, `axis` alone.
bool flattens(const Node& node) {
  return node.opset < 13;
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const auto rank = static_cast<std::int64_t>(context.inputs[0].size());
  const std::int64_t axis = context.node.int_or("axis", flattens(context.node) ? 1 : -1);
  if (rank == 0 || axis < -rank || axis >= rank) {
    return shape_error(context.node, context.node.op_type + "'s axis is out of range",
                       "from " + std::to_string(-rank) + " to " + std::to_string(rank - 1),
                       std::to_string(axis));
  }
  return std::vector<Shape>{context.inputs[0]};
}

// Memory is outer x length x inner; each distribution runs over `length`.
struct Lanes {
  std::int64_t outer = 1, length = 1, inner = 1;
};

Lanes lanes_of(const OpContext& context) {
  const Shape& shape = context.in_shape(0);
  const auto rank = static_cast<std::int64_t>(shape.size());
  std::int64_t axis = context.node.int_or("axis", flattens(context.node) ? 1 : -1);
  if (axis < 0) axis += rank;
  std::vector<std::size_t> memory(shape.size());  // logical dimension of each memory dimension
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = i;
  if (!is_onnx_order(shape, context.in_block(0))) memory = {0, 2, 3, 1};
  Lanes lanes;
  bool inside = false;  // the dimensions of a distribution are neighbours in memory
  for (const std::size_t dim : memory) {
    const auto logical = static_cast<std::int64_t>(dim);
    if (logical == axis || (flattens(context.node) && logical > axis)) {
      lanes.length *= shape[dim];
      inside = true;
    } else if (inside) {
      lanes.inner *= shape[dim];
    } else {
      lanes.outer *= shape[dim];
    }
  }
  return lanes;
}

// Calls body(offset of the first element) for each distribution.
template <class Body>
void for_lanes(ThreadPool& pool, const Lanes& lanes, const Body& body) {
  pool.parallel_for(lanes.outer * lanes.inner, grain_for(lanes.length * 8),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t lane = begin; lane < end; ++lane) {
                        body(lane / lanes.inner * lanes.length * lanes.inner + lane % lanes.inner);
                      }
                    });
}

float largest_of(const float* x, const Lanes& lanes) {
  float largest = x[0];
  for (std::int64_t i = 1; i < lanes.length; ++i) largest = std::max(largest, x[i * lanes.inner]);
  return largest;
}

void forward(OpContext& context) {
  const Lanes lanes = lanes_of(context);
  for_lanes(context.pool, lanes, [&](std::int64_t offset) {
    const float* x = context.in[0] + offset;
    float* y = context.out[0] + offset;
    const float largest = largest_of(x, lanes);
    double sum = 0;
    for (std::int64_t i = 0; i < lanes.length; ++i) {
      const float e = std::exp(x[i * lanes.inner] - largest);
      y[i * lanes.inner] = e;
      sum += static_cast<double>(e);
    }
    const auto scale = static_cast<float>(1 / sum);
    for (std::int64_t i = 0; i < lanes.length; ++i) y[i * lanes.inner] *= scale;
  });
}

// dx = y * (dy - sum of dy * y).
void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Lanes lanes = lanes_of(context);
  const bool accumulate = context.accumulate[0];
  for_lanes(context.pool, lanes, [&](std::int64_t offset) {
    const float* y = context.out[0] + offset;
    const float* dy = context.d_out[0] + offset;
    float* dx = context.d_in[0] + offset;
    double sum = 0;
    for (std::int64_t i = 0; i < lanes.length; ++i) {
      sum += static_cast<double>(y[i * lanes.inner]) * static_cast<double>(dy[i * lanes.inner]);
    }
    const auto mean = static_cast<float>(sum);
    for (std::int64_t i = 0; i < lanes.length; ++i) {
      const float share = y[i * lanes.inner] * (dy[i * lanes.inner] - mean);
      dx[i * lanes.inner] = accumulate ? dx[i * lanes.inner] + share : share;
    }
  });
}

// y = x - largest - log of the sum of exp(x - largest).
void log_forward(OpContext& context) {
  const Lanes lanes = lanes_of(context);
  for_lanes(context.pool, lanes, [&](std::int64_t offset) {
    const float* x = context.in[0] + offset;
    float* y = context.out[0] + offset;
    const float largest = largest_of(x, lanes);
    double sum = 0;
    for (std::int64_t i = 0; i < lanes.length; ++i) {
      sum += static_cast<double>(std::exp(x[i * lanes.inner] - largest));
    }
    const auto log_sum = static_cast<float>(std::log(sum));
    for (std::int64_t i = 0; i < lanes.length; ++i) {
      y[i * lanes.inner] = x[i * lanes.inner] - largest - log_sum;
    }
  });
}

// dx = dy - exp(y) * sum of dy.
void log_backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Lanes lanes = lanes_of(context);
  const bool accumulate = context.accumulate[0];
  for_lanes(context.pool, lanes, [&](std::int64_t offset) {
    const float* y = context.out[0] + offset;
    const float* dy = context.d_out[0] + offset;
    float* dx = context.d_in[0] + offset;
    double sum = 0;
    for (std::int64_t i = 0; i < lanes.length; ++i) sum += static_cast<double>(dy[i * lanes.inner]);
    const auto total = static_cast<float>(sum);
    for (std::int64_t i = 0; i < lanes.length; ++i) {
      const float share = dy[i * lanes.inner] - std::exp(y[i * lanes.inner]) * total;
      dx[i * lanes.inner] = accumulate ? dx[i * lanes.inner] + share : share;
    }
  });
}

// 1 at the first of the largest elements, 0 elsewhere.
void hardmax_forward(OpContext& context) {
  const Lanes lanes = lanes_of(context);
  for_lanes(context.pool, lanes, [&](std::int64_t offset) {
    const float* x = context.in[0] + offset;
    float* y = context.out[0] + offset;
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < lanes.length; ++i) {
      if (x[i * lanes.inner] > x[best * lanes.inner]) best = i;
    }
    for (std::int64_t i = 0; i < lanes.length; ++i) y[i * lanes.inner] = i == best ? 1.0F : 0.0F;
  });
}

}  // namespace

OpDef hardmax_op() {
  return {.type = "Hardmax",
          .notes = "no gradient",
          .infer = infer,
          .forward = hardmax_forward,
          .blocking = Blocking::kPlainSame};
}
OpDef log_softmax_op() {
  OpDef op = softmax_op();
  op.type = "LogSoftmax";
  op.forward = log_forward;
  op.backward = log_backward;
  return op;
}
OpDef softmax_op() {
  return {.type = "Softmax",
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .needs = {.outputs = true},
          .blocking = Blocking::kPlainSame,
          .in_place_inputs = 1,
          .flops_an_element = 4 + kFunctionFlops};
}

}  // namespace tempo
