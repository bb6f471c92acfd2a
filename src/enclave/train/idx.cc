#include "enclave/train/idx.h"

namespace tempo {
namespace {

constexpr std::size_t kMagicBytes = 4;
constexpr std::size_t kDimensionBytes = 4;
constexpr unsigned kUnsignedByte = 0x08;

unsigned byte_at(std::span<const std::byte> bytes, std::size_t i) {
  return std::to_integer<unsigned>(bytes[i]);
}

Error bad_idx(const std::string& name, std::string what, std::string expected, std::string got) {
  return {ErrorCode::kBadData,
          std::move(what),
          name,
          std::move(expected),
          std::move(got),
          "fetch the file again and check that it was decompressed"};
}

}  // namespace

Result<IdxArray> parse_idx(const std::string& name, std::span<const std::byte> bytes,
                           std::size_t rank) {
  const std::size_t header_bytes = kMagicBytes + rank * kDimensionBytes;
  if (bytes.size() < header_bytes) {
    return bad_idx(name, "truncated IDX file",
                   "at least " + std::to_string(header_bytes) + " bytes",
                   std::to_string(bytes.size()));
  }
  if (byte_at(bytes, 0) != 0 || byte_at(bytes, 1) != 0) {
    return bad_idx(name, "not an IDX file", "two zero bytes at its start", "others");
  }
  if (byte_at(bytes, 2) != kUnsignedByte) {
    return bad_idx(name, "unsupported IDX value type", "8 (unsigned byte)",
                   std::to_string(byte_at(bytes, 2)));
  }
  if (byte_at(bytes, 3) != rank) {
    return bad_idx(name, "wrong number of dimensions", std::to_string(rank),
                   std::to_string(byte_at(bytes, 3)));
  }
  IdxArray array;
  array.offset = header_bytes;
  const std::size_t payload = bytes.size() - header_bytes;
  std::size_t elements = 1;
  for (std::size_t d = 0; d < rank; ++d) {
    std::size_t size = 0;
    for (std::size_t i = 0; i < kDimensionBytes; ++i) {
      size = size << 8U | byte_at(bytes, kMagicBytes + d * kDimensionBytes + i);
    }
    if (size == 0) {
      return bad_idx(name, "empty dimension " + std::to_string(d), "at least 1", "0");
    }
    array.shape.push_back(static_cast<std::int64_t>(size));
    // Division keeps the product from overflowing.
    if (size > payload / elements) {
      return bad_idx(name, "truncated IDX file",
                     "more than " + std::to_string(payload) + " bytes of values",
                     std::to_string(payload));
    }
    elements *= size;
  }
  if (elements != payload) {
    return bad_idx(name, "bytes left over at the end of the IDX file",
                   std::to_string(elements) + " bytes of values", std::to_string(payload));
  }
  return array;
}

}  // namespace tempo
