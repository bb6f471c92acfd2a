#include "enclave/graph/graph.h"

#include <gtest/gtest.h>

namespace tempo {
namespace {

TEST(Shape, CountsElements) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({2, 3, 5}), 30);
  EXPECT_EQ(element_count({2, 0, 5}), 0);
  EXPECT_EQ(element_count({std::int64_t{1} << 31, std::int64_t{1} << 31}), std::int64_t{1} << 62);
}

TEST(ShapeDeathTest, RefusesAnOpenOrOverflowingShape) {
  EXPECT_DEATH(element_count({kBatchDim, 3}), "dim >= 0");
  EXPECT_DEATH(element_count({std::int64_t{1} << 32, std::int64_t{1} << 32}), "count <=");
}

TEST(Shape, PrintsTheBatchAsN) {
  EXPECT_EQ(shape_to_string({}), "()");
  EXPECT_EQ(shape_to_string({kBatchDim, 3, 32, 32}), "(N,3,32,32)");
}

TEST(Node, AttributesFallBackWhenAbsentOrOfAnotherType) {
  Node node;
  node.attributes["axis"].value = std::int64_t{2};
  node.attributes["epsilon"].value = 0.5F;
  node.attributes["auto_pad"].value = std::string("VALID");
  node.attributes["pads"].value = std::vector<std::int64_t>{1, 2};
  EXPECT_EQ(node.int_or("axis", 1), 2);
  EXPECT_EQ(node.int_or("group", 1), 1);
  EXPECT_EQ(node.int_or("pads", 7), 7);
  EXPECT_EQ(node.float_or("epsilon", 1), 0.5F);
  EXPECT_EQ(node.float_or("axis", 1.5F), 1.5F);
  EXPECT_EQ(node.string_or("auto_pad", ""), "VALID");
  EXPECT_EQ(node.string_or("none", "x"), "x");
  EXPECT_EQ(node.ints_or("pads", {}), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(node.ints_or("strides", {1}), (std::vector<std::int64_t>{1}));
}

TEST(Graph, FindsTensorsByName) {
  Graph graph;
  graph.tensors.resize(2);
  graph.tensors[0].name = std::string("a");
  graph.tensors[1].name = std::string("b");
  EXPECT_EQ(graph.find("b"), 1);
  EXPECT_EQ(graph.find("c"), kNoTensor);
}

}  // namespace
}  // namespace tempo
