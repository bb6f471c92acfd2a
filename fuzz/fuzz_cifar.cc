// Two files of CIFAR-10 records. The first byte says how the rest is used: as it is, or repeated to
// whole records, so that short inputs reach what lies behind the size check.
#include "enclave/train/cifar.h"
#include "fuzz/fuzz_data.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tempo;
  if (size < 2) return 0;
  std::vector<std::byte> bytes = fuzz::bytes_of(data + 1, size - 1);
  const std::size_t records = data[0] % 4;
  if (records > 0) {
    const std::size_t given = bytes.size();
    bytes.resize(records * kCifarRecordBytes);
    for (std::size_t i = given; i < bytes.size(); ++i) bytes[i] = bytes[i - given];
  }
  std::vector<NamedFile> files;
  files.push_back({(data[0] & 4U) != 0 ? "data_batch_3.bin" : "test_batch.bin", bytes});
  files.push_back({"data_batch_1.bin", std::move(bytes)});
  fuzz::load("cifar10", std::move(files));
  return 0;
}
