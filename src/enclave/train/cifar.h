// File: enclave/train/cifar.h
// The official binary format of CIFAR-10: records of one label byte and 3 x 32 x 32 value bytes
// (red, green, blue planes, row by row), nothing else. The bytes come from outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/error.h"

namespace tempo {

inline constexpr std::int64_t kCifarChannels = 3;
inline constexpr std::int64_t kCifarSide = 32;
inline constexpr std::size_t kCifarRecordBytes = 1 + 3 * 32 * 32;
inline constexpr std::int32_t kCifarClasses = 10;

// The number of records. Error kBadData: empty, not a whole number of records, a label above 9.
Result<std::int64_t> parse_cifar(const std::string& name, std::span<const std::byte> bytes);

}  // namespace tempo
