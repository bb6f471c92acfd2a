// File: client/input_file.h
// Whole files into memory, with a bound.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace tempo {

inline constexpr std::uint64_t kMaxModelFileBytes = std::uint64_t{2} << 30;
inline constexpr std::uint64_t kMaxDataFileBytes = std::uint64_t{8} << 30;

// Errors: kNotFound (missing, unreadable, no regular file); kBadData when it is longer than
// `limit_bytes`; kOutOfMemory.
Status check_readable(const std::string& path);
Result<std::vector<std::byte>> read_file(const std::string& path, std::uint64_t limit_bytes);
// The same for a gzip file, with the bound on what comes out; a file that is not compressed is read
// as it is. kBadData also for a damaged or truncated one.
Result<std::vector<std::byte>> read_gzip_file(const std::string& path, std::uint64_t limit_bytes);

}  // namespace tempo
