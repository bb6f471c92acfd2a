#include "enclave/integrity/soundness.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "enclave/obfuscation/kernels.h"

namespace tempo {
namespace {

TEST(Soundness, MissProbabilityIsTheWidthOfTheWindow) {
  EXPECT_NEAR(miss_probability(1e-4, 1e-2, CheckDistribution::kUniform),
              0.01 / std::sqrt(3.0) + 1.0 / 65536, 1e-12);
  EXPECT_EQ(miss_probability(1.0, 1e-3, CheckDistribution::kUniform), 1.0);
  EXPECT_EQ(miss_probability(1e-4, 1e-2, CheckDistribution::kBinary), 0.5);
  EXPECT_EQ(miss_probability(1e-2, 1.5e-2, CheckDistribution::kBinary), 1.0);
  // The normal density at its mean, over a window of 0.02 deviations.
  EXPECT_NEAR(miss_probability(1e-4, 1e-2, CheckDistribution::kGaussian), std::erf(0.01 / M_SQRT2),
              1e-4);
  EXPECT_GE(miss_probability(1e-4, 1e-2, CheckDistribution::kGaussian), std::erf(0.01 / M_SQRT2));
  for (const auto distribution :
       {CheckDistribution::kUniform, CheckDistribution::kGaussian, CheckDistribution::kBinary}) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    EXPECT_EQ(miss_probability(nan, 1, distribution), 1.0);
    EXPECT_EQ(miss_probability(1, nan, distribution), 1.0);
    EXPECT_EQ(miss_probability(1e-4, 0, distribution), 1.0);
    EXPECT_EQ(miss_probability(1e-4, -1, distribution), 1.0);
  }
}

TEST(Soundness, RoundsReachTheGoalAndOneFewerDoesNot) {
  for (const auto distribution :
       {CheckDistribution::kUniform, CheckDistribution::kGaussian, CheckDistribution::kBinary}) {
    for (const CheckShape shape : {CheckShape{27, 16}, {64, 64}, {576, 64}, {4608, 512}}) {
      const SoundnessGoal goal{1e-6, 0.01, 1e6, distribution};
      const int rounds = rounds_needed(shape, goal);
      ASSERT_GT(rounds, 1);
      const double tolerance = expected_tolerance_over_rms(shape);
      EXPECT_LE(soundness_reached(tolerance, shape.inner, rounds, goal), goal.t);
      EXPECT_GT(soundness_reached(tolerance, shape.inner, rounds - 1, goal), goal.t);
    }
  }
}

TEST(Soundness, KnownNumbersOfRounds) {
  // 64 inner terms, 64 columns: tau = 4 * 2^-24 * 12 * sqrt(64 (2 + 1/16)) = 3.3e-5 of the rms;
  // q = 1.9e-3, and 1e6 q^k <= 1e-6 from k = 4.4 on.
  EXPECT_NEAR(expected_tolerance_over_rms({64, 64}), 3.29e-5, 1e-7);
  EXPECT_EQ(rounds_needed({64, 64}, {1e-6, 0.01, 1e6, CheckDistribution::kUniform}), 5);
  // One bit a round: log2(1e12) = 39.9.
  EXPECT_EQ(rounds_needed({64, 64}, {1e-6, 0.01, 1e6, CheckDistribution::kBinary}), 40);
}

TEST(Soundness, MoreIsNeverEasier) {
  int last = 0;
  for (std::int64_t inner = 1; inner < 100000; inner *= 3) {
    const int rounds = rounds_needed({inner, 64}, {1e-6, 0.01, 1e6, {}});
    EXPECT_GE(rounds, last);
    last = rounds;
  }
  EXPECT_GT(last, 5);
  EXPECT_LT(rounds_needed({576, 64}, {1e-6, 0.1, 1e6, {}}),
            rounds_needed({576, 64}, {1e-6, 0.001, 1e6, {}}));
}

TEST(Soundness, ZeroRoundsWhereNoneSuffice) {
  // The tolerance exceeds the error that has to be caught.
  EXPECT_EQ(rounds_needed({1 << 30, 1 << 20}, {1e-6, 0.01, 1e6, {}}), 0);
  EXPECT_EQ(rounds_needed({4608, 4608}, {1e-6, 1e-5, 1e6, CheckDistribution::kBinary}), 0);
  // More rounds than the kernels take.
  EXPECT_EQ(rounds_needed({64, 64}, {1e-30, 0.01, 1e6, CheckDistribution::kBinary}), 0);
  // Goals that make no sense.
  EXPECT_EQ(rounds_needed({0, 64}, {}), 0);
  EXPECT_EQ(rounds_needed({64, 0}, {}), 0);
  EXPECT_EQ(rounds_needed({64, 64}, {0, 0.01, 1, {}}), 0);
  EXPECT_EQ(rounds_needed({64, 64}, {1e-6, 0, 1, {}}), 0);
  EXPECT_EQ(rounds_needed({64, 64}, {1e-6, 0.01, std::numeric_limits<double>::infinity(), {}}), 0);
}

TEST(Soundness, CoversErrorsOfAnySize) {
  // sqrt(3) q = 4 * 2^-24 * (sqrt(25088) + 4) * sqrt(1 + 25088 / 16), and 2^-16.
  const double q = largest_error_miss_probability(25088, CheckDistribution::kUniform);
  EXPECT_NEAR(q, 9.007e-4, 1e-7);
  // So that errors of rms size, which are easier to see, do not decide alone.
  EXPECT_GT(q, miss_probability(expected_tolerance_over_rms({25088, 1}), 1, {}));
  EXPECT_DOUBLE_EQ(
      soundness_reached(expected_tolerance_over_rms({25088, 1}), 25088, 2, {1e-6, 1, 1, {}}),
      q * q);
}

TEST(Soundness, ReachedIsAProbability) {
  EXPECT_EQ(soundness_reached(1e-4, 64, 0, {1e-6, 0.01, 1e6, {}}), 1.0);
  EXPECT_EQ(soundness_reached(1e-1, 64, 4, {1e-6, 0.01, 1e6, {}}), 1.0);
  const double t = soundness_reached(1e-4, 64, 4, {1e-6, 0.01, 1e6, {}});
  EXPECT_NEAR(t, 1e6 * std::pow(0.01 / std::sqrt(3.0) + 1.0 / 65536, 4), 1e-9);
}

// The paper's own figures: ResNet50, 54 layers, 50 epochs of 98 batches, 2 workers, three products
// a layer: 1.59e6 checks give k > 27.2, 30.6 and 40.5; ViT, 300 epochs: k > 29.7, 33.0, 43.0.
TEST(TheoremV2, GivesThePapersRounds) {
  EXPECT_EQ(theorem_v2_rounds(1.59e6, 1e-2), 28);
  EXPECT_EQ(theorem_v2_rounds(1.59e6, 1e-3), 31);
  EXPECT_EQ(theorem_v2_rounds(1.59e6, 1e-6), 41);
}

TEST(TheoremV2, IsTheSmallestIntegerStrictlyAbove) {
  for (const double checks : {1.0, 10.0, 1.59e6}) {
    for (const double t : {0.5, 1e-2, 1e-6, 1e-9}) {
      const int k = theorem_v2_rounds(checks, t);
      // (1 - 2^-k)^checks > 1 - t, in a form that does not cancel.
      const auto failure = [&](int rounds) {
        return -std::expm1(checks * std::log1p(-std::exp2(-rounds)));
      };
      EXPECT_LT(failure(k), t);
      if (k > 1) {
        EXPECT_GE(failure(k - 1), t * (1 - 1e-12));
      }
    }
  }
  EXPECT_EQ(theorem_v2_rounds(1, 0.5), 2);  // k > 1 exactly: 1 is not enough
}

TEST(TheoremV2, RefusesNonsense) {
  EXPECT_EQ(theorem_v2_rounds(0.5, 0.1), 0);
  EXPECT_EQ(theorem_v2_rounds(10, 0), 0);
  EXPECT_EQ(theorem_v2_rounds(10, 1), 0);
  EXPECT_EQ(theorem_v2_rounds(std::numeric_limits<double>::quiet_NaN(), 0.1), 0);
  EXPECT_EQ(theorem_v2_rounds(std::numeric_limits<double>::infinity(), 0.1), 0);
}

}  // namespace
}  // namespace tempo
