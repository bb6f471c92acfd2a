// File: base/philox.h
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a
// counter-based generator. Value = f(seed, counter), so that shuffling, augmentation and dropout
// can be repeated from (seed, epoch, sample) without state. NOT for keys or check vectors.
#pragma once

#include <array>
#include <cstdint>

namespace tempo {

// What a stream of numbers is for; keeps the streams of one seed apart.
enum class PhiloxPurpose : std::uint32_t { kShuffle = 1, kAugment = 2, kDropout = 3, kInit = 4 };

// Four 32-bit words for one counter value.
std::array<std::uint32_t, 4> philox4x32(std::uint64_t seed, std::array<std::uint32_t, 4> counter);

// Uniform in [0, 1) with 24 bits.
inline float philox_unit(std::uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24F;
}

}  // namespace tempo
