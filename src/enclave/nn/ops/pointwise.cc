// Operators that map each element on its own: y = f(x), dx = f'(x) dy.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// A map is a struct with value(x) and slope, made from a node once a pass. kReadsOutput: slope is a
// function of y, so that x need not be kept; else of x. Maps whose slope costs as much as their
// value have value_and_slope(x) in its place: forward keeps the slope, and backward needs neither x
// nor y.
struct ValueAndSlope {
  float value, slope;
};
template <class Map>
constexpr bool kKeepsSlope = requires(const Map& map) {
  map.value_and_slope(0.0F);
};
// Maps of integers as well have integer(x).
template <class Map>
constexpr bool kTakesIntegers = requires {
  Map::integer(std::int64_t{});
};

struct AbsMap {
  static constexpr bool kReadsOutput = false;
  explicit AbsMap(const OpContext&) {}
  float value(float x) const { return std::fabs(x); }
  static std::int64_t integer(std::int64_t x) { return x < 0 ? wrapping_subtract(0, x) : x; }
  float slope(float x) const { return x > 0 ? 1.0F : x < 0 ? -1.0F : 0.0F; }
};

struct CeluMap {
  static constexpr bool kReadsOutput = false;
  float alpha;
  explicit CeluMap(const OpContext& context) : alpha(context.node.float_or("alpha", 1.0F)) {}
  float value(float x) const { return x > 0 ? x : alpha * std::expm1(x / alpha); }
  float slope(float x) const { return x > 0 ? 1.0F : std::exp(x / alpha); }
};

struct AcosMap {
  static constexpr bool kReadsOutput = false;
  explicit AcosMap(const OpContext&) {}
  float value(float x) const { return std::acos(x); }
  float slope(float x) const { return -1 / std::sqrt(1 - x * x); }
};

struct AcoshMap {
  static constexpr bool kReadsOutput = false;
  explicit AcoshMap(const OpContext&) {}
  float value(float x) const { return std::acosh(x); }
  float slope(float x) const { return 1 / std::sqrt(x * x - 1); }
};

struct AsinMap {
  static constexpr bool kReadsOutput = false;
  explicit AsinMap(const OpContext&) {}
  float value(float x) const { return std::asin(x); }
  float slope(float x) const { return 1 / std::sqrt(1 - x * x); }
};

struct AsinhMap {
  static constexpr bool kReadsOutput = false;
  explicit AsinhMap(const OpContext&) {}
  float value(float x) const { return std::asinh(x); }
  float slope(float x) const { return 1 / std::sqrt(x * x + 1); }
};

struct AtanMap {
  static constexpr bool kReadsOutput = false;
  explicit AtanMap(const OpContext&) {}
  float value(float x) const { return std::atan(x); }
  float slope(float x) const { return 1 / (1 + x * x); }
};

struct AtanhMap {
  static constexpr bool kReadsOutput = false;
  explicit AtanhMap(const OpContext&) {}
  float value(float x) const { return std::atanh(x); }
  float slope(float x) const { return 1 / (1 - x * x); }
};

// Bounds that are absent do not bind. The slope at a bound is 0, as PyTorch has it for ReLU6.
struct ClipMap {
  static constexpr bool kReadsOutput = false;
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
  explicit ClipMap(const OpContext& context) {
    low = context.node.float_or("min", low);  // attributes until opset 10, inputs since
    high = context.node.float_or("max", high);
    if (context.in.size() > 1 && context.in[1] != nullptr) low = *context.in[1];
    if (context.in.size() > 2 && context.in[2] != nullptr) high = *context.in[2];
  }
  float value(float x) const {
    const float raised = x < low ? low : x;  // keeps NaN
    return raised > high ? high : raised;
  }
  float slope(float x) const { return x > low && x < high ? 1.0F : 0.0F; }
};

struct CosMap {
  static constexpr bool kReadsOutput = false;
  explicit CosMap(const OpContext&) {}
  float value(float x) const { return std::cos(x); }
  float slope(float x) const { return -std::sin(x); }
};

struct CoshMap {
  static constexpr bool kReadsOutput = false;
  explicit CoshMap(const OpContext&) {}
  float value(float x) const { return std::cosh(x); }
  float slope(float x) const { return std::sinh(x); }
};

struct EluMap {
  static constexpr bool kReadsOutput = false;
  float alpha;
  explicit EluMap(const OpContext& context) : alpha(context.node.float_or("alpha", 1.0F)) {}
  float value(float x) const { return x > 0 ? x : alpha * std::expm1(x); }
  float slope(float x) const { return x > 0 ? 1.0F : alpha * std::exp(x); }
};

struct ErfMap {
  static constexpr bool kReadsOutput = false;
  explicit ErfMap(const OpContext&) {}
  float value(float x) const { return std::erf(x); }
  float slope(float x) const { return 2 * std::numbers::inv_sqrtpi_v<float> * std::exp(-x * x); }
};

struct ExpMap {
  static constexpr bool kReadsOutput = true;
  explicit ExpMap(const OpContext&) {}
  float value(float x) const { return std::exp(x); }
  float slope(float y) const { return y; }
};

// Hendrycks and Gimpel: x times the normal distribution function, or its approximation by tanh.
struct GeluMap {
  bool by_tanh;
  explicit GeluMap(const OpContext& context)
      : by_tanh(context.node.string_or("approximate", "none") == "tanh") {}

  static constexpr float kRootTwoOverPi = 0.797884560802865F;
  static constexpr float kCubic = 0.044715F;

  float value(float x) const { return x * gate(x); }
  ValueAndSlope value_and_slope(float x) const {
    const float g = gate(x);
    if (by_tanh) {
      const float inner = kRootTwoOverPi * (1 + 3 * kCubic * x * x);
      return {x * g, g + 2 * x * g * (1 - g) * inner};  // 1 - tanh^2 = 4 g (1 - g)
    }
    const float density = 0.5F * std::numbers::sqrt2_v<float> * std::numbers::inv_sqrtpi_v<float> *
                          std::exp(-0.5F * x * x);
    return {x * g, g + x * density};
  }

 private:
  float gate(float x) const {
    if (by_tanh) return 0.5F * (1 + std::tanh(kRootTwoOverPi * (x + kCubic * x * x * x)));
    return 0.5F * (1 + std::erf(x / std::numbers::sqrt2_v<float>));
  }
};

struct HardSigmoidMap {
  static constexpr bool kReadsOutput = true;
  float alpha;
  float beta;
  explicit HardSigmoidMap(const OpContext& context)
      : alpha(context.node.float_or("alpha", 0.2F)), beta(context.node.float_or("beta", 0.5F)) {}
  float value(float x) const { return std::min(1.0F, std::max(0.0F, alpha * x + beta)); }
  float slope(float y) const { return y > 0 && y < 1 ? alpha : 0.0F; }
};

struct HardSwishMap {
  static constexpr bool kReadsOutput = false;
  explicit HardSwishMap(const OpContext&) {}
  float value(float x) const { return x * std::min(1.0F, std::max(0.0F, x / 6 + 0.5F)); }
  float slope(float x) const { return x <= -3 ? 0.0F : x >= 3 ? 1.0F : x / 3 + 0.5F; }
};

struct LeakyReluMap {
  static constexpr bool kReadsOutput = false;
  float alpha;
  explicit LeakyReluMap(const OpContext& context) : alpha(context.node.float_or("alpha", 0.01F)) {}
  float value(float x) const { return x < 0 ? alpha * x : x; }
  float slope(float x) const { return x > 0 ? 1.0F : alpha; }
};

struct LogMap {
  static constexpr bool kReadsOutput = false;
  explicit LogMap(const OpContext&) {}
  float value(float x) const { return std::log(x); }
  float slope(float x) const { return 1 / x; }
};

float softplus(float x) {
  return std::max(x, 0.0F) + std::log1p(std::exp(-std::fabs(x)));
}

struct MishMap {
  static constexpr bool kReadsOutput = false;
  explicit MishMap(const OpContext&) {}
  float value(float x) const { return x * std::tanh(softplus(x)); }
  float slope(float x) const {
    const float t = std::tanh(softplus(x));
    return t + x * (1 - t * t) / (1 + std::exp(-x));
  }
};

struct NegMap {
  static constexpr bool kReadsOutput = true;  // in fact neither
  explicit NegMap(const OpContext&) {}
  float value(float x) const { return -x; }
  static std::int64_t integer(std::int64_t x) { return wrapping_subtract(0, x); }
  float slope(float) const { return -1; }
};

struct ReciprocalMap {
  static constexpr bool kReadsOutput = true;
  explicit ReciprocalMap(const OpContext&) {}
  float value(float x) const { return 1 / x; }
  float slope(float y) const { return -y * y; }
};

// Selu, Klambauer et al., 2017. The defaults are ONNX's.
struct SeluMap {
  static constexpr bool kReadsOutput = false;
  float alpha;
  float gamma;
  explicit SeluMap(const OpContext& context)
      : alpha(context.node.float_or("alpha", 1.67326319F)),
        gamma(context.node.float_or("gamma", 1.05070102F)) {}
  float value(float x) const { return gamma * (x > 0 ? x : alpha * std::expm1(x)); }
  float slope(float x) const { return gamma * (x > 0 ? 1.0F : alpha * std::exp(x)); }
};

struct ShrinkMap {
  static constexpr bool kReadsOutput = false;
  float lambda, bias;
  explicit ShrinkMap(const OpContext& context)
      : lambda(context.node.float_or("lambd", 0.5F)), bias(context.node.float_or("bias", 0.0F)) {}
  float value(float x) const { return x < -lambda ? x + bias : x > lambda ? x - bias : 0.0F; }
  float slope(float x) const { return x < -lambda || x > lambda ? 1.0F : 0.0F; }
};

struct SigmoidMap {
  static constexpr bool kReadsOutput = true;
  explicit SigmoidMap(const OpContext&) {}
  float value(float x) const { return 1 / (1 + std::exp(-x)); }
  float slope(float y) const { return y * (1 - y); }
};

struct SinMap {
  static constexpr bool kReadsOutput = false;
  explicit SinMap(const OpContext&) {}
  float value(float x) const { return std::sin(x); }
  float slope(float x) const { return std::cos(x); }
};

struct SoftplusMap {
  static constexpr bool kReadsOutput = false;
  explicit SoftplusMap(const OpContext&) {}
  float value(float x) const { return softplus(x); }
  float slope(float x) const { return 1 / (1 + std::exp(-x)); }
};

struct SoftsignMap {
  static constexpr bool kReadsOutput = false;
  explicit SoftsignMap(const OpContext&) {}
  float value(float x) const { return x / (1 + std::fabs(x)); }
  float slope(float x) const { return 1 / ((1 + std::fabs(x)) * (1 + std::fabs(x))); }
};

// Steps: flat wherever they have a slope.
template <float (*step)(float)>
struct StepMap {
  static constexpr bool kReadsOutput = true;  // in fact neither
  explicit StepMap(const OpContext&) {}
  float value(float x) const { return step(x); }
  float slope(float) const { return 0; }
};

float ceil_step(float x) {
  return std::ceil(x);
}
float floor_step(float x) {
  return std::floor(x);
}
// Half to even: the processor's rounding mode, which nobody here changes.
float round_step(float x) {
  return std::nearbyint(x);
}
float sign_step(float x) {
  return x > 0 ? 1.0F : x < 0 ? -1.0F : x;  // keeps NaN
}

struct SinhMap {
  static constexpr bool kReadsOutput = false;
  explicit SinhMap(const OpContext&) {}
  float value(float x) const { return std::sinh(x); }
  float slope(float x) const { return std::cosh(x); }
};

struct SqrtMap {
  static constexpr bool kReadsOutput = true;
  explicit SqrtMap(const OpContext&) {}
  float value(float x) const { return std::sqrt(x); }
  float slope(float y) const { return 0.5F / y; }
};

// Ramachandran, Zoph and Le (2017); SiLU with alpha = 1.
struct SwishMap {
  float alpha;
  explicit SwishMap(const OpContext& context) : alpha(context.node.float_or("alpha", 1.0F)) {}
  float value(float x) const { return x * gate(x); }
  ValueAndSlope value_and_slope(float x) const {
    const float g = gate(x);
    return {x * g, g + alpha * x * g * (1 - g)};
  }

 private:
  float gate(float x) const { return 1 / (1 + std::exp(-alpha * x)); }
};

struct TanMap {
  static constexpr bool kReadsOutput = true;
  explicit TanMap(const OpContext&) {}
  float value(float x) const { return std::tan(x); }
  float slope(float y) const { return 1 + y * y; }
};

struct TanhMap {
  static constexpr bool kReadsOutput = true;
  explicit TanhMap(const OpContext&) {}
  float value(float x) const { return std::tanh(x); }
  float slope(float y) const { return 1 - y * y; }
};

struct ThresholdedReluMap {
  static constexpr bool kReadsOutput = false;
  float alpha;
  explicit ThresholdedReluMap(const OpContext& context)
      : alpha(context.node.float_or("alpha", 1.0F)) {}
  float value(float x) const { return x > alpha ? x : 0.0F; }
  float slope(float x) const { return x > alpha ? 1.0F : 0.0F; }
};

template <class Map>
void forward(OpContext& context) {
  if constexpr (kTakesIntegers<Map>) {
    if (type_of_first(context.graph, context.node) == DataType::kInt64) {
      std::transform(OpContext::ints(context.in[0]),
                     OpContext::ints(context.in[0]) + element_count(context.in_shape(0)),
                     OpContext::ints(context.out[0]), Map::integer);
      return;
    }
  }
  const Map map(context);
  const float* x = context.in[0];
  float* y = context.out[0];
  auto* slopes = reinterpret_cast<float*>(context.saved);
  for_elements(context.pool, element_count(context.in_shape(0)),
               [&](std::int64_t begin, std::int64_t count) {
                 if constexpr (kKeepsSlope<Map>) {
                   if (slopes != nullptr) {
                     for (std::int64_t i = begin; i < begin + count; ++i) {
                       const ValueAndSlope at = map.value_and_slope(x[i]);
                       y[i] = at.value;
                       slopes[i] = at.slope;
                     }
                     return;
                   }
                 }
                 for (std::int64_t i = begin; i < begin + count; ++i) y[i] = map.value(x[i]);
               });
}

// Calls slope(i) for the elements: of forward's x or y, or what forward kept.
template <class Slope>
void multiply_by_slopes(OpContext& context, const Slope& slope) {
  const float* dy = context.d_out[0];
  float* dx = context.d_in[0];
  const bool accumulate = context.accumulate[0];
  for_elements(context.pool, element_count(context.in_shape(0)),
               [&](std::int64_t begin, std::int64_t count) {
                 for (std::int64_t i = begin; i < begin + count; ++i) {
                   const float d = slope(i) * dy[i];
                   dx[i] = accumulate ? dx[i] + d : d;
                 }
               });
}

template <class Map>
void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  if constexpr (kKeepsSlope<Map>) {
    const auto* slopes = reinterpret_cast<const float*>(context.saved);
    multiply_by_slopes(context, [slopes](std::int64_t i) { return slopes[i]; });
  } else {
    const Map map(context);
    const float* kept = Map::kReadsOutput ? context.out[0] : context.in[0];
    multiply_by_slopes(context, [&map, kept](std::int64_t i) { return map.slope(kept[i]); });
  }
}

std::int64_t slope_bytes(const Node& node, const Shapes& shapes) {
  return element_count(shapes[static_cast<std::size_t>(node.inputs[0])]) *
         static_cast<std::int64_t>(sizeof(float));
}

// functions: exponentials and the like in a value.
template <class Map>
OpDef pointwise_op(std::string_view type, int min_opset = 6, int functions = 0) {
  OpDef op = {.type = type,
              .min_opset = min_opset,
              .unsupported = unsupported_storage,
              .infer = same_shape,
              .forward = forward<Map>,
              .backward = backward<Map>,
              .blocking = Blocking::kSame,
              .in_place_inputs = 1,
              .flops_an_element = 1 + functions * kFunctionFlops};
  if constexpr (kTakesIntegers<Map>) op.output_type = type_of_first;
  if constexpr (kKeepsSlope<Map>) {
    op.saved_bytes = slope_bytes;
  } else {
    op.needs = {.inputs = !Map::kReadsOutput, .outputs = Map::kReadsOutput};
  }
  return op;
}

std::string unsupported_celu(const Graph& graph, const Node& node) {
  return node.float_or("alpha", 1.0F) == 0 ? "alpha must not be 0"
                                           : unsupported_storage(graph, node);
}

std::string unsupported_clip(const Graph& graph, const Node& node) {
  for (const std::size_t bound : {1U, 2U}) {
    const Tensor* tensor = input_tensor(graph, node, bound);
    if (tensor == nullptr) continue;
    if (tensor->kind != TensorKind::kConstant || tensor->floats.size() != 1) {
      return "its bounds must be constants";
    }
  }
  return unsupported_storage(graph, node);
}

std::string unsupported_gelu(const Graph& graph, const Node& node) {
  const std::string form = node.string_or("approximate", "none");
  return form == "none" || form == "tanh" ? unsupported_storage(graph, node)
                                          : "its approximation " + form + " is unknown";
}

}  // namespace

OpDef abs_op() {
  return pointwise_op<AbsMap>("Abs");
}
OpDef acos_op() {
  return pointwise_op<AcosMap>("Acos", 7, 1);
}
OpDef acosh_op() {
  return pointwise_op<AcoshMap>("Acosh", 9, 1);
}
OpDef asin_op() {
  return pointwise_op<AsinMap>("Asin", 7, 1);
}
OpDef asinh_op() {
  return pointwise_op<AsinhMap>("Asinh", 9, 1);
}
OpDef atan_op() {
  return pointwise_op<AtanMap>("Atan", 7, 1);
}
OpDef atanh_op() {
  return pointwise_op<AtanhMap>("Atanh", 9, 1);
}
OpDef ceil_op() {
  return pointwise_op<StepMap<ceil_step>>("Ceil");
}
OpDef celu_op() {
  OpDef op = pointwise_op<CeluMap>("Celu", 12, 1);
  op.unsupported = unsupported_celu;
  return op;
}
OpDef clip_op() {
  OpDef op = pointwise_op<ClipMap>("Clip");
  op.notes = "by constants";
  op.unsupported = unsupported_clip;
  return op;
}
OpDef cos_op() {
  return pointwise_op<CosMap>("Cos", 7, 1);
}
OpDef cosh_op() {
  return pointwise_op<CoshMap>("Cosh", 9, 1);
}
OpDef elu_op() {
  return pointwise_op<EluMap>("Elu", 6, 1);
}
OpDef erf_op() {
  return pointwise_op<ErfMap>("Erf", 9, 1);
}
OpDef exp_op() {
  return pointwise_op<ExpMap>("Exp", 6, 1);
}
OpDef floor_op() {
  return pointwise_op<StepMap<floor_step>>("Floor");
}
OpDef gelu_op() {
  OpDef op = pointwise_op<GeluMap>("Gelu", 20, 1);
  op.notes = kFusedNotes;
  op.unsupported = unsupported_gelu;
  return op;
}
OpDef hard_sigmoid_op() {
  return pointwise_op<HardSigmoidMap>("HardSigmoid");
}
OpDef hard_swish_op() {
  OpDef op = pointwise_op<HardSwishMap>("HardSwish", 14);
  op.notes = kFusedNotes;
  return op;
}
OpDef leaky_relu_op() {
  return pointwise_op<LeakyReluMap>("LeakyRelu");
}
OpDef log_op() {
  return pointwise_op<LogMap>("Log", 6, 1);
}
OpDef mish_op() {
  return pointwise_op<MishMap>("Mish", 18, 3);
}
OpDef neg_op() {
  return pointwise_op<NegMap>("Neg");
}
OpDef reciprocal_op() {
  return pointwise_op<ReciprocalMap>("Reciprocal");
}
OpDef round_op() {
  return pointwise_op<StepMap<round_step>>("Round", 11);
}
OpDef selu_op() {
  return pointwise_op<SeluMap>("Selu", 6, 1);
}
OpDef shrink_op() {
  return pointwise_op<ShrinkMap>("Shrink", 9);
}
OpDef sigmoid_op() {
  return pointwise_op<SigmoidMap>("Sigmoid", 6, 1);
}
OpDef sign_op() {
  return pointwise_op<StepMap<sign_step>>("Sign", 9);
}
OpDef sin_op() {
  return pointwise_op<SinMap>("Sin", 7, 1);
}
OpDef sinh_op() {
  return pointwise_op<SinhMap>("Sinh", 9, 1);
}
OpDef softplus_op() {
  return pointwise_op<SoftplusMap>("Softplus", 1, 2);
}
OpDef softsign_op() {
  return pointwise_op<SoftsignMap>("Softsign", 1);
}
OpDef sqrt_op() {
  return pointwise_op<SqrtMap>("Sqrt");
}
OpDef swish_op() {
  OpDef op = pointwise_op<SwishMap>("Swish", 24, 1);
  op.notes = kFusedNotes;
  return op;
}
OpDef tan_op() {
  return pointwise_op<TanMap>("Tan", 7, 1);
}
OpDef tanh_op() {
  return pointwise_op<TanhMap>("Tanh", 6, 1);
}
OpDef thresholded_relu_op() {
  return pointwise_op<ThresholdedReluMap>("ThresholdedRelu", 10);
}

}  // namespace tempo
