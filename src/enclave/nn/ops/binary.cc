// Operators of two operands, element by element with broadcasting: y = f(a, b). Add has a file of
// its own: most networks are full of it.
#include <algorithm>
#include <cmath>
#include <concepts>
#include <vector>

#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/broadcast.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// A map has value(a, b) and its slopes by a and by b; one that takes integers as well has
// value(a, b) of those. kDivides: an integer b must not be 0.
template <class Map>
concept TakesIntegers = requires(std::int64_t a) {
  { Map::value(a, a) } -> std::same_as<std::int64_t>;
};
template <class Map>
concept Divides = requires {
  Map::kDivides;
};

struct DivMap {
  static constexpr bool kDivides = true;
  static float value(float a, float b) { return a / b; }
  static std::int64_t value(std::int64_t a, std::int64_t b) {
    return b == -1 ? wrapping_subtract(0, a) : a / b;
  }
  static float slope_a(float, float b) { return 1 / b; }
  static float slope_b(float a, float b) { return -a / (b * b); }
};

// Where both are equal, each gets half of the gradient, as in PyTorch.
struct MaxMap {
  static float value(float a, float b) { return a > b || std::isnan(a) ? a : b; }
  static std::int64_t value(std::int64_t a, std::int64_t b) { return std::max(a, b); }
  static float slope_a(float a, float b) { return a > b ? 1.0F : a == b ? 0.5F : 0.0F; }
  static float slope_b(float a, float b) { return slope_a(b, a); }
};

struct MinMap {
  static float value(float a, float b) { return a < b || std::isnan(a) ? a : b; }
  static std::int64_t value(std::int64_t a, std::int64_t b) { return std::min(a, b); }
  static float slope_a(float a, float b) { return MaxMap::slope_a(b, a); }
  static float slope_b(float a, float b) { return MaxMap::slope_a(a, b); }
};

// The remainder with the sign of a (fmod = 1).
struct FmodMap {
  static constexpr bool kDivides = true;
  static float value(float a, float b) { return std::fmod(a, b); }
  static std::int64_t value(std::int64_t a, std::int64_t b) { return b == -1 ? 0 : a % b; }
  static float slope_a(float, float) { return 1; }
  static float slope_b(float a, float b) { return -std::trunc(a / b); }
};

// The remainder with the sign of b, of integers alone.
struct ModMap {
  static constexpr bool kDivides = true;
  static std::int64_t value(std::int64_t a, std::int64_t b) {
    const std::int64_t rest = FmodMap::value(a, b);
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
  }
};

struct MulMap {
  static float value(float a, float b) { return a * b; }
  static std::int64_t value(std::int64_t a, std::int64_t b) { return wrapping_multiply(a, b); }
  static float slope_a(float, float b) { return b; }
  static float slope_b(float a, float) { return a; }
};

struct PowMap {
  static float value(float a, float b) { return b == 2 ? a * a : std::pow(a, b); }
  static std::int64_t value(std::int64_t a, std::int64_t b) {
    if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : 0;  // towards 0
    std::int64_t power = 1;
    for (; b > 0; b /= 2, a = wrapping_multiply(a, a)) {
      if (b % 2 != 0) power = wrapping_multiply(power, a);
    }
    return power;
  }
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
  static std::int64_t value(std::int64_t a, std::int64_t b) { return wrapping_subtract(a, b); }
  static float slope_a(float, float) { return 1; }
  static float slope_b(float, float) { return -1; }
};

bool has_zero_divisor(OpContext& context) {
  const std::int64_t* divisors = OpContext::ints(context.in[1]);
  const std::int64_t* end = divisors + element_count(context.in_shape(1));
  if (std::find(divisors, end, 0) == end) return false;
  context.status = Error{.code = ErrorCode::kBadData,
                         .what = "an integer is divided by 0",
                         .where = context.node.name};
  return true;
}

template <class Map>
void integer_forward(OpContext& context) {
  if constexpr (Divides<Map>) {
    if (has_zero_divisor(context)) return;
  }
  map_pairs<std::int64_t>(context, [](std::int64_t a, std::int64_t b) { return Map::value(a, b); });
}

template <class Map>
void forward(OpContext& context) {
  if constexpr (TakesIntegers<Map>) {
    if (type_of_first(context.graph, context.node) == DataType::kInt64) {
      integer_forward<Map>(context);
      return;
    }
  }
  map_pairs<float>(context, [](float a, float b) { return Map::value(a, b); });
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

template <class Map>
std::string unsupported(const Graph& graph, const Node& node) {
  const std::string reason = unsupported_pair(graph, node);
  if (!reason.empty() || TakesIntegers<Map>) return reason;
  return type_of_first(graph, node) == DataType::kFloat32 ? "" : "only float32 operands";
}

// Which remainder an attribute says; one of floats is the first alone.
bool is_fmod(const Node& node) {
  return node.int_or("fmod", 0) != 0;
}

std::string unsupported_mod(const Graph& graph, const Node& node) {
  const std::string reason = unsupported_pair(graph, node);
  if (!reason.empty() || is_fmod(node)) return reason;
  return type_of_first(graph, node) == DataType::kInt64 ? "" : "of float32 only with fmod = 1";
}

void mod_forward(OpContext& context) {
  if (is_fmod(context.node)) {
    forward<FmodMap>(context);
  } else {
    integer_forward<ModMap>(context);
  }
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
OpDef binary_op(std::string_view type, int min_opset = 6) {
  return {.type = type,
          .min_opset = min_opset,
          .notes = "with broadcasting",
          .unsupported = unsupported<Map>,
          .output_type = type_of_first,
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
  return binary_op<MaxMap>("Max");
}
OpDef min_op() {
  return binary_op<MinMap>("Min");
}
OpDef mod_op() {
  OpDef op = binary_op<FmodMap>("Mod", 10);
  op.notes = "with broadcasting; of float32 with fmod = 1";
  op.unsupported = unsupported_mod;
  op.forward = mod_forward;
  return op;
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
