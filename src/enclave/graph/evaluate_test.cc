// What exporters compute from shapes, and constants that a file may have to make an operator trap.
#include "enclave/graph/evaluate.h"

#include <gtest/gtest.h>

#include <limits>

namespace tempo {
namespace {

using Ints = std::vector<std::int64_t>;

constexpr std::int64_t kMaxElements = 64;
const Ints kUnknown = {-999};

std::optional<Tensor> list(const Ints& values) {
  return Tensor{.kind = TensorKind::kConstant,
                .type = DataType::kInt64,
                .declared = {static_cast<std::int64_t>(values.size())},
                .ints = values};
}
std::optional<Tensor> scalar(std::int64_t value) {
  return Tensor{.kind = TensorKind::kConstant, .type = DataType::kInt64, .ints = {value}};
}

Node node_of(const std::string& type, int opset = 13) {
  return Node{.op_type = type, .name = "node", .opset = opset};
}

// The result's integers.
Ints run(const Node& node, const std::vector<std::optional<Tensor>>& operands) {
  const std::optional<Tensor> out = evaluate_node(node, operands, kMaxElements);
  if (!out) return kUnknown;
  EXPECT_EQ(out->type, DataType::kInt64);
  EXPECT_EQ(element_count(out->declared), static_cast<std::int64_t>(out->ints.size()));
  return out->ints;
}

TEST(Evaluate, GatherIndexesFromBothEnds) {
  const Node gather = node_of("Gather");
  EXPECT_EQ(run(gather, {list({5, 6, 7}), scalar(1)}), Ints{6});
  EXPECT_EQ(run(gather, {list({5, 6, 7}), list({-1, 0})}), (Ints{7, 5}));
  EXPECT_EQ(run(gather, {list({5, 6, 7}), scalar(3)}), kUnknown);
  EXPECT_EQ(run(gather, {list({5, 6, 7}), scalar(-4)}), kUnknown);
  EXPECT_EQ(run(gather, {scalar(5), scalar(0)}), kUnknown);
}

TEST(Evaluate, SliceReadsInputsOrAttributes) {
  const Node inputs = node_of("Slice");
  const std::int64_t far = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(run(inputs, {list({5, 6, 7}), list({1}), list({far}), list({0})}), (Ints{6, 7}));
  EXPECT_EQ(run(inputs, {list({5, 6, 7}), list({-far}), list({-1})}), (Ints{5, 6}));
  EXPECT_EQ(run(inputs, {list({5, 6, 7}), list({0}), list({3}), list({0}), list({2})}),
            (Ints{5, 7}));
  Node attributes = node_of("Slice", 9);
  attributes.attributes["starts"].value = Ints{0};
  attributes.attributes["ends"].value = Ints{2};
  EXPECT_EQ(run(attributes, {list({5, 6, 7})}), (Ints{5, 6}));
}

TEST(Evaluate, ListsMayBeEmpty) {
  EXPECT_EQ(run(node_of("Slice"), {list({5, 6, 7}), list({2}), list({1})}), Ints{});
  EXPECT_EQ(run(node_of("Slice"), {list({}), list({0}), list({1})}), Ints{});
  EXPECT_EQ(run(node_of("Gather"), {list({5}), list({})}), kUnknown);
  Node cast = node_of("Cast");
  cast.attributes["to"].value = std::int64_t{7};
  EXPECT_EQ(run(cast, {list({})}), Ints{});
  Node concat = node_of("Concat");
  concat.attributes["axis"].value = std::int64_t{0};
  EXPECT_EQ(run(concat, {list({}), list({4}), list({})}), Ints{4});
  // To a scalar: the list is the shape.
  const std::optional<Tensor> number =
      evaluate_node(node_of("Reshape"), {list({4}), list({})}, kMaxElements);
  ASSERT_TRUE(number);
  EXPECT_EQ(number->declared, Shape{});
  EXPECT_EQ(number->ints, Ints{4});
}

TEST(Evaluate, ScalarsAndListsOfOneAreKeptApart) {
  const auto shape_of = [](const Node& node, const std::vector<std::optional<Tensor>>& operands) {
    const std::optional<Tensor> out = evaluate_node(node, operands, kMaxElements);
    return out ? out->declared : Shape{-999};
  };
  EXPECT_EQ(shape_of(node_of("Unsqueeze"), {scalar(4), list({0})}), Shape{1});
  EXPECT_EQ(shape_of(node_of("Squeeze"), {list({4})}), Shape{});
  EXPECT_EQ(shape_of(node_of("Reshape"), {scalar(4), list({-1})}), Shape{1});
  EXPECT_EQ(shape_of(node_of("Identity"), {scalar(4)}), Shape{});
  EXPECT_EQ(run(node_of("Expand"), {list({4}), list({3})}), (Ints{4, 4, 4}));
}

TEST(Evaluate, ResultsAreBounded) {
  Node concat = node_of("Concat");
  concat.attributes["axis"].value = std::int64_t{0};
  EXPECT_EQ(run(concat, {list({1}), list({2, 3})}), (Ints{1, 2, 3}));
  EXPECT_EQ(run(concat, {list({1}), scalar(2)}), kUnknown);
  const auto half = list(Ints(kMaxElements / 2 + 1, 7));
  EXPECT_EQ(run(concat, {half, half}), kUnknown);
  EXPECT_EQ(run(node_of("Expand"), {list({4}), list({kMaxElements + 1})}), kUnknown);
}

TEST(Evaluate, ArithmeticTruncatesAndDoesNotTrap) {
  EXPECT_EQ(run(node_of("Mul"), {list({2, 3}), scalar(5)}), (Ints{10, 15}));
  EXPECT_EQ(run(node_of("Add"), {list({2, 3}), list({1, 1})}), (Ints{3, 4}));
  EXPECT_EQ(run(node_of("Sub"), {scalar(2), scalar(3)}), Ints{-1});
  EXPECT_EQ(run(node_of("Div"), {scalar(7), scalar(2)}), Ints{3});
  EXPECT_EQ(run(node_of("Div"), {scalar(-7), scalar(2)}), Ints{-3});
  EXPECT_EQ(run(node_of("Add"), {list({1, 2}), list({1, 2, 3})}), kUnknown);
  const std::int64_t low = std::numeric_limits<std::int64_t>::min();
  run(node_of("Div"), {scalar(7), scalar(0)});
  run(node_of("Div"), {scalar(low), scalar(-1)});
  run(node_of("Mul"), {scalar(low), scalar(2)});
}

}  // namespace
}  // namespace tempo
