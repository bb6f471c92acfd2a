#include <cmath>

#include "client/models/architectures.h"

namespace tempo {
namespace {

constexpr std::int64_t kWidth = 512;
constexpr std::int64_t kHeads = 8;
constexpr std::int64_t kMlp = 512;
constexpr int kLayers = 8;

// Shared by all layers.
struct Constants {
  std::string split;        // (N, P, width) to (N, P, heads, width / heads)
  std::string join;         // and back
  std::string score_scale;  // 1 / sqrt(width of a head)
  std::string root_half;
  std::string half;
  std::string one;
};

std::string head_view(const std::string& name, const std::string& x, const Constants& c,
                      const std::vector<std::int64_t>& order, OnnxBuilder* b) {
  const std::string split = b->op("Reshape", name + ".split", {x, c.split});
  return b->op_with_ints("Transpose", name + ".heads", {split}, "perm", order);
}

std::string attention(const std::string& name, const std::string& x, const Constants& c,
                      OnnxBuilder* b) {
  const std::string q = b->linear_of_rank(name + ".q", x, kWidth, kWidth);
  const std::string k = b->linear_of_rank(name + ".k", x, kWidth, kWidth);
  const std::string v = b->linear_of_rank(name + ".v", x, kWidth, kWidth);
  std::string scores = b->op("MatMul", name + ".scores",
                             {head_view(name + ".q", q, c, {0, 2, 1, 3}, b),
                              head_view(name + ".k", k, c, {0, 2, 3, 1}, b)});
  scores = b->op("Mul", name + ".scaled", {scores, c.score_scale});
  scores = b->op_with_int("Softmax", name + ".softmax", {scores}, "axis", -1);
  std::string y =
      b->op("MatMul", name + ".values", {scores, head_view(name + ".v", v, c, {0, 2, 1, 3}, b)});
  y = b->op_with_ints("Transpose", name + ".positions", {y}, "perm", {0, 2, 1, 3});
  y = b->op("Reshape", name + ".join", {y, c.join});
  return b->linear_of_rank(name + ".out", y, kWidth, kWidth);
}

// x/2 (1 + erf(x / sqrt 2)): Hendrycks and Gimpel, 2016. An operator of its own only from opset 20.
std::string gelu(const std::string& name, const std::string& x, const Constants& c,
                 OnnxBuilder* b) {
  std::string y = b->op("Mul", name + ".scaled", {x, c.root_half});
  y = b->op("Add", name + ".plus_one", {b->op("Erf", name + ".erf", {y}), c.one});
  return b->op("Mul", name + ".halved", {b->op("Mul", name + ".gated", {x, y}), c.half});
}

std::string encoder_layer(const std::string& name, const std::string& x, const Constants& c,
                          OnnxBuilder* b) {
  std::string y = b->layer_norm(name + ".norm1", x, kWidth);
  const std::string mid =
      b->op("Add", name + ".residual1", {x, attention(name + ".attention", y, c, b)});
  y = b->layer_norm(name + ".norm2", mid, kWidth);
  y = gelu(name + ".gelu", b->linear_of_rank(name + ".mlp1", y, kWidth, kMlp), c, b);
  y = b->linear_of_rank(name + ".mlp2", y, kMlp, kWidth);
  return b->op("Add", name + ".residual2", {mid, y});
}

}  // namespace

void add_vit(const ModelRequest& request, OnnxBuilder* b) {
  const std::int64_t patches = (request.height / kVitPatch) * (request.width / kVitPatch);
  constexpr std::int64_t kHeadWidth = kWidth / kHeads;
  const Constants c = {
      .split = b->ints("split", {0, patches, kHeads, kHeadWidth}),
      .join = b->ints("join", {0, patches, kWidth}),
      .score_scale = b->scalar("score_scale",
                               static_cast<float>(1 / std::sqrt(static_cast<double>(kHeadWidth)))),
      .root_half = b->scalar("root_half", static_cast<float>(std::sqrt(0.5))),
      .half = b->scalar("half", 0.5F),
      .one = b->scalar("one", 1.0F),
  };
  b->set_input("input", {0, request.channels, request.height, request.width});
  std::string x = b->conv("patches", "input",
                          {.in = request.channels,
                           .out = kWidth,
                           .kernel = kVitPatch,
                           .stride = kVitPatch,
                           .has_bias = true});
  x = b->op("Reshape", "positions", {x, b->ints("positions.shape", {0, kWidth, patches})});
  x = b->op_with_ints("Transpose", "tokens", {x}, "perm", {0, 2, 1});
  x = b->op("Add", "embedded", {x, b->normal("position_embedding", {1, patches, kWidth}, 0.02)});
  for (int layer = 0; layer < kLayers; ++layer) {
    std::string name("layer");
    name.append(std::to_string(layer + 1));
    x = encoder_layer(name, x, c, b);
  }
  x = b->layer_norm("norm", x, kWidth);
  x = b->op_with_ints("ReduceMean", "mean", {x}, "axes", {1});  // (N, 1, width)
  x = b->op_with_int("Flatten", "flatten", {x}, "axis", 1);
  b->set_output(b->linear("fc", x, kWidth, request.classes), "logits", {0, request.classes});
}

}  // namespace tempo
