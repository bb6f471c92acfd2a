#include "enclave/graph/fold.h"

#include <gtest/gtest.h>

#include <limits>

namespace tempo {
namespace {

using Ints = std::vector<std::int64_t>;

FoldedInts list(const Ints& values) {
  return {false, {values, values}};
}

Node node_of(const std::string& type) {
  return Node{.op_type = type, .name = "node", .opset = 13};
}

PerBatch<Shape> image(std::int64_t c, std::int64_t h, std::int64_t w) {
  return {Shape{kProbeBatches[0], c, h, w}, Shape{kProbeBatches[1], c, h, w}};
}

TEST(Fold, ShapeDependsOnTheBatchAtItsFirstEntryOnly) {
  const FoldedInts all = fold_shape(node_of("Shape"), image(3, 8, 9));
  EXPECT_TRUE(all.depends_on_batch());
  EXPECT_EQ(all.at[1], (Ints{kProbeBatches[1], 3, 8, 9}));
  Node rest = node_of("Shape");
  rest.attributes["start"].value = std::int64_t{1};
  rest.attributes["end"].value = std::int64_t{-1};
  EXPECT_EQ(fold_shape(rest, image(3, 8, 9)).at[0], (Ints{3, 8}));
  EXPECT_FALSE(fold_shape(rest, image(3, 8, 9)).depends_on_batch());
}

TEST(Fold, SizeIsTheNumberOfElements) {
  const std::optional<FoldedInts> size = fold_size(image(3, 8, 9));
  ASSERT_TRUE(size);
  EXPECT_TRUE(size->is_scalar);
  EXPECT_EQ(size->at[1], Ints{kProbeBatches[1] * 3 * 8 * 9});
  const std::int64_t huge = std::int64_t{1} << 40;
  EXPECT_FALSE(fold_size(PerBatch<Shape>{Shape{huge, huge}, Shape{huge, huge}}));
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
