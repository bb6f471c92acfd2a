#include "enclave/train/freeze.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace tempo {
namespace {

TensorId add(Graph& graph, const std::string& name, TensorKind kind, std::size_t values) {
  Tensor tensor;
  tensor.name = name;
  tensor.kind = kind;
  tensor.floats.resize(values);
  graph.tensors.push_back(tensor);
  return static_cast<TensorId>(graph.tensors.size()) - 1;
}

void add_node(Graph& graph, const char* op_type, const std::string& name,
              std::vector<TensorId> inputs) {
  Node node;
  node.op_type = op_type;
  node.name = name;
  node.inputs = std::move(inputs);
  graph.nodes.push_back(std::move(node));
}

// stem.conv, stem.norm, and a head whose weight has the name of no module.
Graph network() {
  Graph graph;
  const TensorId x = add(graph, "x", TensorKind::kInput, 0);
  const TensorId weight = add(graph, "stem.conv.weight", TensorKind::kParameter, 12);
  add_node(graph, "Conv", "/stem/conv/Conv", {x, weight, kNoTensor});
  const TensorId scale = add(graph, "stem.norm.weight", TensorKind::kParameter, 3);
  const TensorId bias = add(graph, "stem.norm.bias", TensorKind::kParameter, 3);
  const TensorId mean = add(graph, "stem.norm.running_mean", TensorKind::kStatistic, 3);
  const TensorId variance = add(graph, "stem.norm.running_var", TensorKind::kStatistic, 3);
  add_node(graph, "BatchNormalization", "/stem/norm/BatchNormalization",
           {x, scale, bias, mean, variance});
  const TensorId head = add(graph, "onnx::MatMul_17", TensorKind::kParameter, 20);
  add_node(graph, "MatMul", "/head/MatMul", {x, head});
  return graph;
}

std::set<std::string> of_kind(const Graph& graph, TensorKind kind) {
  std::set<std::string> names;
  for (const Tensor& tensor : graph.tensors) {
    if (tensor.kind == kind) names.insert(tensor.name);
  }
  return names;
}

using Names = std::set<std::string>;

Names trained_after(const FreezeSpec& spec) {
  Graph graph = network();
  const auto frozen = freeze_parameters(graph, spec);
  EXPECT_TRUE(frozen.ok()) << frozen.error().one_line();
  return of_kind(graph, TensorKind::kParameter);
}

TEST(Freeze, ByTheNamesOfParametersAndNodes) {
  const Names all{"stem.conv.weight", "stem.norm.weight", "stem.norm.bias", "onnx::MatMul_17"};
  EXPECT_EQ(trained_after({}), all);
  EXPECT_EQ(trained_after({{"stem.*"}, {}, false}), Names{"onnx::MatMul_17"});
  EXPECT_EQ(trained_after({{"*.weight"}, {}, false}), (Names{"stem.norm.bias", "onnx::MatMul_17"}));
  EXPECT_EQ(trained_after({{"/head/*", "stem.norm.????"}, {}, false}),
            (Names{"stem.conv.weight", "stem.norm.weight"}));
  EXPECT_EQ(trained_after({{}, {"/head/*"}, false}), Names{"onnx::MatMul_17"});
  EXPECT_EQ(trained_after({{"*.bias"}, {"stem.norm.*", "/head/*"}, false}),
            (Names{"stem.norm.weight", "onnx::MatMul_17"}));
}

TEST(Freeze, CountsTheValues) {
  Graph graph = network();
  EXPECT_EQ(freeze_parameters(graph, {{"stem.*"}, {}, false}).value(), 18);
  EXPECT_EQ(freeze_parameters(graph, {}).value(), 0);
}

TEST(Freeze, StatisticsOnlyWhenAskedAndOnlyOfFrozenNormalizations) {
  const Names statistics{"stem.norm.running_mean", "stem.norm.running_var"};
  Graph graph = network();
  ASSERT_TRUE(freeze_parameters(graph, {{"stem.*"}, {}, false}).ok());
  EXPECT_EQ(of_kind(graph, TensorKind::kStatistic), statistics);
  graph = network();
  ASSERT_TRUE(freeze_parameters(graph, {{"stem.*"}, {}, true}).ok());
  EXPECT_EQ(of_kind(graph, TensorKind::kStatistic), Names{});
  graph = network();
  const auto half = freeze_parameters(graph, {{"stem.norm.bias"}, {}, true});
  ASSERT_FALSE(half.ok());
  EXPECT_EQ(half.error().code, ErrorCode::kUsage);
  EXPECT_EQ(of_kind(graph, TensorKind::kStatistic), statistics);
}

TEST(Freeze, APatternThatMatchesNothingNamesTheClosest) {
  Graph graph = network();
  const auto typo = freeze_parameters(graph, {{"stem.*", "sten.nrom.*"}, {}, false});
  ASSERT_FALSE(typo.ok());
  EXPECT_EQ(typo.error().code, ErrorCode::kUsage);
  EXPECT_EQ(typo.error().where, "freeze");
  EXPECT_EQ(typo.error().got, "sten.nrom.*");
  EXPECT_NE(typo.error().expected.find("stem.norm."), std::string::npos) << typo.error().expected;
  EXPECT_EQ(typo.error().expected.find("MatMul_17"), std::string::npos) << typo.error().expected;
  const auto other = freeze_parameters(graph, {{}, {"classifier*"}, false});
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().where, "train_only");
  // Statistics and activations are no parameters.
  EXPECT_FALSE(freeze_parameters(graph, {{"*running*"}, {}, false}).ok());
}

TEST(Freeze, SomethingHasToBeLeft) {
  Graph graph = network();
  const auto none = freeze_parameters(graph, {{"*"}, {}, false});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kUsage);
  EXPECT_NE(none.error().one_line().find("nothing is left to train"), std::string::npos);
}

TEST(Glob, StarsAndQuestionMarks) {
  EXPECT_TRUE(glob_matches("a.b", "a.b"));
  EXPECT_FALSE(glob_matches("a.b", "aXb"));
  EXPECT_TRUE(glob_matches("*", ""));
  EXPECT_TRUE(glob_matches("**a**", "bab"));
  EXPECT_TRUE(glob_matches("layer.?.*", "layer.3.weight"));
  EXPECT_FALSE(glob_matches("layer.?.*", "layer.13.weight"));
  EXPECT_TRUE(glob_matches("*ab*ab", "abxabxab"));
  EXPECT_FALSE(glob_matches("*ab*abc", "abxabxab"));
  EXPECT_FALSE(glob_matches("", "a"));
  EXPECT_FALSE(glob_matches("?", ""));
  EXPECT_TRUE(glob_matches("*.weight", "module/1.weight"));
}

TEST(Glob, ManyStarsDoNotTakeForever) {
  std::string pattern;
  for (int i = 0; i < 100; ++i) pattern += "*a";
  EXPECT_FALSE(glob_matches(pattern + "b", std::string(2000, 'a')));
}

}  // namespace
}  // namespace tempo
