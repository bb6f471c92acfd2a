// File: tests/npy_file.h
// Writes NumPy's files, for tests.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace tempo {

// type: NumPy's name for T ("|u1", "<i8"); shape: as Python writes it ("(320, 1, 12, 12)").
template <class T>
void write_npy(const std::filesystem::path& path, const char* type, const std::string& shape,
               const std::vector<T>& values) {
  std::string header =
      std::string("{'descr': '") + type + "', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file.write("\x93NUMPY\x01\x00", 8);
  file.put(static_cast<char>(header.size() & 0xff)).put(static_cast<char>(header.size() >> 8));
  file << header;
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(T)));
}

}  // namespace tempo
