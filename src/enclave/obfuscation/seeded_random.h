// File: enclave/obfuscation/seeded_random.h
// A RandomSource that gives the same bytes for the same seed, for tests and measuring programs. NOT
// for anything secret; not part of the product.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "base/philox.h"
#include "base/random.h"

namespace tempo {

class SeededRandom final : public RandomSource {
 public:
  explicit SeededRandom(std::uint64_t seed) : seed_(seed) {}

  void fill(std::span<std::byte> out) override {
    for (std::byte& byte : out) {
      if (used_ == sizeof(block_)) {
        block_ = philox4x32(seed_, {static_cast<std::uint32_t>(counter_),
                                    static_cast<std::uint32_t>(counter_ >> 32), 0, 0});
        ++counter_;
        used_ = 0;
      }
      byte = std::as_bytes(std::span(block_))[used_++];
    }
  }

  // Uniform in (0, 1).
  double unit() { return (random_u32(*this) + 0.5) * 0x1p-32; }
  // Standard normal (Box and Muller).
  double normal() {
    return std::sqrt(-2 * std::log(unit())) * std::cos(2 * std::numbers::pi * unit());
  }
  // Uniform in [low, high].
  int between(int low, int high) {
    return low + static_cast<int>(random_below(*this, static_cast<std::uint32_t>(high - low + 1)));
  }

 private:
  std::uint64_t seed_;
  std::uint64_t counter_ = 0;
  std::array<std::uint32_t, 4> block_{};
  std::size_t used_ = sizeof(block_);
};

}  // namespace tempo
