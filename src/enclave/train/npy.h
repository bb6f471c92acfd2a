// File: enclave/train/npy.h
// NumPy's .npy format, versions 1 and 2: magic, version, header length, a Python dict literal with
// the keys descr, fortran_order and shape, the values. C order and little-endian only.
// The bytes come from outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace tempo {

enum class NpyType { kFloat32, kUint8, kInt8, kInt32, kInt64 };
std::string_view npy_type_name(NpyType type);  // "float32", "uint8", ...

struct NpyArray {
  NpyType type = NpyType::kFloat32;
  std::vector<std::int64_t> shape;  // at most 8 dimensions, each >= 1
  std::size_t offset = 0;           // where the values begin; they reach to the end of the file
};

// Error kBadData: not .npy, another version, type or order, a malformed header, an empty dimension,
// truncated, bytes left over.
Result<NpyArray> parse_npy(const std::string& name, std::span<const std::byte> bytes);

// Integers from an array that parse_npy() has accepted: labels or tokens, `what` in errors. Error
// kBadData: not integers, a negative one or one above 2^31 - 1 (with its sample).
Result<std::vector<std::int32_t>> npy_integers(const std::string& name, const NpyArray& array,
                                               std::span<const std::byte> bytes,
                                               const std::string& what);

// A float32 array as a .npy file (version 1). Precondition: as many values as `shape` says.
std::vector<std::byte> write_npy(std::span<const float> values,
                                 std::span<const std::int64_t> shape);

}  // namespace tempo
