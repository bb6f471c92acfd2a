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

double row_tolerance(std::int64_t inner, double magnitude_squared) {
  const double e = std::sqrt(magnitude_squared + kNegligible * kNegligible);
  return kToleranceSafety * kUnitRoundoff *
         (std::sqrt(static_cast<double>(inner)) + kToleranceGuard) * e;
}

bool accept_row(std::span<const double> differences, std::int64_t inner, double magnitude_squared) {
  const double tolerance = row_tolerance(inner, magnitude_squared);
  if (!std::isfinite(tolerance)) return false;
  bool accepted = true;
  for (const double difference : differences) {
    if (!(std::abs(difference) <= tolerance)) accepted = false;  // NaN is never <= anything
  }
  return accepted;
}

}  // namespace tempo
