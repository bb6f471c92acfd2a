#include "enclave/graph/storage.h"

#include <gtest/gtest.h>

#include <numeric>

namespace tempo {
namespace {

std::vector<float> numbers(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

TEST(Storage, ConvWeightsGoChannelsLastAndBack) {
  const Shape dims = {5, 37, 3, 2};  // O, I, kh, kw; more channels than one block
  const std::vector<float> onnx = numbers(element_count(dims));
  const std::vector<float> stored = to_storage(onnx, dims, Storage::kConvWeights);
  for (std::int64_t o = 0; o < 5; ++o) {
    for (std::int64_t i = 0; i < 37; ++i) {
      for (std::int64_t h = 0; h < 3; ++h) {
        for (std::int64_t w = 0; w < 2; ++w) {
          const auto from = static_cast<std::size_t>(((o * 37 + i) * 3 + h) * 2 + w);
          const auto to = static_cast<std::size_t>(((o * 3 + h) * 2 + w) * 37 + i);
          ASSERT_EQ(stored[to], onnx[from]);
        }
      }
    }
  }
  std::vector<float> back(onnx.size());
  from_storage(stored, dims, Storage::kConvWeights, back);
  EXPECT_EQ(back, onnx);
}

TEST(Storage, TransposesAndBack) {
  const Shape dims = {3, 70};  // n, m
  const std::vector<float> onnx = numbers(element_count(dims));
  const std::vector<float> stored = to_storage(onnx, dims, Storage::kTransposed);
  for (std::int64_t n = 0; n < 3; ++n) {
    for (std::int64_t m = 0; m < 70; ++m) {
      ASSERT_EQ(stored[static_cast<std::size_t>(m * 3 + n)],
                onnx[static_cast<std::size_t>(n * 70 + m)]);
    }
  }
  std::vector<float> back(onnx.size());
  from_storage(stored, dims, Storage::kTransposed, back);
  EXPECT_EQ(back, onnx);
}

TEST(Storage, OnnxStaysAsItIs) {
  const std::vector<float> onnx = numbers(6);
  EXPECT_EQ(to_storage(onnx, {2, 3}, Storage::kOnnx), onnx);
  std::vector<float> back(6);
  from_storage(onnx, {2, 3}, Storage::kOnnx, back);
  EXPECT_EQ(back, onnx);
}

}  // namespace
}  // namespace tempo
