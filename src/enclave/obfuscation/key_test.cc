// Keys: what they are, and that they are drawn as they should be.
#include "enclave/obfuscation/key.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "enclave/obfuscation/seeded_random.h"

namespace tempo {
namespace {

// Chi-squared of `observed` counts against equal expectations.
double chi_squared(const std::vector<int>& observed) {
  const double expected =
      std::accumulate(observed.begin(), observed.end(), 0.0) / static_cast<double>(observed.size());
  double sum = 0;
  for (const int count : observed) sum += (count - expected) * (count - expected) / expected;
  return sum;
}

// What chi-squared with that many degrees of freedom exceeds with probability 1e-7 (Wilson and
// Hilferty's approximation): an honest generator fails a test once in ten million runs.
double chi_squared_limit(double freedom) {
  constexpr double kNormalQuantile = 5.2;
  const double v = 2 / (9 * freedom);
  return freedom * std::pow(1 - v + kNormalQuantile * std::sqrt(v), 3);
}

TEST(AxisKey, IsAPermutationWithItsInverse) {
  SystemRandom random;
  for (const std::size_t size : {1U, 2U, 7U, 64U, 577U, 70000U}) {
    const AxisKey key = AxisKey::generate(random, size, {});
    ASSERT_EQ(key.size(), size);
    ASSERT_EQ(key.inverse.size(), size);
    ASSERT_EQ(key.coefficient.size(), size);
    ASSERT_EQ(key.reciprocal.size(), size);
    for (std::size_t i = 0; i < size; ++i) {
      ASSERT_LT(key.permutation[i], size);
      ASSERT_EQ(key.inverse[key.permutation[i]], i);
      ASSERT_EQ(key.reciprocal[i], 1.0F / key.coefficient[i]);
    }
  }
}

TEST(AxisKey, EveryPositionIsEquallyLikely) {
  SystemRandom random;
  constexpr std::size_t kSize = 12;
  constexpr int kDraws = 24000;
  std::vector<std::vector<int>> counts(kSize, std::vector<int>(kSize));
  for (int draw = 0; draw < kDraws; ++draw) {
    const AxisKey key = AxisKey::generate(random, kSize, {});
    for (std::size_t i = 0; i < kSize; ++i) counts[i][key.permutation[i]]++;
  }
  for (const auto& row : counts) EXPECT_LT(chi_squared(row), chi_squared_limit(kSize - 1));
}

TEST(AxisKey, EveryPermutationOfFiveIsEquallyLikely) {
  SystemRandom random;
  std::vector<int> counts(120);
  for (int draw = 0; draw < 36000; ++draw) {
    const AxisKey key = AxisKey::generate(random, 5, {});
    int index = 0;
    for (std::size_t i = 0; i < 5; ++i) {  // Lehmer code
      int smaller = 0;
      for (std::size_t j = i + 1; j < 5; ++j) {
        smaller += key.permutation[j] < key.permutation[i] ? 1 : 0;
      }
      index = index * (5 - static_cast<int>(i)) + smaller;
    }
    counts[index]++;
  }
  EXPECT_LT(chi_squared(counts), chi_squared_limit(119));
}

// Of 12 indices in parts of 5, 4 and 3: an index is in a part in proportion to its size, and two
// are together as often as if they were drawn one after the other.
TEST(DealIndices, EverySubsetIsEquallyLikely) {
  SystemRandom random;
  constexpr int kDraws = 24000;
  const std::vector<std::size_t> sizes{5, 4, 3};
  std::vector<std::vector<int>> counts(sizes.size(), std::vector<int>(12));
  int together = 0;  // 0 and 1, in the first part
  for (int draw = 0; draw < kDraws; ++draw) {
    const auto parts = deal_indices(random, sizes);
    ASSERT_EQ(parts.size(), sizes.size());
    std::vector<int> seen(12);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      ASSERT_EQ(parts[i].size(), sizes[i]);
      ASSERT_TRUE(std::is_sorted(parts[i].begin(), parts[i].end()));
      for (const std::uint32_t index : parts[i]) {
        ++seen.at(index);
        ++counts[i][index];
      }
    }
    ASSERT_EQ(seen, std::vector<int>(12, 1));
    together += parts[0][0] == 0 && parts[0][1] == 1 ? 1 : 0;
  }
  for (const auto& part : counts) EXPECT_LT(chi_squared(part), chi_squared_limit(11));
  const double chance = 5.0 / 12 * 4 / 11;
  EXPECT_NEAR(together, kDraws * chance, 5.3 * std::sqrt(kDraws * chance * (1 - chance)));
  EXPECT_TRUE(deal_indices(random, {}).empty());
}

// Where an element goes says nothing about where it goes next time, nor about its neighbour.
TEST(AxisKey, SuccessiveDrawsAndNeighboursAreIndependent) {
  SystemRandom random;
  constexpr std::uint32_t kSize = 8;
  std::vector<int> successive(kSize * kSize);
  std::vector<int> neighbours(kSize * (kSize - 1));
  for (int draw = 0; draw < 32000; ++draw) {
    const AxisKey before = AxisKey::generate(random, kSize, {});
    const AxisKey key = AxisKey::generate(random, kSize, {});
    successive[before.permutation[3] * kSize + key.permutation[3]]++;
    const std::uint32_t a = key.permutation[0];
    const std::uint32_t b = key.permutation[1];
    neighbours[a * (kSize - 1) + (b > a ? b - 1 : b)]++;
  }
  EXPECT_LT(chi_squared(successive), chi_squared_limit(kSize * kSize - 1));
  EXPECT_LT(chi_squared(neighbours), chi_squared_limit(kSize * (kSize - 1) - 1));
}

TEST(AxisKey, IntegerCoefficientsAreUniform) {
  SystemRandom random;
  for (const std::uint32_t range : {1U, 2U, 3U, 100U, 1024U}) {
    std::vector<int> counts(range);
    const AxisKey key = AxisKey::generate(random, 200 * range + 1, {range, false});
    for (const float c : key.coefficient) {
      ASSERT_GE(c, 1.0F);
      ASSERT_LE(c, static_cast<float>(range));
      ASSERT_EQ(c, std::floor(c));
      counts[static_cast<std::size_t>(c) - 1]++;
    }
    EXPECT_LE(chi_squared(counts), range == 1 ? 0 : chi_squared_limit(range - 1.0));
  }
}

TEST(AxisKey, IntegerCoefficientsReachTheEndsOfALargeRange) {
  SeededRandom random(11);
  constexpr std::uint32_t kRange = 1U << 24;
  std::vector<int> counts(64);
  const AxisKey key = AxisKey::generate(random, 64000, {kRange, false});
  for (const float c : key.coefficient) {
    ASSERT_GE(c, 1.0F);
    ASSERT_LE(c, static_cast<float>(kRange));
    counts[(static_cast<std::uint32_t>(c) - 1) / (kRange / 64)]++;
  }
  EXPECT_LT(chi_squared(counts), chi_squared_limit(63));
}

TEST(AxisKey, RealCoefficientsAreLogUniform) {
  SystemRandom random;
  constexpr double kRange = 1000;
  std::vector<int> counts(50);
  const AxisKey key = AxisKey::generate(random, 50000, {1000, true});
  int fractional = 0;
  for (const float c : key.coefficient) {
    ASSERT_GE(c, 1.0F);
    ASSERT_LE(c, 1000.0F);
    fractional += c != std::floor(c) ? 1 : 0;
    const auto bin = static_cast<std::size_t>(std::log(c) / std::log(kRange) * 50);
    counts[std::min<std::size_t>(bin, 49)]++;
  }
  EXPECT_LT(chi_squared(counts), chi_squared_limit(49));
  EXPECT_GT(fractional, 49000);
}

// Coefficients follow the encoded index: where an element goes does not say what it is scaled by.
TEST(AxisKey, CoefficientsAreIndependentOfThePermutation) {
  SystemRandom random;
  constexpr std::size_t kSize = 64;
  std::vector<int> counts(16);
  for (int draw = 0; draw < 500; ++draw) {
    const AxisKey key = AxisKey::generate(random, kSize, {1024, false});
    for (std::size_t i = 0; i < kSize; ++i) {
      const std::size_t place = key.permutation[i] / (kSize / 4);
      const auto size = static_cast<std::size_t>((key.coefficient[i] - 1) / 256);
      counts[place * 4 + size]++;
    }
  }
  EXPECT_LT(chi_squared(counts), chi_squared_limit(15));
}

TEST(AxisKey, CopiesAndMoves) {
  SeededRandom random(5);
  const AxisKey a = AxisKey::generate(random, 9, {});
  AxisKey b = AxisKey::generate(random, 30, {});
  b = a;
  EXPECT_EQ(b.permutation, a.permutation);
  EXPECT_EQ(b.coefficient, a.coefficient);
  AxisKey c = AxisKey::generate(random, 4, {});
  c = std::move(b);
  EXPECT_EQ(c.inverse, a.inverse);
  EXPECT_EQ(c.reciprocal, a.reciprocal);
}

TEST(AxisKey, DifferentDrawsDiffer) {
  SystemRandom random;
  const AxisKey a = AxisKey::generate(random, 64, {});
  const AxisKey b = AxisKey::generate(random, 64, {});
  EXPECT_NE(a.permutation, b.permutation);  // equal once in 64!
  EXPECT_NE(a.coefficient, b.coefficient);
}

TEST(KeyTriple, ShiftsLeft) {
  SeededRandom random(1);
  const KeyTriple sk = KeyTriple::generate(random, 3, 5, 7, {});
  const std::size_t sizes[3][3] = {{3, 5, 7}, {5, 7, 3}, {7, 3, 5}};
  for (int phi = 0; phi < 3; ++phi) {
    for (int i = 0; i < 3; ++i) EXPECT_EQ(sk.shifted(phi, i).size(), sizes[phi][i]);
  }
  EXPECT_EQ(&sk.shifted(3, 1), &sk.n);
}

}  // namespace
}  // namespace tempo
