#include "client/models/model_zoo.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "enclave/graph/onnx.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

ModelRequest request_for(const std::string& kind, std::int64_t channels, std::int64_t side,
                         std::int64_t classes) {
  return {.kind = kind,
          .channels = channels,
          .height = side,
          .width = side,
          .classes = classes,
          .seed = 1};
}

OnnxModel built(const ModelRequest& request) {
  const auto file = build_model(request);
  if (!file) {
    ADD_FAILURE() << file.error().one_line();
    return {};
  }
  Result<OnnxModel> model = OnnxModel::import(*file, {});
  if (!model) {
    ADD_FAILURE() << model.error().one_line();
    return {};
  }
  return std::move(*model);
}

std::int64_t parameter_count(const Graph& graph) {
  std::int64_t count = 0;
  for (const Tensor& tensor : graph.tensors) {
    if (tensor.kind == TensorKind::kParameter) count += element_count(tensor.declared);
  }
  return count;
}

std::int64_t multiply_adds(const Graph& graph) {
  const Result<Shapes> shapes = infer_shapes(graph, 1);
  if (!shapes) {
    ADD_FAILURE() << shapes.error().one_line();
    return 0;
  }
  std::int64_t count = 0;
  for (const Node& node : graph.nodes) {
    const OpDef* op = find_op(node.op_type);
    if (op->is_linear) count += op->lower(node, graph, *shapes).multiply_adds();
  }
  return count;
}

int count_of(const Graph& graph, const std::string& op_type) {
  int count = 0;
  for (const Node& node : graph.nodes) count += node.op_type == op_type ? 1 : 0;
  return count;
}

TEST(ModelZoo, SizesOfTheNetworks) {
  const OnnxModel mlp = built(request_for("mlp", 1, 28, 10));
  EXPECT_EQ(parameter_count(mlp.graph), 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10);
  const OnnxModel resnet20 = built(request_for("resnet20", 3, 32, 10));
  // 0.27 million in table 6 of He et al., who have no shortcut convolutions; here two, with norms.
  EXPECT_EQ(parameter_count(resnet20.graph), 269722 + 16 * 32 + 64 + 32 * 64 + 128);
  EXPECT_EQ(count_of(resnet20.graph, "Conv"), 19 + 2);
  EXPECT_EQ(count_of(resnet20.graph, "Add"), 9);
  const OnnxModel resnet50 = built(request_for("resnet50", 3, 32, 10));
  // torchvision's 25,557,032 with 1,000 classes and a 7x7 stem.
  EXPECT_EQ(parameter_count(resnet50.graph),
            25557032 - (2048 * 1000 + 1000) + (2048 * 10 + 10) - 64 * 3 * (49 - 9));
  EXPECT_EQ(count_of(resnet50.graph, "Conv"), 53);
}

TEST(ModelZoo, CnnHasItsMultiplyAddsInWideLayers) {
  const OnnxModel cnn = built(request_for("cnn", 1, 28, 10));
  EXPECT_GE(count_of(cnn.graph, "Conv"), 4);
  EXPECT_EQ(multiply_adds(cnn.graph), 56'448 + 1'354'752 + 3'538'944 + 15'335'424 + 4'160);
}

TEST(ModelZoo, AnyImageSizeGivesLogits) {
  for (const std::string kind : {"mlp", "cnn", "resnet20", "resnet50"}) {
    for (const std::int64_t side : {1, 7, 32}) {
      if (kind == "resnet50" && side != 7) continue;  // its 24 million weights take a second
      ModelRequest request = request_for(kind, 2, side, 4);
      request.width = side + 3;
      const OnnxModel model = built(request);
      ASSERT_EQ(model.graph.inputs.size(), 1U);
      EXPECT_EQ(model.graph.inputs[0], model.graph.find("input"));
      ASSERT_EQ(model.graph.outputs.size(), 1U);
      EXPECT_EQ(model.graph.outputs[0], model.graph.find("logits"));
      const Result<Shapes> shapes = infer_shapes(model.graph, 3);
      ASSERT_TRUE(shapes.ok()) << shapes.error().one_line();
      EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[0])], (Shape{3, 4}));
    }
  }
}

TEST(ModelZoo, WeightsDependOnTheSeedAlone) {
  ModelRequest request = request_for("resnet20", 3, 8, 10);
  const auto first = build_model(request);
  EXPECT_EQ(*first, *build_model(request));
  request.seed = 2;
  EXPECT_NE(*first, *build_model(request));
}

TEST(ModelZoo, WeightsHaveTheStatedDistribution) {
  const OnnxModel cnn = built(request_for("cnn", 1, 28, 10));
  const Tensor& conv =
      cnn.graph.tensors[static_cast<std::size_t>(cnn.graph.find("layer4.conv.weight"))];
  const auto count = static_cast<double>(conv.floats.size());
  double sum = 0;
  double squares = 0;
  int beyond_two = 0;
  const double deviation = std::sqrt(2.0 / (416 * 9));
  for (const float value : conv.floats) {
    sum += value;
    squares += static_cast<double>(value) * value;
    beyond_two += std::abs(value) > 2 * deviation ? 1 : 0;
  }
  // Five standard errors: sigma / sqrt(n) of the mean, sqrt(2 / n) of the relative variance.
  EXPECT_LT(std::abs(sum / count), 5 * deviation / std::sqrt(count));
  EXPECT_NEAR(squares / count / (deviation * deviation), 1, 5 * std::sqrt(2 / count));
  const double tail = 0.0455003;  // P(|Z| > 2)
  EXPECT_NEAR(beyond_two / count, tail, 5 * std::sqrt(tail * (1 - tail) / count));

  const Tensor& fc = cnn.graph.tensors[static_cast<std::size_t>(cnn.graph.find("fc.weight"))];
  const double bound = 1 / std::sqrt(416.0);
  double fc_squares = 0;
  for (const float value : fc.floats) {
    ASSERT_LE(std::abs(value), bound);
    fc_squares += static_cast<double>(value) * value;
  }
  // Variance of x^2 for uniform x in [-1, 1]: 4/45.
  const auto fc_count = static_cast<double>(fc.floats.size());
  EXPECT_NEAR(fc_squares / fc_count / (bound * bound), 1.0 / 3, 5 * std::sqrt(4.0 / 45 / fc_count));
}

TEST(ModelZoo, TheTransformerHasTheStatedSize) {
  const OnnxModel vit = built(request_for("vit", 3, 32, 10));
  std::int64_t parameters = 0;
  for (const Tensor& tensor : vit.graph.tensors) {
    if (tensor.kind == TensorKind::kParameter) parameters += element_count(tensor.declared);
  }
  // Patches and positions; per layer six 512 x 512 products with bias and two norms; norm, head.
  EXPECT_EQ(parameters, 512 * 48 + 512 + 64 * 512 + 8 * (6 * (512 * 512 + 512) + 4 * 512) +
                            2 * 512 + 512 * 10 + 10);
}

TEST(ModelZoo, RefusesWhatMakesNoSense) {
  const auto refused = [](ModelRequest request) {
    const auto file = build_model(request);
    return !file.ok() && file.error().code == ErrorCode::kUsage;
  };
  EXPECT_TRUE(refused(request_for("lenet", 1, 28, 10)));
  EXPECT_TRUE(refused(request_for("cnn", 0, 28, 10)));
  EXPECT_TRUE(refused(request_for("cnn", 1, 0, 10)));
  EXPECT_TRUE(refused(request_for("cnn", 1, 28, -1)));
  EXPECT_TRUE(refused(request_for("cnn", 1, 1 << 20, 10)));
  EXPECT_TRUE(refused(request_for("mlp", 1024, 1024, 10)));
  EXPECT_TRUE(refused(request_for("vit", 3, 30, 10)));
}

}  // namespace
}  // namespace tempo
