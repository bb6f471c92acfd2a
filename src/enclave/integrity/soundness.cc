#include "enclave/integrity/soundness.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "enclave/obfuscation/kernels.h"

namespace tempo {
namespace {

// What a window may hold more than its share, because values are discrete.
constexpr double kUniformGrain = 0x1p-16;
constexpr double kGaussianGrain = 0x1p-14;
constexpr double kLargeError = 1e30;  // squared

bool makes_sense(const SoundnessGoal& goal) {
  return goal.t > 0 && goal.e > 0 && goal.checks > 0 && std::isfinite(goal.checks);
}

}  // namespace

double expected_tolerance_over_rms(const CheckShape& shape) {
  const auto cols = static_cast<double>(shape.cols);
  return row_tolerance(shape.inner, cols, cols);
}

double miss_probability(double tolerance, double e, CheckDistribution distribution) {
  if (!(tolerance >= 0) || !(e > 0)) return 1;
  const double half_width = tolerance / e;  // of the window
  switch (distribution) {
    case CheckDistribution::kUniform:
      return std::min(1.0, half_width / std::sqrt(3.0) + kUniformGrain);
    case CheckDistribution::kGaussian:
      return std::min(1.0, 2 * half_width / std::sqrt(2 * std::numbers::pi) + kGaussianGrain);
    case CheckDistribution::kBinary:
      return half_width < 0.5 ? 0.5 : 1;
  }
  return 1;
}

double largest_error_miss_probability(std::int64_t inner, CheckDistribution distribution) {
  // The error is all of the result, and the result's size over the operands' is beyond `inner`.
  return miss_probability(
      row_tolerance(inner, kLargeError / static_cast<double>(inner + 1), kLargeError),
      std::sqrt(kLargeError), distribution);
}

int rounds_needed(const CheckShape& shape, const SoundnessGoal& goal) {
  if (shape.inner < 1 || shape.cols < 1 || !makes_sense(goal)) return 0;
  const double tolerance = expected_tolerance_over_rms(shape);
  for (int rounds = 1; rounds <= kMaxRounds; ++rounds) {
    if (soundness_reached(tolerance, shape.inner, rounds, goal) <= goal.t) return rounds;
  }
  return 0;
}

double soundness_reached(double tolerance_over_rms, std::int64_t inner, int rounds,
                         const SoundnessGoal& goal) {
  // The chance falls with the size of the error, and rises again towards its limit.
  const double q = std::max(miss_probability(tolerance_over_rms, goal.e, goal.distribution),
                            largest_error_miss_probability(inner, goal.distribution));
  return std::min(1.0, goal.checks * std::pow(q, rounds));
}

int theorem_v2_rounds(double checks, double t) {
  if (!(t > 0 && t < 1 && checks >= 1 && std::isfinite(checks))) return 0;
  // 1 - (1-t)^(1/checks), without the cancellation.
  const double missed = -std::expm1(std::log1p(-t) / checks);
  return static_cast<int>(std::floor(-std::log2(missed))) + 1;
}

}  // namespace tempo
