// The row passes against loops in float64, for every target that this machine can run.
#include "enclave/obfuscation/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "enclave/obfuscation/key.h"
#include "enclave/obfuscation/seeded_random.h"
#include "hwy/targets.h"

namespace tempo {
namespace {

constexpr double kU = 0x1p-24;
constexpr std::size_t kLengths[] = {1,  2,  3,  7,  9,   15,  16,  17,  27,  31,  32,  33,
                                    63, 64, 65, 96, 127, 128, 129, 200, 576, 577, 4608};

std::vector<float> normals(SeededRandom& random, std::size_t n) {
  std::vector<float> values(n);
  for (float& v : values) v = static_cast<float>(random.normal());
  return values;
}

// Bound on the error of a sum of terms in fp32 over at most 64 columns, then float64.
double sum_bound(double sum_of_magnitudes) {
  return 66 * kU * sum_of_magnitudes;
}

class KernelsTest : public testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    if ((hwy::SupportedTargets() & GetParam()) == 0) GTEST_SKIP() << "not on this machine";
    hwy::SetSupportedTargetsForTest(GetParam());
  }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }

  SeededRandom random_{7};
};

TEST_P(KernelsTest, CheckRowSumsInFloat64) {
  for (const std::size_t n : kLengths) {
    for (const int rounds : {0, 1, 2, 3, 4, 5, 8, 11}) {
      const std::vector<float> row = normals(random_, n);
      const std::vector<float> vectors = normals(random_, n * rounds);
      const std::vector<float> weights = normals(random_, n);
      std::vector<const float*> pointers;
      for (int k = 0; k < rounds; ++k) pointers.push_back(vectors.data() + k * n);
      for (const float* square_weights : {weights.data(), static_cast<const float*>(nullptr)}) {
        std::vector<double> sums(rounds + 1, 77.0);
        double magnitude = -1;
        check_row(row.data(), n, {rounds, pointers.data(), square_weights}, sums.data(),
                  &magnitude);
        for (int k = 0; k < rounds; ++k) {
          double expected = 0;
          double size = 0;
          for (std::size_t j = 0; j < n; ++j) {
            expected += static_cast<double>(row[j]) * pointers[k][j];
            size += std::abs(static_cast<double>(row[j]) * pointers[k][j]);
          }
          ASSERT_NEAR(sums[k], expected, sum_bound(size)) << n << " " << rounds << " " << k;
        }
        ASSERT_EQ(sums[rounds], 77.0);  // nothing behind the last sum
        double expected = 0;
        double size = 0;
        for (std::size_t j = 0; j < n; ++j) {
          const double w = square_weights != nullptr ? square_weights[j] : 1.0;
          expected += static_cast<double>(row[j]) * row[j] * w;
          size += std::abs(static_cast<double>(row[j]) * row[j] * w);
        }
        ASSERT_NEAR(magnitude, expected, sum_bound(size)) << n << " " << rounds;
      }
      if (rounds > 0) {  // without a magnitude the sums are the same
        std::vector<double> with(rounds);
        std::vector<double> without(rounds);
        double magnitude = 0;
        check_row(row.data(), n, {rounds, pointers.data(), nullptr}, with.data(), &magnitude);
        check_row(row.data(), n, {rounds, pointers.data(), nullptr}, without.data(), nullptr);
        ASSERT_EQ(with, without);
      }
    }
  }
}

// A sum in float32 all through would be off by hundreds; blocks of 64 are exact here.
TEST_P(KernelsTest, CheckRowLeavesFloat32AtBlockBorders) {
  const std::size_t n = 4608;
  std::vector<float> row(n, 1.0F);
  row[0] = 0x1p25F;
  const std::vector<float> ones(n, 1.0F);
  const float* vectors[] = {ones.data()};
  double sum = 0;
  check_row(row.data(), n, {1, vectors, nullptr}, &sum, nullptr);
  EXPECT_NEAR(sum, 0x1p25 + 4607, 64);
}

TEST_P(KernelsTest, NotANumberReachesEverySum) {
  for (const std::size_t n : {1U, 9U, 64U, 129U}) {
    for (std::size_t at = 0; at < n; at += 1 + n / 5) {
      for (const float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        std::vector<float> row(n, 1.0F);
        row[at] = bad;
        const std::vector<float> ones(n, 1.0F);
        const float* vectors[] = {ones.data(), ones.data()};
        double sums[2] = {};
        double magnitude = 0;
        check_row(row.data(), n, {2, vectors, nullptr}, sums, &magnitude);
        EXPECT_FALSE(std::isfinite(sums[0]));
        EXPECT_FALSE(std::isfinite(sums[1]));
        EXPECT_FALSE(std::isfinite(magnitude));
      }
    }
  }
}

TEST_P(KernelsTest, SquaresOfSmallValuesKeepTheirWeight) {
  const std::vector<float> row(64, 1e-22F);  // squared: below the smallest float
  const std::vector<float> weights(64, 1e12F);
  double magnitude = 0;
  check_row(row.data(), 64, {0, nullptr, weights.data()}, nullptr, &magnitude);
  EXPECT_NEAR(magnitude, 64e-32, 1e-36);
}

TEST_P(KernelsTest, EncodeRowGathersAndScales) {
  for (const std::size_t n : kLengths) {
    const AxisKey key = AxisKey::generate(random_, n, {});
    const std::vector<float> row = normals(random_, n);
    const std::vector<float> ones(n, 1.0F);
    const float* vectors[] = {ones.data()};
    std::vector<float> out(n + 2, 55.0F);
    double sum = 0;
    double magnitude = 0;
    encode_row(row.data(), n, key.permutation.data(), key.coefficient.data(), 0.3F,
               {1, vectors, nullptr}, out.data() + 1, &sum, &magnitude);
    double expected_sum = 0;
    double size = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const double expected =
          static_cast<double>(row[key.permutation[j]]) * key.coefficient[j] * 0.3F;
      ASSERT_NEAR(out[j + 1], expected, 2.01 * kU * std::abs(expected)) << n << " " << j;
      expected_sum += row[j];
      size += std::abs(row[j]);
    }
    EXPECT_NEAR(sum, expected_sum, sum_bound(size));
    EXPECT_EQ(out.front(), 55.0F);  // nothing outside the row is written
    EXPECT_EQ(out.back(), 55.0F);
    std::vector<float> again(n);
    encode_row(row.data(), n, key.permutation.data(), key.coefficient.data(), 0.3F, {},
               again.data(), nullptr, nullptr);
    EXPECT_EQ(std::memcmp(again.data(), out.data() + 1, n * sizeof(float)), 0);
  }
}

TEST_P(KernelsTest, DecodeRowUndoesEncodeRow) {
  for (const std::size_t n : kLengths) {
    const AxisKey key = AxisKey::generate(random_, n, {});
    const std::vector<float> row = normals(random_, n);
    const std::vector<float> bias = normals(random_, n);
    const std::vector<float> before = normals(random_, n);
    std::vector<float> encoded(n);
    encode_row(row.data(), n, key.permutation.data(), key.coefficient.data(), 4.0F, {},
               encoded.data(), nullptr, nullptr);
    std::vector<float> scale(n);  // natural order
    for (std::size_t a = 0; a < n; ++a) scale[a] = key.reciprocal[key.inverse[a]];
    for (const bool with_bias : {false, true}) {
      for (const bool accumulate : {false, true}) {
        std::vector<float> out = before;
        out.push_back(55.0F);
        decode_row(encoded.data(), n, key.inverse.data(), scale.data(), 0.25F,
                   with_bias ? bias.data() : nullptr, accumulate, out.data());
        for (std::size_t a = 0; a < n; ++a) {
          const double b = with_bias ? bias[a] : 0.0;
          const double c = accumulate ? before[a] : 0.0;
          // Five roundings of the value, one of each sum.
          const double bound = 7 * kU * (std::abs(row[a]) + std::abs(b) + std::abs(c));
          ASSERT_NEAR(out[a], row[a] + b + c, bound) << n << " " << a;
        }
        EXPECT_EQ(out.back(), 55.0F);
      }
    }
  }
}

TEST_P(KernelsTest, AccumulatesColumns) {
  for (const std::size_t n : kLengths) {
    for (const int rounds : {0, 1, 2, 5}) {
      constexpr int kRows = 100;
      std::vector<double> expected(n * (rounds + 1));
      std::vector<double> size(expected.size());
      std::vector<float> partial(expected.size());
      std::vector<double> totals(expected.size());
      for (int i = 0; i < kRows; ++i) {
        const std::vector<float> row = normals(random_, n);
        const std::vector<float> weights = normals(random_, rounds);
        const auto square_weight = static_cast<float>(random_.unit());
        accumulate_columns(row.data(), n, rounds, weights.data(), square_weight, partial.data(),
                           partial.data() + rounds * n);
        if (i % 64 == 63) flush_to_double(partial.data(), partial.size(), totals.data());
        for (std::size_t j = 0; j < n; ++j) {
          for (int k = 0; k <= rounds; ++k) {
            const double term = k < rounds ? static_cast<double>(weights[k]) * row[j]
                                           : static_cast<double>(square_weight) * row[j] * row[j];
            expected[k * n + j] += term;
            size[k * n + j] += std::abs(term);
          }
        }
      }
      flush_to_double(partial.data(), partial.size(), totals.data());
      for (std::size_t j = 0; j < totals.size(); ++j) {
        ASSERT_NEAR(totals[j], expected[j], sum_bound(size[j])) << n << " " << rounds << " " << j;
        ASSERT_EQ(partial[j], 0.0F);
      }
    }
  }
}

TEST_P(KernelsTest, AccumulatesMoments) {
  for (const std::size_t n : kLengths) {
    const std::vector<float> shift = normals(random_, n);
    std::vector<float> sums(n);
    std::vector<float> squares(n);
    std::vector<double> expected_sums(n);
    std::vector<double> expected_squares(n);
    std::vector<double> size(n);
    for (int i = 0; i < 40; ++i) {
      const std::vector<float> row = normals(random_, n);
      accumulate_moments(row.data(), n, shift.data(), sums.data(), squares.data());
      for (std::size_t j = 0; j < n; ++j) {
        const double x = static_cast<double>(row[j]) - shift[j];
        expected_sums[j] += x;
        expected_squares[j] += x * x;
        size[j] += std::abs(x);
      }
    }
    for (std::size_t j = 0; j < n; ++j) {
      ASSERT_NEAR(sums[j], expected_sums[j], sum_bound(size[j]));
      ASSERT_NEAR(squares[j], expected_squares[j], sum_bound(expected_squares[j]));
    }
  }
}

#if HWY_ARCH_X86
constexpr std::int64_t kTargets[] = {HWY_AVX3, HWY_AVX2, HWY_SCALAR};
#else
constexpr std::int64_t kTargets[] = {HWY_NEON};
#endif
INSTANTIATE_TEST_SUITE_P(Targets, KernelsTest, testing::ValuesIn(kTargets),
                         [](const auto& target) { return hwy::TargetName(target.param); });

// Fixed words around the row: what is read beyond it never shows.
TEST(CopyIn, EveryAlignmentAndLength) {
  AlignedBuffer<float> shared(5000);
  for (std::size_t i = 0; i < shared.size(); ++i) shared[i] = static_cast<float>(i);
  for (const std::size_t start : {0U, 1U, 2U, 3U}) {
    for (std::size_t n = 0; n <= 70; ++n) {
      for (const std::size_t out_start : {0U, 1U}) {
        std::vector<float> out(n + 3, -1.0F);
        copy_in(reinterpret_cast<const std::byte*>(shared.data() + start), n,
                out.data() + out_start);
        for (std::size_t i = 0; i < out.size(); ++i) {
          const bool inside = i >= out_start && i < out_start + n;
          ASSERT_EQ(out[i], inside ? static_cast<float>(start + i - out_start) : -1.0F)
              << start << " " << n << " " << i;
        }
      }
    }
  }
  std::vector<float> out(4608);
  copy_in(reinterpret_cast<const std::byte*>(shared.data() + 33), out.size(), out.data());
  EXPECT_EQ(std::memcmp(out.data(), shared.data() + 33, out.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace tempo
