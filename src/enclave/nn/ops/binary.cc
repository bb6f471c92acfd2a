// Operators of two operands, element by element with broadcasting: y = f(a, b). Add has a file of
// its own: most networks are full of it.
#include <cmath>
#include <vector>

#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/broadcast.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// A map has value(a, b) and its slopes by a and by b.

struct DivMap {
  static float value(float a, float b) { return a / b; }
  static float slope_a(float, float b) { return 1 / b; }
  static float slope_b(float a, float b) { return -a / (b * b); }
};

// Where both are equal, each gets half of the gradient, as in PyTorch.
struct MaxMap {
  static float value(float a, float b) { return a > b || std::isnan(a) ? a : b; }
  static float slope_a(float a, float b) { return a > b ? 1.0F : a == b ? 0.5F : 0.0F; }
  static float slope_b(float a, float b) { return slope_a(b, a); }
};

struct MinMap {
  static float value(float a, float b) { return a < b || std::isnan(a) ? a : b; }
  static float slope_a(float a, float b) { return MaxMap::slope_a(b, a); }
  static float slope_b(float a, float b) { return MaxMap::slope_a(a, b); }
};

struct MulMap {
  static float value(float a, float b) { return a * b; }
  static float slope_a(float, float b) { return b; }
  static float slope_b(float a, float) { return a; }
};

struct PowMap {
  static float value(float a, float b) { return b == 2 ? a * a : std::pow(a, b); }
  static float slope_a(float a, float b) {
    if (b == 0) return 0;
    return b == 2 ? 2 * a : b * std::pow(a, b - 1);
  }
  static float slope_b(float a, float b) {
    return a == 0 && b >= 0 ? 0.0F : std::pow(a, b) * std::log(a);
  }
};

// b is the slope. At 0 as in PyTorch.
struct PReluMap {
  static float value(float a, float b) { return a < 0 ? a * b : a; }
  static float slope_a(float a, float b) { return a > 0 ? 1.0F : b; }
  static float slope_b(float a, float) { return a > 0 ? 0.0F : a; }
};

struct SubMap {
  static float value(float a, float b) { return a - b; }
  static float slope_a(float, float) { return 1; }
  static float slope_b(float, float) { return -1; }
};

template <class Map>
void forward(OpContext& context) {
  const BroadcastWalk walk(context);
  const float* a = context.in[0];
  const float* b = context.in[1];
  float* out = context.out[0];
  const std::int64_t width = walk.width();
  const std::int64_t sa = walk.inner_stride(0), sb = walk.inner_stride(1);
  context.pool.parallel_for(
      walk.row_count(), grain_for(width), [&](std::int64_t begin, std::int64_t end) {
        walk.rows(begin, end, [&](std::int64_t to, std::int64_t at_a, std::int64_t at_b) {
          for (std::int64_t i = 0; i < width; ++i) {
            out[to + i] = Map::value(a[at_a + i * sa], b[at_b + i * sb]);
          }
        });
      });
}

// The gradient of one operand, before it is summed over what was broadcast.
template <class Map>
class OperandGradient {
 public:
  OperandGradient(const OpContext& context, const BroadcastWalk& walk, std::size_t side)
      : a_(context.in[0]), b_(context.in[1]), d_out_(context.d_out[0]), walk_(walk), side_(side) {}

  // Calls body(offset of the row in the operand, its gradient) for the rows in [begin, end).
  template <class Body>
  void rows(std::int64_t begin, std::int64_t end, const Body& body) const {
    const std::int64_t width = walk_.width();
    const std::int64_t sa = walk_.inner_stride(0), sb = walk_.inner_stride(1);
    std::vector<float> row(static_cast<std::size_t>(width));
    walk_.rows(begin, end, [&](std::int64_t from, std::int64_t at_a, std::int64_t at_b) {
      for (std::int64_t i = 0; i < width; ++i) {
        const float a = a_[at_a + i * sa], b = b_[at_b + i * sb];
        row[static_cast<std::size_t>(i)] =
            d_out_[from + i] * (side_ == 0 ? Map::slope_a(a, b) : Map::slope_b(a, b));
      }
      body(side_ == 0 ? at_a : at_b, row.data());
    });
  }

 private:
  const float* a_;
  const float* b_;
  const float* d_out_;
  const BroadcastWalk& walk_;
  std::size_t side_;
};

template <class Map>
void backward_side(OpContext& context, const BroadcastWalk& walk, std::size_t side) {
  const OperandGradient<Map> gradient(context, walk, side);
  const std::int64_t width = walk.width();
  float* d_in = context.d_in[side];
  const bool accumulate = context.accumulate[side];
  if (walk.is_whole(side)) {
    context.pool.parallel_for(walk.row_count(), grain_for(width),
                              [&](std::int64_t begin, std::int64_t end) {
                                gradient.rows(begin, end, [&](std::int64_t to, const float* row) {
                                  kernels::copy(row, d_in + to, width, accumulate);
                                });
                              });
    return;
  }
  sum_broadcast(context, walk, side, [&](std::int64_t begin, std::int64_t end, const auto& body) {
    gradient.rows(begin, end, body);
  });
}

template <class Map>
void backward(OpContext& context) {
  const BroadcastWalk walk(context);
  // An operand whose gradient lies where d_out lies goes last.
  for (const bool in_place : {false, true}) {
    for (std::size_t side = 0; side < 2; ++side) {
      float* d_in = context.d_in[side];
      if (d_in == nullptr || (d_in == context.d_out[0]) != in_place) continue;
      backward_side<Map>(context, walk, side);
    }
  }
}

std::string unsupported(const Graph& graph, const Node& node) {
  if (node.inputs.size() != 2) return "only two operands";  // import splits longer lists
  const Tensor* a = input_tensor(graph, node, 0);
  const Tensor* b = input_tensor(graph, node, 1);
  for (const Tensor* tensor : {a, b}) {
    if (tensor == nullptr || tensor->type != DataType::kFloat32) return "only float32 operands";
    if (tensor->storage != Storage::kOnnx) return "a weight must not be its operand as well";
  }
  return "";
}

// The slope broadcasts to the input, not the other way round.
Result<std::vector<Shape>> infer_p_relu(const ShapeContext& context) {
  Result<std::vector<Shape>> shapes = broadcast_shape(context);
  if (shapes && (*shapes)[0] != context.inputs[0]) {
    return shape_error(context.node, "PRelu's slope does not broadcast to its input",
                       shape_to_string(context.inputs[0]), shape_to_string(context.inputs[1]));
  }
  return shapes;
}

template <class Map>
OpDef binary_op(std::string_view type, int min_opset = 7) {
  return {.type = type,
          .min_opset = min_opset,
          .notes = "with broadcasting",
          .unsupported = unsupported,
          .infer = broadcast_shape,
          .forward = forward<Map>,
          .backward = backward<Map>,
          .needs = {.inputs = true},
          .blocking = Blocking::kSame,
          .in_place_inputs = 2};
}

}  // namespace

OpDef div_op() {
  return binary_op<DivMap>("Div");
}
OpDef max_op() {
  return binary_op<MaxMap>("Max", 8);
}
OpDef min_op() {
  return binary_op<MinMap>("Min", 8);
}
OpDef mul_op() {
  return binary_op<MulMap>("Mul");
}
OpDef pow_op() {
  OpDef op = binary_op<PowMap>("Pow");
  op.flops_an_element = kFunctionFlops;
  return op;
}
OpDef p_relu_op() {
  OpDef op = binary_op<PReluMap>("PRelu");
  op.notes = "its slope broadcasts to its input";
  op.infer = infer_p_relu;
  op.in_place_inputs = 1;
  return op;
}
OpDef sub_op() {
  return binary_op<SubMap>("Sub");
}

}  // namespace tempo
