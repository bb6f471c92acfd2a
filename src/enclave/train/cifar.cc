#include "enclave/train/cifar.h"

namespace tempo {

Result<std::int64_t> parse_cifar(const std::string& name, std::span<const std::byte> bytes) {
  if (bytes.empty() || bytes.size() % kCifarRecordBytes != 0) {
    return Error{ErrorCode::kBadData,
                 "not a whole number of CIFAR-10 records",
                 name,
                 "a multiple of " + std::to_string(kCifarRecordBytes) + " bytes, at least one",
                 std::to_string(bytes.size()),
                 "fetch the binary version of CIFAR-10 (cifar-10-binary.tar.gz) again"};
  }
  const std::size_t count = bytes.size() / kCifarRecordBytes;
  for (std::size_t i = 0; i < count; ++i) {
    const auto label = std::to_integer<std::int32_t>(bytes[i * kCifarRecordBytes]);
    if (label >= kCifarClasses) {
      return Error{ErrorCode::kBadData,
                   "label out of range",
                   name + ", record " + std::to_string(i),
                   "0.." + std::to_string(kCifarClasses - 1),
                   std::to_string(label),
                   "fetch the binary version of CIFAR-10 (not CIFAR-100) again"};
    }
  }
  return static_cast<std::int64_t>(count);
}

}  // namespace tempo
