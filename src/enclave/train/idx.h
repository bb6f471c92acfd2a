// File: enclave/train/idx.h
// The IDX format of MNIST and Fashion-MNIST: two zero bytes, a type byte, the number of dimensions,
// the dimensions as big-endian 32-bit words, the values. Only the type unsigned byte is read.
// The bytes come from outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace tempo {

struct IdxArray {
  std::vector<std::int64_t> shape;  // every dimension >= 1
  std::size_t offset = 0;           // where the values begin; they reach to the end of the file
};

// Error kBadData: not IDX, another type or rank, an empty dimension, truncated, bytes left over.
Result<IdxArray> parse_idx(const std::string& name, std::span<const std::byte> bytes,
                           std::size_t rank);

}  // namespace tempo
