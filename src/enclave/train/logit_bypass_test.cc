#include "enclave/train/logit_bypass.h"

#include <gtest/gtest.h>

#include "enclave/train/test_graphs.h"

namespace tempo {
namespace {

using test::GraphBuilder;

std::vector<std::string> node_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes) names.push_back(node.name);
  return names;
}

TEST(LogitBypass, TakesTheLastSoftmaxOutAndPutsItBack) {
  GraphBuilder builder({kBatchDim, 4});
  builder.gemm(4, 3, 1);
  const TensorId logits = builder.last();
  Graph graph = builder.softmax(-1).simple("Identity").build();
  // A node that nothing reads, behind the others in the list.
  Node spare = graph.nodes[0];
  spare.name = "spare";
  spare.outputs = {kNoTensor};
  graph.nodes.push_back(spare);
  const auto names = node_names(graph);
  const TensorId output = graph.outputs[0];
  {
    auto bypass = LogitBypass::apply(graph, LossKind::kCrossEntropy);
    ASSERT_TRUE(bypass.ok());
    EXPECT_TRUE(bypass->active());
    EXPECT_EQ(graph.outputs[0], logits);
    EXPECT_EQ(node_names(graph), (std::vector<std::string>{"Gemm0", "spare"}));
    const LogitBypass moved = std::move(*bypass);
    EXPECT_EQ(graph.outputs[0], logits);
  }
  EXPECT_EQ(graph.outputs[0], output);
  EXPECT_EQ(node_names(graph), names);
}

TEST(LogitBypass, SeesThroughAFlattenThatChangesNothing) {
  GraphBuilder builder({kBatchDim, 4});
  builder.gemm(4, 3, 1);
  const TensorId logits = builder.last();
  Graph graph = builder.softmax(-1).simple("Flatten").build();
  const auto bypass = LogitBypass::apply(graph, LossKind::kCrossEntropy);
  ASSERT_TRUE(bypass.ok());
  EXPECT_TRUE(bypass->active());
  EXPECT_EQ(graph.outputs[0], logits);
}

TEST(LogitBypass, LeavesOtherGraphsAlone) {
  Graph graph = GraphBuilder({kBatchDim, 4}).gemm(4, 3, 1).simple("Identity").build();
  const auto names = node_names(graph);
  const auto bypass = LogitBypass::apply(graph, LossKind::kCrossEntropy);
  ASSERT_TRUE(bypass.ok());
  EXPECT_FALSE(bypass->active());
  EXPECT_EQ(node_names(graph), names);
}

TEST(LogitBypass, TakesTheFunctionOutThatTheLossContains) {
  GraphBuilder builder({kBatchDim, 4});
  builder.gemm(4, 3, 1);
  const TensorId logits = builder.last();
  Graph sigmoid = builder.simple("Sigmoid").build();
  Graph softmax = GraphBuilder({kBatchDim, 4}).gemm(4, 3, 1).softmax(-1).build();
  const auto is_active = [](Graph& graph, LossKind loss) {
    const auto bypass = LogitBypass::apply(graph, loss);
    EXPECT_TRUE(bypass.ok());
    return bypass.ok() && bypass->active();
  };
  {
    const auto bypass = LogitBypass::apply(sigmoid, LossKind::kBce);
    ASSERT_TRUE(bypass.ok());
    EXPECT_EQ(sigmoid.outputs[0], logits);
  }
  EXPECT_FALSE(is_active(sigmoid, LossKind::kCrossEntropy));
  EXPECT_FALSE(is_active(sigmoid, LossKind::kMse));
  EXPECT_TRUE(is_active(softmax, LossKind::kCrossEntropy));
  EXPECT_FALSE(is_active(softmax, LossKind::kBce));
  EXPECT_FALSE(is_active(softmax, LossKind::kMse));
}

TEST(LogitBypass, RefusesWhatItCannotTakeOut) {
  Graph over_batch = GraphBuilder({kBatchDim, 4}).gemm(4, 3, 1).softmax(0).build();
  const auto first = LogitBypass::apply(over_batch, LossKind::kCrossEntropy);
  ASSERT_FALSE(first.ok());
  EXPECT_EQ(first.error().code, ErrorCode::kUnsupportedModel);

  GraphBuilder builder({kBatchDim, 4});
  builder.gemm(4, 3, 1).softmax(1);
  const TensorId probabilities = builder.last();
  Graph shared = builder.simple("Relu").build();
  shared.outputs = {probabilities};
  const auto second = LogitBypass::apply(shared, LossKind::kCrossEntropy);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kUnsupportedModel);
}

}  // namespace
}  // namespace tempo
