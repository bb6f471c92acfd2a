// File: enclave/train/test_files.h
// Small data files for tests, made byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace tempo::test {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(std::string_view text) {
  Bytes bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

template <class T>
void append_values(Bytes& bytes, const std::vector<T>& values) {
  const std::size_t at = bytes.size();
  bytes.resize(at + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes.data() + at, values.data(), values.size() * sizeof(T));
}

inline Bytes idx_file(std::initializer_list<std::uint32_t> dims,
                      const std::vector<std::uint8_t>& values, unsigned type = 0x08) {
  Bytes bytes{std::byte{0}, std::byte{0}, static_cast<std::byte>(type),
              static_cast<std::byte>(dims.size())};
  for (const std::uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      bytes.push_back(static_cast<std::byte>(dim >> shift & 0xFFU));
    }
  }
  append_values(bytes, values);
  return bytes;
}

// Version 1 or 2, with the dict as given and no padding.
template <class T>
Bytes npy_file(std::string_view dict, const std::vector<T>& values, int version = 1) {
  Bytes bytes = bytes_of("\x93NUMPY");
  bytes.push_back(static_cast<std::byte>(version));
  bytes.push_back(std::byte{0});
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) {
    bytes.push_back(static_cast<std::byte>(dict.size() >> (8 * i) & 0xFFU));
  }
  const Bytes text = bytes_of(dict);
  bytes.insert(bytes.end(), text.begin(), text.end());
  append_values(bytes, values);
  return bytes;
}

inline std::string npy_dict(std::string_view descr, std::string_view shape) {
  return "{'descr': '" + std::string(descr) +
         "', 'fortran_order': False, 'shape': " + std::string(shape) + ", }\n";
}

// Records with these labels; value v of record r is (r + v) mod 256.
inline Bytes cifar_file(const std::vector<int>& labels) {
  Bytes bytes;
  for (std::size_t r = 0; r < labels.size(); ++r) {
    bytes.push_back(static_cast<std::byte>(labels[r]));
    for (std::size_t v = 0; v < 3072; ++v) bytes.push_back(static_cast<std::byte>((r + v) & 0xFFU));
  }
  return bytes;
}

}  // namespace tempo::test
