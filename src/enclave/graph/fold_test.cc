#include "enclave/graph/fold.h"

#include <gtest/gtest.h>

#include <limits>

namespace tempo {
namespace {

using Ints = std::vector<std::int64_t>;

FoldedInts list(const Ints& values) {
  return {false, {values, values}};
}
FoldedInts scalar(std::int64_t value) {
  return {true, {Ints{value}, Ints{value}}};
}

Node node_of(const std::string& type) {
  return Node{.op_type = type, .name = "node", .opset = 13};
}

PerBatch<Shape> image(std::int64_t c, std::int64_t h, std::int64_t w) {
  return {Shape{kProbeBatches[0], c, h, w}, Shape{kProbeBatches[1], c, h, w}};
}

// The output at the first batch size, or {-999} when it is not known.
Ints run(const Node& node, const std::vector<FoldedInts>& inputs) {
  std::vector<const FoldedInts*> pointers;
  for (const FoldedInts& input : inputs) pointers.push_back(&input);
  const std::optional<FoldedInts> out = fold_node(node, pointers);
  return out ? out->at[0] : Ints{-999};
}

TEST(Fold, ShapeDependsOnTheBatchAtItsFirstEntryOnly) {
  const std::optional<FoldedInts> all = fold_shape(node_of("Shape"), image(3, 8, 9));
  ASSERT_TRUE(all);
  EXPECT_TRUE(all->depends_on_batch());
  EXPECT_EQ(all->at[1], (Ints{kProbeBatches[1], 3, 8, 9}));
  Node rest = node_of("Shape");
  rest.attributes["start"].value = std::int64_t{1};
  rest.attributes["end"].value = std::int64_t{-1};
  EXPECT_EQ(fold_shape(rest, image(3, 8, 9))->at[0], (Ints{3, 8}));
  EXPECT_FALSE(fold_shape(rest, image(3, 8, 9))->depends_on_batch());
}

TEST(Fold, GatherIndexesFromBothEnds) {
  const Node gather = node_of("Gather");
  EXPECT_EQ(run(gather, {list({5, 6, 7}), scalar(1)}), Ints{6});
  EXPECT_EQ(run(gather, {list({5, 6, 7}), list({-1, 0})}), (Ints{7, 5}));
  EXPECT_EQ(run(gather, {list({5, 6, 7}), scalar(3)}), Ints{-999});
  EXPECT_EQ(run(gather, {list({5, 6, 7}), scalar(-4)}), Ints{-999});
  EXPECT_EQ(run(gather, {scalar(5), scalar(0)}), Ints{-999});
}

TEST(Fold, SliceReadsInputsOrAttributes) {
  const Node inputs = node_of("Slice");
  const std::int64_t far = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(run(inputs, {list({5, 6, 7}), list({1}), list({far}), list({0})}), (Ints{6, 7}));
  EXPECT_EQ(run(inputs, {list({5, 6, 7}), list({-far}), list({-1})}), (Ints{5, 6}));
  EXPECT_EQ(run(inputs, {list({5, 6, 7}), list({2}), list({1})}), Ints{});
  EXPECT_EQ(run(inputs, {list({5, 6, 7}), list({0}), list({3}), list({0}), list({2})}), Ints{-999});
  Node attributes = node_of("Slice");
  attributes.attributes["starts"].value = Ints{0};
  attributes.attributes["ends"].value = Ints{2};
  EXPECT_EQ(run(attributes, {list({5, 6, 7})}), (Ints{5, 6}));
}

TEST(Fold, ScalarsAndListsOfOneAreKeptApart) {
  Node axes = node_of("Unsqueeze");
  EXPECT_EQ(run(axes, {scalar(4)}), Ints{-999});
  axes.attributes["axes"].value = Ints{0};
  EXPECT_EQ(run(axes, {scalar(4)}), Ints{4});
  EXPECT_EQ(run(axes, {list({4})}), Ints{-999});
  EXPECT_EQ(run(node_of("Unsqueeze"), {scalar(4), list({0})}), Ints{4});
  EXPECT_EQ(run(node_of("Squeeze"), {list({4})}), Ints{4});
  EXPECT_EQ(run(node_of("Squeeze"), {list({4, 5})}), Ints{-999});
  EXPECT_EQ(run(node_of("Reshape"), {scalar(4), list({-1})}), Ints{4});
  EXPECT_EQ(run(node_of("Expand"), {list({4}), list({3})}), (Ints{4, 4, 4}));
}

TEST(Fold, ConcatIsBounded) {
  Node concat = node_of("Concat");
  EXPECT_EQ(run(concat, {list({1}), list({2})}), Ints{-999});  // the axis has no default
  concat.attributes["axis"].value = std::int64_t{0};
  EXPECT_EQ(run(concat, {list({1}), list({2, 3})}), (Ints{1, 2, 3}));
  EXPECT_EQ(run(concat, {list({1}), scalar(2)}), Ints{-999});
  const FoldedInts half = list(Ints(kMaxFoldedInts / 2 + 1, 7));
  EXPECT_EQ(run(concat, {half, half}), Ints{-999});
}

TEST(Fold, ArithmeticRefusesOverflowAndDivisionByZero) {
  EXPECT_EQ(run(node_of("Mul"), {list({2, 3}), scalar(5)}), (Ints{10, 15}));
  EXPECT_EQ(run(node_of("Add"), {list({2, 3}), list({1, 1})}), (Ints{3, 4}));
  EXPECT_EQ(run(node_of("Sub"), {scalar(2), scalar(3)}), Ints{-1});
  EXPECT_EQ(run(node_of("Div"), {scalar(7), scalar(2)}), Ints{3});
  EXPECT_EQ(run(node_of("Div"), {scalar(7), scalar(0)}), Ints{-999});
  const std::int64_t low = std::numeric_limits<std::int64_t>::min();
  EXPECT_EQ(run(node_of("Div"), {scalar(low), scalar(-1)}), Ints{-999});
  EXPECT_EQ(run(node_of("Mul"), {scalar(low), scalar(2)}), Ints{-999});
  EXPECT_EQ(run(node_of("Add"), {list({1, 2}), list({1, 2, 3})}), Ints{-999});
}

TEST(Fold, SizeIsTheNumberOfElements) {
  const std::optional<FoldedInts> size = fold_size(image(3, 8, 9));
  ASSERT_TRUE(size);
  EXPECT_TRUE(size->is_scalar);
  EXPECT_EQ(size->at[1], Ints{kProbeBatches[1] * 3 * 8 * 9});
  const std::int64_t huge = std::int64_t{1} << 40;
  EXPECT_FALSE(fold_size(PerBatch<Shape>{Shape{huge, huge}, Shape{huge, huge}}));
}

TEST(Fold, CastKeepsWhatFits) {
  Node cast = node_of("Cast");
  cast.attributes["to"].value = std::int64_t{6};
  EXPECT_EQ(run(cast, {scalar(9)}), Ints{9});
  EXPECT_EQ(run(cast, {scalar(std::int64_t{1} << 40)}), Ints{-999});
  cast.attributes["to"].value = std::int64_t{1};  // float
  EXPECT_EQ(run(cast, {scalar(9)}), Ints{-999});
}

TEST(BatchFreeTarget, WritesTheBatchAsACopy) {
  const FoldedInts from_shape{false, {Ints{2, -1}, Ints{3, -1}}};
  EXPECT_EQ(batch_free_target(from_shape, image(3, 4, 5), false, kBatchDim), (Ints{0, 60}));
  EXPECT_EQ(batch_free_target(list({0, -1}), image(3, 4, 5), false, kBatchDim), (Ints{0, 60}));
  EXPECT_EQ(batch_free_target(list({-1, 60}), image(3, 4, 5), false, kBatchDim), (Ints{0, 60}));
}

TEST(BatchFreeTarget, FindsTheBatchOfAFixedExport) {
  EXPECT_EQ(batch_free_target(list({1, 60}), image(3, 4, 5), false, 1), (Ints{0, 60}));
  EXPECT_EQ(batch_free_target(list({7, 3, -1}), image(3, 4, 5), false, 7), (Ints{0, 3, 20}));
  EXPECT_EQ(batch_free_target(list({1, 60}), image(3, 4, 5), false, kBatchDim), std::nullopt);
  EXPECT_EQ(batch_free_target(list({8, 15}), image(3, 4, 5), false, 2), std::nullopt);
}

TEST(BatchFreeTarget, KeepsAnOpenEntryWhereTheBatchIsMerged) {
  const FoldedInts merged{false, {Ints{6, 20}, Ints{9, 20}}};  // N*3
  EXPECT_EQ(batch_free_target(merged, image(3, 4, 5), false, kBatchDim), (Ints{-1, 20}));
  const FoldedInts twice{false, {Ints{4, 4, -1}, Ints{9, 9, -1}}};
  EXPECT_EQ(batch_free_target(twice, image(36, 4, 5), false, kBatchDim), std::nullopt);
}

TEST(BatchFreeTarget, RefusesWhatDoesNotFit) {
  EXPECT_EQ(batch_free_target(list({0, 61}), image(3, 4, 5), false, kBatchDim), std::nullopt);
  EXPECT_EQ(batch_free_target(list({-1, -1}), image(3, 4, 5), false, kBatchDim), std::nullopt);
  EXPECT_EQ(batch_free_target(list({0, -1}), image(3, 4, 5), true, kBatchDim), std::nullopt);
  EXPECT_EQ(batch_free_target(list({-2, 60}), image(3, 4, 5), false, kBatchDim), std::nullopt);
  EXPECT_EQ(batch_free_target(list({0, 0, 0, 0, 0}), image(3, 4, 5), false, kBatchDim),
            std::nullopt);
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(batch_free_target(list({huge, huge}), image(3, 4, 5), false, kBatchDim), std::nullopt);
}

}  // namespace
}  // namespace tempo
