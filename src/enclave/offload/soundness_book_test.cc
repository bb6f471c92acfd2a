#include "enclave/offload/soundness_book.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tempo {
namespace {

constexpr std::int64_t kInner = 64;
constexpr std::size_t kRows = 10;
constexpr double kTolerance = 1e-4;
const SoundnessGoal kGoal{1e-6, 0.01, 1000, CheckDistribution::kUniform};

// Of one round, worked out apart from soundness.cc.
const double kMiss = kTolerance / (std::sqrt(3.0) * kGoal.e) + std::exp2(-16);

Plan plan_with(int rounds, double allowed_miss) {
  Plan plan;
  plan.ops.resize(2);
  for (int i = 0; i < 2; ++i) {
    plan.ops[i].op.index = i;
    plan.ops[i].op.name = i == 0 ? "first" : "second";
  }
  plan.ops[1].rounds_forward = rounds;
  plan.ops[1].rounds_weight_gradient = rounds + 1;
  plan.ops[1].rounds_input_gradient = rounds + 2;
  plan.allowed_miss = allowed_miss;
  return plan;
}

CheckedProduct forward(int rounds) {
  return {1, ProductKind::kForward, rounds, kInner, kRows};
}

CheckOutcome outcome(bool passed, double tolerance = kTolerance) {
  CheckOutcome outcome;
  outcome.passed = passed;
  outcome.tolerance_over_rms = tolerance;
  return outcome;
}

TEST(SoundnessBook, AddsUpTheChancesOfAllChecks) {
  SoundnessBook book(plan_with(2, 1), kGoal);
  book.record(forward(2), outcome(true));
  book.record(forward(2), outcome(true, kTolerance / 2));
  std::vector<ProductSoundness> products;
  book.report(products);
  ASSERT_EQ(products.size(), 1U) << "only what was checked";
  EXPECT_EQ(products[0].operator_name, "second");
  EXPECT_EQ(products[0].product, "forward");
  EXPECT_EQ(products[0].checks, 2U);
  EXPECT_EQ(products[0].tolerance_over_rms, kTolerance);
  const double half = (kMiss + std::exp2(-16)) / 2;
  EXPECT_NEAR(products[0].miss, kMiss * kMiss + half * half, 1e-12);
}

TEST(SoundnessBook, CountsEveryRowOfARefusedProduct) {
  SoundnessBook book(plan_with(1, 1), kGoal);
  book.record(forward(1), outcome(false));
  std::vector<ProductSoundness> products;
  book.report(products);
  EXPECT_NEAR(products[0].miss, kMiss * kRows, 1e-12);
}

TEST(SoundnessBook, AddsARoundWhereTheShareIsExceeded) {
  SoundnessBook book(plan_with(2, kMiss * kMiss / 2), kGoal);
  EXPECT_EQ(book.rounds(1, ProductKind::kForward), 2);
  EXPECT_EQ(book.record(forward(2), outcome(true)), 3);
  // Vectors that were drawn before are no news.
  EXPECT_EQ(book.record(forward(2), outcome(true)), 3);
  EXPECT_EQ(book.record(forward(3), outcome(true)), 3);
  EXPECT_EQ(book.rounds(1, ProductKind::kWeightGradient), 3) << "as planned";
}

TEST(SoundnessBook, AddsNoRoundThatGainsLittle) {
  // The tolerance is half of what has to be caught: a round gains a factor of 3.5.
  SoundnessBook book(plan_with(2, 1e-12), kGoal);
  EXPECT_EQ(book.record(forward(2), outcome(true, kGoal.e / 2)), 2);
}

TEST(SoundnessBook, APlanThatIsDealtAgainNeverTakesRoundsAway) {
  SoundnessBook book(plan_with(3, 1), kGoal);
  book.adopt(plan_with(2, 1));
  EXPECT_EQ(book.rounds(1, ProductKind::kForward), 3);
  book.adopt(plan_with(4, 1));
  EXPECT_EQ(book.rounds(1, ProductKind::kForward), 4);
  EXPECT_EQ(book.rounds(1, ProductKind::kInputGradient), 6);
  EXPECT_EQ(book.rounds(0, ProductKind::kForward), 0) << "stays inside";
}

}  // namespace
}  // namespace tempo
