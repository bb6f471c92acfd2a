#include "enclave/integrity/freivalds.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace tempo {

void draw_check_vector(RandomSource& random, CheckDistribution distribution, std::span<float> out) {
  // The odd numbers from -65535 to 65535 have variance (2^32 - 1) / 3.
  const auto step = static_cast<float>(std::sqrt(3.0 / (0x1p32 - 1)));
  std::array<std::uint16_t, 1024> words;
  for (std::size_t begin = 0; begin < out.size(); begin += words.size()) {
    const std::size_t count = std::min(words.size(), out.size() - begin);
    random.fill(std::as_writable_bytes(std::span(words).first(count)));
    for (std::size_t i = 0; i < count; ++i) {
      const int word = words[i];
      out[begin + i] = distribution == CheckDistribution::kUniform
                           ? static_cast<float>(2 * word - 65535) * step
                           : static_cast<float>(word & 1);
    }
  }
  wipe(words.data(), std::min(words.size(), out.size()) * sizeof(words[0]));
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

}  // namespace tempo
