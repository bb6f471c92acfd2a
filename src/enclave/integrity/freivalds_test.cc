// The check as a whole: honest float32 products pass, tampered ones do not.
#include "enclave/integrity/freivalds.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "enclave/integrity/check_rig.h"
#include "enclave/integrity/soundness.h"
#include "enclave/obfuscation/seeded_random.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class FreivaldsTest : public testing::Test {
 protected:
  // Small products: starting a second thread takes longer than they do.
  static void SetUpTestSuite() { set_gemm_threads(1); }
};

TEST(CheckVector, UniformHasZeroMeanAndUnitVariance) {
  // All 65536 values once: a source that counts.
  class Counter final : public RandomSource {
   public:
    void fill(std::span<std::byte> out) override {
      for (std::size_t i = 0; i + 1 < out.size(); i += 2, ++next_) {
        out[i] = static_cast<std::byte>(next_ & 255);
        out[i + 1] = static_cast<std::byte>(next_ >> 8);
      }
    }

   private:
    std::uint32_t next_ = 0;
  } counter;
  std::vector<float> values(65536);
  draw_check_vector(counter, CheckDistribution::kUniform, values);
  double sum = 0;
  double squares = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(values[i], -values[values.size() - 1 - i]);
    sum += values[i];
    squares += static_cast<double>(values[i]) * values[i];
    EXPECT_NE(values[i], 0.0F);
  }
  EXPECT_EQ(sum, 0.0);
  EXPECT_NEAR(squares / 65536, 1.0, 1e-6);
  EXPECT_NEAR(values.back(), std::sqrt(3.0), 1e-4);
}

TEST(CheckVector, IsDrawnUniformly) {
  SystemRandom random;
  std::vector<float> values(64 * 5000 + 3);  // not a multiple of the block
  draw_check_vector(random, CheckDistribution::kUniform, values);
  std::vector<int> counts(64);
  for (const float v : values) {
    const auto bin = static_cast<std::size_t>((v / std::sqrt(3.0) + 1) * 32);
    counts[std::min<std::size_t>(bin, 63)]++;
  }
  // Six standard deviations of a binomial: 64 bins fail once in a million runs.
  const double expected = static_cast<double>(values.size()) / 64;
  for (const int count : counts) EXPECT_NEAR(count, expected, 6 * std::sqrt(expected));
}

TEST(CheckVector, GaussianIsNormal) {
  SystemRandom random;
  std::vector<float> values(1024 * 400 + 1);  // an odd end
  draw_check_vector(random, CheckDistribution::kGaussian, values);
  const auto count = static_cast<double>(values.size());
  double sum = 0;
  double squares = 0;
  double fourth = 0;
  double neighbours = 0;
  std::vector<int> windows(81);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double v = values[i];
    ASSERT_LT(std::abs(v), 4.9);
    sum += v;
    squares += v * v;
    fourth += v * v * v * v;
    if (i > 0) neighbours += v * values[i - 1];
    windows[static_cast<std::size_t>(std::clamp(v * 10 + 40.5, 0.0, 80.0))]++;
  }
  const double deviation = 1 / std::sqrt(count);
  EXPECT_NEAR(sum / count, 0, 6 * deviation);
  EXPECT_NEAR(squares / count, 1, 6 * std::sqrt(2.0) * deviation);
  EXPECT_NEAR(fourth / count, 3, 6 * std::sqrt(96.0) * deviation);
  EXPECT_NEAR(neighbours / count, 0, 6 * deviation);
  for (std::size_t w = 1; w < 80; ++w) {
    const auto below = [](double x) { return 0.5 * std::erfc(-x / M_SQRT2); };
    const double left = (static_cast<double>(w) - 40.5) / 10;
    const double expected = count * (below(left + 0.1) - below(left));
    EXPECT_NEAR(windows[w], expected, 6 * std::sqrt(expected) + 10) << left;
    EXPECT_LT(windows[w], count * miss_probability(0.05, 1, CheckDistribution::kGaussian) +
                              6 * std::sqrt(expected));
  }
}

TEST(CheckVector, BinaryIsAFairCoin) {
  SystemRandom random;
  std::vector<float> values(100001);
  draw_check_vector(random, CheckDistribution::kBinary, values);
  double ones = 0;
  for (const float v : values) {
    ASSERT_TRUE(v == 0.0F || v == 1.0F);
    ones += v;
  }
  EXPECT_NEAR(ones, 50000, 6 * std::sqrt(25000));
}

TEST(AcceptRow, IsTheRuleAsWritten) {
  const double u = std::ldexp(1.0, -24);
  // Independent terms: |C|^2 equals the sum of the squared terms.
  EXPECT_NEAR(row_tolerance(16, 2.0, 2.0), 4 * u * 8 * std::sqrt(2 + 2 * (1 + 1.0 / 16)), 1e-15);
  // Equal terms: n times as much. More does not count.
  EXPECT_NEAR(row_tolerance(16, 2.0, 32.0), 4 * u * 8 * std::sqrt(2 + 32 * 2.0), 1e-15);
  EXPECT_NEAR(row_tolerance(16, 2.0, 3200.0), 4 * u * 8 * std::sqrt(2 + 3200 * 2.0), 1e-15);

  const double tolerance = row_tolerance(16, 2.0, 2.0);
  EXPECT_TRUE(accept_row(std::vector{tolerance, -tolerance}, 16, 2.0, 2.0));
  EXPECT_FALSE(accept_row(std::vector{0.0, 1.001 * tolerance}, 16, 2.0, 2.0));
  EXPECT_FALSE(accept_row(std::vector{-1.001 * tolerance, 0.0}, 16, 2.0, 2.0));
}

TEST(AcceptRow, RefusesWhatIsNotANumber) {
  for (const double bad : {kNaN, kInfinity, -kInfinity}) {
    EXPECT_FALSE(accept_row(std::vector{bad}, 4, 1.0, 1.0));
    EXPECT_FALSE(accept_row(std::vector{0.0, bad}, 4, 1.0, 1.0));
    EXPECT_FALSE(accept_row(std::vector{bad, 0.0}, 4, 1.0, 1.0));
    EXPECT_FALSE(accept_row(std::vector{0.0}, 4, 1.0, std::abs(bad)));
    EXPECT_FALSE(accept_row(std::vector{0.0}, 4, std::abs(bad), 1.0));
  }
  EXPECT_FALSE(accept_row(std::vector{kInfinity}, 4, 1.0, kInfinity));
}

// The estimate against the norm that it is an estimate of.
TEST(RowDeviation, IsUnbiasedForTheSquareOfTheErrorsNorm) {
  SeededRandom random(11);
  constexpr int kColumns = 12;
  constexpr int kVerdicts = 20000;
  std::vector<double> error(kColumns);
  double norm = 0;
  for (int j = 0; j < kColumns; ++j) {
    error[j] = std::sin(j) * (j == 3 ? 10 : 1);
    norm += error[j] * error[j];
  }
  for (const auto distribution : {CheckDistribution::kUniform, CheckDistribution::kGaussian}) {
    for (const std::size_t rounds : {1, 4}) {
      double squares = 0;
      for (int verdict = 0; verdict < kVerdicts; ++verdict) {
        std::vector<double> differences(rounds);
        for (double& difference : differences) {
          std::vector<float> vector(kColumns);
          draw_check_vector(random, distribution, vector);
          for (int j = 0; j < kColumns; ++j) difference += vector[j] * error[j];
        }
        const double deviation = row_deviation(differences, distribution);
        squares += deviation * deviation;
      }
      // A square of the sum has at most three times its own square on average.
      EXPECT_NEAR(squares / kVerdicts / norm, 1, 6 * std::sqrt(2.0 / kVerdicts));
    }
  }
}

TEST(RowDeviation, OfOneElementAndBinaryVectorsIsUnbiasedToo) {
  // Half of the rounds see it.
  EXPECT_NEAR(row_deviation(std::vector{3.0, 0.0, 3.0, 0.0}, CheckDistribution::kBinary), 3, 1e-12);
  for (const double bad : {kNaN, kInfinity, -kInfinity}) {
    EXPECT_EQ(row_deviation(std::vector{1.0, bad}, CheckDistribution::kUniform), kInfinity);
  }
}

TEST(AcceptRow, ZeroRowsPassAndStayNearZero) {
  EXPECT_TRUE(accept_row(std::vector{0.0}, 1000, 0.0, 0.0));
  EXPECT_FALSE(accept_row(std::vector{1e-20}, 1000, 0.0, 0.0));
}

// The result is the worker's to choose: however large, it must not buy its own tolerance.
TEST(AcceptRow, HugeResultsDoNotWidenTheirOwnTolerance) {
  for (const std::int64_t inner : {1, 64, 4608, 65536}) {
    for (double c = 1e-3; c < 1e15; c *= 10) {
      EXPECT_LT(row_tolerance(inner, 1.0, c * c), 0.05 * std::sqrt(1 + c * c)) << inner << " " << c;
    }
  }
}

LayerShape random_shape(SeededRandom& random) {
  constexpr std::size_t kSizes[] = {1, 1, 2, 3, 5, 7, 8, 13, 16, 27, 31, 32, 48, 64, 65, 100};
  const auto draw = [&] { return kSizes[random.between(0, std::size(kSizes) - 1)]; };
  return {draw(), draw(), draw()};
}

CoefficientSpace random_space(SeededRandom& random) {
  constexpr std::uint32_t kRanges[] = {1, 2, 1000, 1024, 65536};
  return {kRanges[random.between(0, std::size(kRanges) - 1)], random.between(0, 1) == 1};
}

// Not one false alarm in 10,002 products, and a margin, since a job checks a hundred million rows.
TEST_F(FreivaldsTest, HonestProductsPass) {
  SeededRandom random(1);
  int products = 0;
  double worst = 0;
  for (int layer = 0; layer < 3334; ++layer) {
    const LayerShape shape = random_shape(random);
    const auto data = static_cast<DataKind>(layer % kDataKinds);
    const CheckRig rig(random, shape, data, random_space(random));
    for (const Product product : kProducts) {
      ++products;
      for (const RowCheck& row : rig.check(product, 2, CheckDistribution::kUniform, random)) {
        ASSERT_TRUE(row.accepted) << "m " << shape.m << " n " << shape.n << " p " << shape.p
                                  << " data " << static_cast<int>(data) << " product "
                                  << static_cast<int>(product) << " |P| " << row.worst
                                  << " tolerance " << row.tolerance;
        worst = std::max(worst, row.worst / row.tolerance);
      }
    }
  }
  EXPECT_GE(products, 10000);
  EXPECT_LT(worst, 0.75);
  EXPECT_GT(worst, 0.05);  // otherwise the tolerance is blunt
}

TEST_F(FreivaldsTest, HonestProductsOfLongInnerDimensionPass) {
  SeededRandom random(2);
  for (int data = 0; data < kDataKinds; ++data) {
    for (const LayerShape& shape : {LayerShape{8, 4608, 20}, {600, 9, 20}, {8, 12, 3000}}) {
      const CheckRig rig(random, shape, static_cast<DataKind>(data), {65536, true});
      for (const Product product : kProducts) {
        for (const RowCheck& row : rig.check(product, 3, CheckDistribution::kUniform, random)) {
          ASSERT_TRUE(row.accepted)
              << data << " " << shape.n << " " << row.worst << " " << row.tolerance;
        }
      }
    }
  }
}

TEST_F(FreivaldsTest, HonestProductsPassWithBinaryVectors) {
  SeededRandom random(3);
  for (int layer = 0; layer < 300; ++layer) {
    const LayerShape shape = random_shape(random);
    if (std::min({shape.m, shape.n, shape.p}) < 16) continue;
    for (const DataKind data : {DataKind::kNormal, DataKind::kRectified, DataKind::kHeavyTailed}) {
      const CheckRig rig(random, shape, data, random_space(random));
      for (const Product product : kProducts) {
        for (const RowCheck& row : rig.check(product, 4, CheckDistribution::kBinary, random)) {
          ASSERT_TRUE(row.accepted);
        }
      }
    }
  }
}

struct Caught {
  int caught = 0;
  int trials = 0;
  double expected_misses = 0;
};

// Changes one element by `size` of the result's rms, in the column that the keys make hardest to
// see, with as many rounds as the plan would choose.
Caught tamper(SeededRandom& random, Product product, const LayerShape& shape, double size,
              const SoundnessGoal& goal, int trials) {
  CheckRig rig(random, shape, DataKind::kNormal, {1024, false});
  const CheckShape check_shape{rig.inner(product), static_cast<std::int64_t>(rig.columns(product))};
  const int rounds = rounds_needed(check_shape, goal);
  EXPECT_GT(rounds, 0);
  const std::size_t column = rig.hardest_column(product);
  const double error = size * rig.rms(product);
  Caught result;
  for (int trial = 0; trial < trials; ++trial) {
    const std::size_t row = random_below(random, static_cast<std::uint32_t>(rig.rows(product)));
    float& element = rig.element(product, row, column);
    const float honest = element;
    const double sign = trial % 2 == 0 ? 1 : -1;
    element += static_cast<float>(sign * error / rig.decoding_factor(product, row, column));
    const RowCheck check = rig.check(product, rounds, goal.distribution, random, row)[row];
    element = honest;
    ++result.trials;
    result.caught += check.accepted ? 0 : 1;
    result.expected_misses +=
        std::pow(miss_probability(check.tolerance, error, goal.distribution), rounds);
  }
  return result;
}

TEST_F(FreivaldsTest, OneElementOffByOnePercentIsCaughtEveryTime) {
  SeededRandom random(4);
  const LayerShape shape{32, 72, 40};
  for (const Product product : kProducts) {
    const SoundnessGoal goal{1e-6, 0.01, 1000, CheckDistribution::kUniform};
    const Caught result = tamper(random, product, shape, 0.01, goal, 1000);
    EXPECT_EQ(result.caught, result.trials);
    // Rows larger than the average have a larger tolerance; still nothing to be seen in 1,000
    // trials.
    EXPECT_LT(result.expected_misses, 1e-5);
  }
}

TEST_F(FreivaldsTest, BinaryVectorsCatchItWithTheirManyRounds) {
  SeededRandom random(5);
  const SoundnessGoal goal{1e-6, 0.01, 1000, CheckDistribution::kBinary};
  const Caught result = tamper(random, Product::kForward, {16, 24, 20}, 0.01, goal, 1000);
  EXPECT_EQ(result.caught, result.trials);
  EXPECT_LT(result.expected_misses, 1e-5);
}

// The bound on the miss probability of one round is a bound, and not an empty one.
TEST_F(FreivaldsTest, MissProbabilityBoundsOneRound) {
  SeededRandom random(6);
  CheckRig rig(random, {24, 64, 16}, DataKind::kNormal, {1024, false});
  const std::size_t column = rig.hardest_column(Product::kForward);
  for (const double error_over_tolerance : {2.5, 6.0}) {
    for (const auto distribution :
         {CheckDistribution::kUniform, CheckDistribution::kGaussian, CheckDistribution::kBinary}) {
      constexpr int kTrials = 4000;
      int missed = 0;
      double bound = 0;
      for (int trial = 0; trial < kTrials; ++trial) {
        const std::size_t row = trial % rig.rows(Product::kForward);
        float& element = rig.element(Product::kForward, row, column);
        const float honest = element;
        const double tolerance =
            rig.check(Product::kForward, 1, distribution, random, row)[row].tolerance;
        const double error = error_over_tolerance * tolerance;
        element += static_cast<float>(error / rig.decoding_factor(Product::kForward, row, column));
        missed += rig.check(Product::kForward, 1, distribution, random, row)[row].accepted ? 1 : 0;
        element = honest;
        bound += miss_probability(tolerance, error, distribution);
      }
      const double deviation = std::sqrt(bound);
      EXPECT_LT(missed, bound + 6 * deviation);
      EXPECT_GT(missed, bound / 2 - 6 * deviation);
    }
  }
}

TEST_F(FreivaldsTest, WrongRowsAndSwappedRowsAreCaught) {
  SeededRandom random(7);
  for (const Product product : kProducts) {
    CheckRig rig(random, {20, 30, 25}, DataKind::kNormal, {1024, false});
    for (std::size_t column = 0; column < rig.columns(product); ++column) {
      std::swap(rig.element(product, 3, column), rig.element(product, 8, column));
    }
    rig.element(product, 5, 2) = std::numeric_limits<float>::quiet_NaN();
    rig.element(product, 6, 2) = std::numeric_limits<float>::infinity();
    rig.element(product, 7, 2) = std::numeric_limits<float>::max();
    for (std::size_t column = 0; column < rig.columns(product); ++column) {
      rig.element(product, 9, column) = 0;
    }
    const std::vector<RowCheck> checks = rig.check(product, 3, CheckDistribution::kUniform, random);
    for (std::size_t row = 0; row < checks.size(); ++row) {
      const bool touched = row == 3 || (row >= 5 && row <= 9);
      EXPECT_EQ(checks[row].accepted, !touched) << row;
    }
  }
}

}  // namespace
}  // namespace tempo
