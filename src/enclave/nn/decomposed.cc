#include "enclave/nn/decomposed.h"

namespace tempo {
namespace {

constexpr float kRootTwoOverPi = 0.7978846F;
constexpr float kCubic = 0.044715F;

TensorId add(GraphBuilder& b, TensorId x, float value) {
  return b.node("Add", {x, number(b, value)});
}
TensorId mul(GraphBuilder& b, TensorId x, float value) {
  return b.node("Mul", {x, number(b, value)});
}
TensorId mul(GraphBuilder& b, TensorId x, TensorId y) {
  return b.node("Mul", {x, y});
}
TensorId div(GraphBuilder& b, TensorId x, float value) {
  return b.node("Div", {x, number(b, value)});
}

TensorId scale_and_bias(GraphBuilder& b, TensorId x, std::int64_t width) {
  const TensorId scaled = mul(b, x, b.parameter({width}, 0.5F, 1));
  return b.node("Add", {scaled, b.parameter({width}, 0.5F)});
}

// 1 + tanh(sqrt(2 / pi) * inner)
TensorId tanh_gate(GraphBuilder& b, TensorId inner) {
  return add(b, b.node("Tanh", {mul(b, inner, kRootTwoOverPi)}), 1);
}

}  // namespace

TensorId number(GraphBuilder& b, float value) {
  return b.filled({}, value, TensorKind::kConstant);
}

TensorId layer_norm_chain(GraphBuilder& b, TensorId x, const LayerNormChain& form) {
  const auto mean = [&](TensorId of) {
    GraphBuilder::Attributes attributes = {{"keepdims", {form.keepdims}}};
    if (form.axes_as_input) return b.node("ReduceMean", {of, b.ints(form.axes)}, attributes);
    attributes["axes"] = {form.axes};
    return b.node("ReduceMean", {of}, attributes);
  };
  const TensorId d = b.node("Sub", {x, mean(x)});
  const TensorId square =
      form.by_product ? mul(b, d, d) : b.node("Pow", {d, number(b, form.exponent)});
  const TensorId deviation = b.node("Sqrt", {add(b, mean(square), form.epsilon)});
  if (form.by_reciprocal) return mul(b, d, b.node("Reciprocal", {deviation}));
  return b.node("Div", {d, deviation});
}

TensorId gelu_chain(GraphBuilder& b, TensorId x, const GeluChain& form) {
  const TensorId gate = add(b, b.node("Erf", {div(b, x, form.divisor)}), form.one);
  return mul(b, mul(b, x, gate), form.half);
}

const std::vector<DecomposedForm>& decomposed_forms() {
  using B = GraphBuilder;
  static const std::vector<DecomposedForm> kForms = {
      {"layer_norm", "LayerNormalization",
       [](B& b, TensorId x, std::int64_t w) {
         return scale_and_bias(b, layer_norm_chain(b, x), w);
       }},
      {"layer_norm_written_out", "LayerNormalization",
       [](B& b, TensorId x, std::int64_t w) {
         const TensorId y = layer_norm_chain(b, x, {.by_product = true, .axes_as_input = true});
         const TensorId scaled = b.node("Mul", {b.parameter({w}, 0.5F, 1), y});
         return b.node("Add", {b.parameter({w}, 0.5F), scaled});
       }},
      {"layer_norm_by_reciprocal", "LayerNormalization",
       [](B& b, TensorId x, std::int64_t w) {
         return scale_and_bias(b, layer_norm_chain(b, x, {.by_reciprocal = true}), w);
       }},
      {"layer_norm_plain", "LayerNormalization",
       [](B& b, TensorId x, std::int64_t) { return layer_norm_chain(b, x); }},
      {"layer_norm_scale", "LayerNormalization",
       [](B& b, TensorId x, std::int64_t w) {
         return mul(b, layer_norm_chain(b, x), b.parameter({w}, 0.5F, 1));
       }},
      {"layer_norm_bias", "LayerNormalization",
       [](B& b, TensorId x, std::int64_t w) {
         return b.node("Add", {layer_norm_chain(b, x), b.parameter({w}, 0.5F)});
       }},
      {"gelu", "Gelu", [](B& b, TensorId x, std::int64_t) { return gelu_chain(b, x); }},
      {"gelu_half_first", "Gelu",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId half = mul(b, x, 0.5F);
         return mul(b, half, add(b, b.node("Erf", {mul(b, x, 0.70710678F)}), 1));
       }},
      {"gelu_half_of_gate", "Gelu",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId gate = add(b, b.node("Erf", {div(b, x, 1.41421354F)}), 1);
         return mul(b, x, mul(b, gate, 0.5F));
       }},
      {"gelu_tanh", "Gelu",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId cubic = mul(b, mul(b, x, mul(b, x, x)), kCubic);
         return mul(b, mul(b, x, tanh_gate(b, b.add(x, cubic))), 0.5F);
       }},
      {"gelu_tanh_pow", "Gelu",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId cubic = mul(b, b.node("Pow", {x, number(b, 3)}), kCubic);
         return mul(b, mul(b, x, 0.5F), tanh_gate(b, b.add(cubic, x)));
       }},
      {"gelu_tanh_in_turn", "Gelu",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId cubic = mul(b, mul(b, mul(b, x, kCubic), x), x);
         return mul(b, mul(b, x, 0.5F), tanh_gate(b, b.add(x, cubic)));
       }},
      {"gelu_tanh_factored", "Gelu",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId inner = add(b, mul(b, mul(b, x, kCubic), x), 1);
         return mul(b, mul(b, x, 0.5F), tanh_gate(b, mul(b, x, inner)));
       }},
      {"silu", "Swish",
       [](B& b, TensorId x, std::int64_t) { return mul(b, x, b.node("Sigmoid", {x})); }},
      {"hard_swish", "HardSwish",
       [](B& b, TensorId x, std::int64_t) {
         return mul(b, x, b.node("HardSigmoid", {x}, {{"alpha", {1.0F / 6}}}));
       }},
      {"hard_swish_by_relu6", "HardSwish",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId clipped =
             b.node("Clip", {b.relu(add(b, x, 3)), number(b, 0), number(b, 6)});
         return div(b, mul(b, x, clipped), 6);
       }},
      {"hard_swish_by_clip_above", "HardSwish",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId clipped = b.node("Clip", {b.relu(add(b, x, 3))}, {{"max", {6.0F}}});
         return div(b, mul(b, x, clipped), 6);
       }},
      {"hard_swish_by_clip", "HardSwish",
       [](B& b, TensorId x, std::int64_t) {
         const TensorId clipped =
             b.node("Clip", {add(b, x, 3)}, {{"min", {0.0F}}, {"max", {6.0F}}});
         return mul(b, x, div(b, clipped, 6));
       }},
  };
  return kForms;
}

}  // namespace tempo
