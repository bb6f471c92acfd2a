// Samples and labels in .npy: the first two bytes say where one ends and the other begins.
#include "fuzz/fuzz_data.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tempo;
  if (size < 2) return 0;
  const std::size_t cut = std::min<std::size_t>(data[0] | data[1] << 8, size - 2);
  data += 2;
  size -= 2;
  std::vector<NamedFile> files;
  files.push_back({"x.npy", fuzz::bytes_of(data, cut)});
  if (cut < size) files.push_back({"y.npy", fuzz::bytes_of(data + cut, size - cut)});
  fuzz::load("npy", std::move(files));
  return 0;
}
