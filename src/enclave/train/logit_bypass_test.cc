#include "enclave/train/softmax_bypass.h"

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

TEST(SoftmaxBypass, TakesTheLastSoftmaxOutAndPutsItBack) {
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
    auto bypass = SoftmaxBypass::apply(graph);
    ASSERT_TRUE(bypass.ok());
    EXPECT_TRUE(bypass->active());
    EXPECT_EQ(graph.outputs[0], logits);
    EXPECT_EQ(node_names(graph), (std::vector<std::string>{"Gemm0", "spare"}));
    const SoftmaxBypass moved = std::move(*bypass);
    EXPECT_EQ(graph.outputs[0], logits);
  }
  EXPECT_EQ(graph.outputs[0], output);
  EXPECT_EQ(node_names(graph), names);
}

TEST(SoftmaxBypass, SeesThroughAFlattenThatChangesNothing) {
  GraphBuilder builder({kBatchDim, 4});
  builder.gemm(4, 3, 1);
  const TensorId logits = builder.last();
  Graph graph = builder.softmax(-1).simple("Flatten").build();
  const auto bypass = SoftmaxBypass::apply(graph);
  ASSERT_TRUE(bypass.ok());
  EXPECT_TRUE(bypass->active());
  EXPECT_EQ(graph.outputs[0], logits);
}

TEST(SoftmaxBypass, LeavesOtherGraphsAlone) {
  Graph graph = GraphBuilder({kBatchDim, 4}).gemm(4, 3, 1).simple("Identity").build();
  const auto names = node_names(graph);
  const auto bypass = SoftmaxBypass::apply(graph);
  ASSERT_TRUE(bypass.ok());
  EXPECT_FALSE(bypass->active());
  EXPECT_EQ(node_names(graph), names);
}

TEST(SoftmaxBypass, RefusesWhatItCannotTakeOut) {
  Graph over_batch = GraphBuilder({kBatchDim, 4}).gemm(4, 3, 1).softmax(0).build();
  const auto first = SoftmaxBypass::apply(over_batch);
  ASSERT_FALSE(first.ok());
  EXPECT_EQ(first.error().code, ErrorCode::kUnsupportedModel);

  GraphBuilder builder({kBatchDim, 4});
  builder.gemm(4, 3, 1).softmax(1);
  const TensorId probabilities = builder.last();
  Graph shared = builder.simple("Relu").build();
  shared.outputs = {probabilities};
  const auto second = SoftmaxBypass::apply(shared);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kUnsupportedModel);
}

}  // namespace
}  // namespace tempo
