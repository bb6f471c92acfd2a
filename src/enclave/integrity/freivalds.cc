#include "enclave/integrity/freivalds.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>

namespace tempo {

namespace {

// Words become values two at a time; count is even.
void make_gaussian(std::span<const std::uint16_t> words, float* out) {
  constexpr float kStep = 0x1p-16F;
  for (std::size_t i = 0; i < words.size(); i += 2) {
    const float radius = std::sqrt(-2 * std::log((static_cast<float>(words[i]) + 0.5F) * kStep));
    const float angle = 2 * std::numbers::pi_v<float> * (static_cast<float>(words[i + 1]) + 0.5F);
    out[i] = radius * std::cos(angle * kStep);
    out[i + 1] = radius * std::sin(angle * kStep);
  }
}

}  // namespace

std::string_view check_distribution_name(CheckDistribution distribution) {
  switch (distribution) {
    case CheckDistribution::kUniform:
      return "uniform";
    case CheckDistribution::kGaussian:
      return "gaussian";
    case CheckDistribution::kBinary:
      return "binary";
  }
  return "";
}

void draw_check_vector(RandomSource& random, CheckDistribution distribution, std::span<float> out) {
  // The odd numbers from -65535 to 65535 have variance (2^32 - 1) / 3.
  const auto step = static_cast<float>(std::sqrt(3.0 / (0x1p32 - 1)));
  std::array<std::uint16_t, 1024> words;
  for (std::size_t begin = 0; begin < out.size(); begin += words.size()) {
    const std::size_t count = std::min(words.size(), out.size() - begin);
    random.fill(std::as_writable_bytes(std::span(words).first(count)));
    if (distribution == CheckDistribution::kGaussian) {
      std::array<float, words.size()> values;
      const std::size_t even = (count + 1) / 2 * 2;
      random.fill(std::as_writable_bytes(std::span(words).subspan(count, even - count)));
      make_gaussian(std::span(words).first(even), values.data());
      std::copy_n(values.data(), count, out.data() + begin);
      wipe(values.data(), sizeof(values));
      continue;
    }
    for (std::size_t i = 0; i < count; ++i) {
      const int word = words[i];
      out[begin + i] = distribution == CheckDistribution::kUniform
                           ? static_cast<float>(2 * word - 65535) * step
                           : static_cast<float>(word & 1);
    }
  }
  wipe(words.data(), sizeof(words));
}

double row_tolerance(std::int64_t inner, double operand_squared, double result_squared) {
  const auto n = static_cast<double>(inner);
  // 0 / 0 is a row of zeros: std::min then keeps n, which multiplies zero.
  const double coherence = std::min(n, result_squared / operand_squared);
  const double e_squared = operand_squared + kNegligible * kNegligible +
                           result_squared * (1 + kCoherentGuard * kCoherentGuard * coherence);
  return kToleranceSafety * kUnitRoundoff * (std::sqrt(n) + kToleranceGuard) * std::sqrt(e_squared);
}

bool accept_row(std::span<const double> differences, std::int64_t inner, double operand_squared,
                double result_squared) {
  const double tolerance = row_tolerance(inner, operand_squared, result_squared);
  if (!std::isfinite(tolerance)) return false;
  bool accepted = true;
  for (const double difference : differences) {
    if (!(std::abs(difference) <= tolerance)) accepted = false;  // NaN is never <= anything
  }
  return accepted;
}

double row_deviation(std::span<const double> differences, CheckDistribution distribution) {
  const double mean_square = distribution == CheckDistribution::kBinary ? 0.5 : 1.0;
  double squares = 0;
  for (const double difference : differences) squares += difference * difference;
  const double deviation =
      std::sqrt(squares / (mean_square * static_cast<double>(differences.size())));
  return std::isfinite(deviation) ? deviation : std::numeric_limits<double>::infinity();
}

}  // namespace tempo
