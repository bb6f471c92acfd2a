#include "matrix/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace tempo {
namespace {

class GemmTest : public testing::TestWithParam<std::tuple<int, int, int, bool, bool>> {};

TEST_P(GemmTest, MatchesFloat64Oracle) {
  const auto [rows, cols, inner, ta, tb] = GetParam();
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  std::vector<float> a(rows * inner), b(inner * cols), c(rows * cols, 2.0F);
  for (auto& x : a) x = normal(rng);
  for (auto& x : b) x = normal(rng);
  gemm(Transpose{ta}, Transpose{tb}, rows, cols, inner, 1.0F, a.data(), ta ? rows : inner, b.data(),
       tb ? inner : cols, 0.5F, c.data(), cols);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; ++j) {
      double want = 1.0;
      for (int k = 0; k < inner; ++k) {
        want += double{ta ? a[k * rows + i] : a[i * inner + k]} *
                (tb ? b[j * inner + k] : b[k * cols + j]);
      }
      ASSERT_NEAR(c[i * cols + j], want, 1e-5 * std::sqrt(inner) + 1e-6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GemmTest,
                         testing::Combine(testing::Values(1, 7, 64), testing::Values(1, 13, 48),
                                          testing::Values(1, 17, 129), testing::Bool(),
                                          testing::Bool()));

}  // namespace
}  // namespace tempo
