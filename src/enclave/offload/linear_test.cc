#include "enclave/offload/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace tempo {
namespace {

struct Moments {
  double mean = 0, m2 = 0;
};

Moments two_pass(const std::vector<double>& values) {
  Moments moments;
  for (const double v : values) moments.mean += v / static_cast<double>(values.size());
  for (const double v : values) moments.m2 += (v - moments.mean) * (v - moments.mean);
  return moments;
}

// A mean far from zero: sums of squares would lose all digits of the variance.
TEST(ColumnMoments, MergesPiecesOfUnequalSize) {
  std::mt19937 rng(3);
  std::normal_distribution<double> normal(1e6, 1.0);
  std::vector<double> all;
  ColumnMoments merged;
  merged.reset(1);
  for (const int size : {1, 17, 0, 400, 3}) {
    std::vector<double> piece(static_cast<std::size_t>(size));
    for (double& v : piece) v = normal(rng);
    all.insert(all.end(), piece.begin(), piece.end());
    const Moments m = piece.empty() ? Moments{} : two_pass(piece);
    merged.merge(size, &m.mean, &m.m2);
  }
  const Moments want = two_pass(all);
  EXPECT_EQ(merged.count, 421);
  EXPECT_NEAR(merged.mean[0], want.mean, 1e6 * 1e-15 * 421);
  EXPECT_NEAR(merged.m2[0], want.m2, want.m2 * 1e-8);
}

TEST(ColumnMoments, ResetForgets) {
  ColumnMoments moments;
  moments.reset(2);
  const double mean[] = {1, 2}, m2[] = {3, 4};
  moments.merge(5, mean, m2);
  moments.reset(3);
  EXPECT_EQ(moments.count, 0);
  EXPECT_EQ(moments.mean, std::vector<double>(3, 0.0));
  EXPECT_EQ(moments.m2, std::vector<double>(3, 0.0));
}

TEST(ConvGeometry, LowersToAMatrixProduct) {
  ConvGeometry g{.batch = 2,
                 .in_h = 8,
                 .in_w = 6,
                 .in_c = 5,
                 .out_h = 4,
                 .out_w = 3,
                 .out_c = 7,
                 .kernel_h = 3,
                 .kernel_w = 2,
                 .stride_h = 2,
                 .stride_w = 2};
  EXPECT_EQ(g.m(), 7);
  EXPECT_EQ(g.n(), 30);
  EXPECT_EQ(g.p(), 24);
  EXPECT_EQ(g.multiply_adds(), 7 * 30 * 24);
  EXPECT_FALSE(g.is_direct());
  EXPECT_TRUE((ConvGeometry{.batch = 9, .in_c = 4, .out_c = 3}).is_fully_connected());
}

TEST(ConvGeometry, GroupsShareTheChannels) {
  ConvGeometry g{.batch = 2, .in_h = 3, .in_w = 3, .in_c = 12, .out_h = 3, .out_w = 3, .out_c = 8};
  EXPECT_TRUE(g.is_direct());
  g.groups = 4;
  EXPECT_EQ(g.n(), 3);
  EXPECT_EQ(g.multiply_adds(), 8 * 3 * 18);
  EXPECT_EQ(g.input_elements(), 2 * 9 * 12);
  EXPECT_FALSE(g.is_direct());
}

}  // namespace
}  // namespace tempo
