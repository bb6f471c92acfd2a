// File: fuzz/script_reader.h
// Reads a fuzzer's input as a script of small numbers. Past the end everything is 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tempo::fuzz {

class ScriptReader {
 public:
  ScriptReader(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  bool done() const { return size_ == 0; }
  template <class T>
  T read() {
    T value = 0;
    const std::size_t bytes = sizeof(T) < size_ ? sizeof(T) : size_;
    if (bytes > 0) std::memcpy(&value, data_, bytes);
    data_ += bytes;
    size_ -= bytes;
    return value;
  }
  // In [0, bound).
  std::uint32_t below(std::uint32_t bound) { return read<std::uint16_t>() % bound; }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

}  // namespace tempo::fuzz
