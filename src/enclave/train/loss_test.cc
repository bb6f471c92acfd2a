#include "enclave/train/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace tempo {
namespace {

constexpr std::int64_t kClasses = 5;
const std::vector<std::int32_t> kLabels{3, 0, 4};

std::vector<float> some_logits() {
  std::vector<float> logits(kLabels.size() * kClasses);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    logits[i] = 3 * std::sin(static_cast<float>(i * i + 1));
  }
  return logits;
}

// Straight from the definition, in long double.
double naive_loss(const std::vector<float>& logits) {
  long double total = 0;
  for (std::size_t i = 0; i < kLabels.size(); ++i) {
    long double sum = 0;
    for (std::size_t j = 0; j < kClasses; ++j) {
      sum += std::exp(static_cast<long double>(logits[i * kClasses + j]));
    }
    total -= std::log(std::exp(static_cast<long double>(
                          logits[i * kClasses + static_cast<std::size_t>(kLabels[i])])) /
                      sum);
  }
  return static_cast<double>(total / kLabels.size());
}

TEST(Loss, MatchesTheDefinition) {
  const auto logits = some_logits();
  const auto loss = softmax_cross_entropy(logits, kLabels, kClasses, {});
  ASSERT_TRUE(loss.ok());
  EXPECT_NEAR(loss->mean_loss, naive_loss(logits), 1e-14);
}

TEST(Loss, GradientMatchesFiniteDifferences) {
  auto logits = some_logits();
  std::vector<float> gradient(logits.size());
  ASSERT_TRUE(softmax_cross_entropy(logits, kLabels, kClasses, gradient).ok());
  constexpr float kStep = 0x1p-9F;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float kept = logits[i];
    // The steps that float32 makes of kStep are known exactly.
    logits[i] = kept + kStep;
    const double up = naive_loss(logits);
    const double width_up = static_cast<double>(logits[i]);
    logits[i] = kept - kStep;
    const double down = naive_loss(logits);
    const double width = width_up - static_cast<double>(logits[i]);
    logits[i] = kept;
    // Central difference: h^2 / 6 times a third derivative that is below 1 in magnitude.
    EXPECT_NEAR(gradient[i], (up - down) / width, kStep * kStep / 6 + 1e-7) << i;
  }
}

TEST(Loss, CountsTheFirstOfEqualLogits) {
  const std::vector<float> logits{1, 1, 0, 0, 2, 2};
  const std::vector<std::int32_t> labels{0, 2};
  const auto loss = softmax_cross_entropy(logits, labels, 3, {});
  ASSERT_TRUE(loss.ok());
  EXPECT_EQ(loss->correct, 1);
}

TEST(Loss, LargeLogitsDoNotOverflow) {
  const std::vector<float> logits{3e38F, -3e38F, 1000, 990};
  const std::vector<std::int32_t> labels{0, 1};
  std::vector<float> gradient(4);
  const auto loss = softmax_cross_entropy(logits, labels, 2, gradient);
  ASSERT_TRUE(loss.ok());
  EXPECT_NEAR(loss->mean_loss, (10 + std::log1p(std::exp(-10.0))) / 2, 1e-12);
  EXPECT_EQ(gradient[0], 0.0F);
  EXPECT_EQ(gradient[1], 0.0F);
  EXPECT_NEAR(gradient[2], 0.5, 1e-4);
  EXPECT_NEAR(gradient[3], -0.5, 1e-4);
}

TEST(Loss, NotANumberMeansDiverged) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::int32_t> labels{0};
  for (const std::vector<float>& logits : {std::vector<float>{nan, 1},
                                           {1, nan},
                                           {nan, nan},
                                           {infinity, 1},
                                           {1, infinity},
                                           {-infinity, -infinity},
                                           {-infinity, 1}}) {
    const auto loss = softmax_cross_entropy(logits, labels, 2, {});
    ASSERT_FALSE(loss.ok()) << logits[0] << " " << logits[1];
    EXPECT_EQ(loss.error().code, ErrorCode::kDiverged);
  }
}

TEST(Argmax, NanNeverWins) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(argmax(std::vector<float>{nan, 1, nan, 2}), 3);
  EXPECT_EQ(argmax(std::vector<float>{5, nan, 5}), 0);
}

}  // namespace
}  // namespace tempo
