// File: wire/shared_region.h
// Anonymous shared memory (memfd) of fixed size. The creator seals the size, so that no peer can
// truncate the file under a mapping (which would be SIGBUS); the receiver checks size and seals
// before it maps. Nothing appears in /dev/shm, and nothing is left when the processes are gone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "wire/fd.h"

namespace tempo {

enum class PeerAccess {
  kReadWrite,
  kReadOnly,  // the creator alone may write; later writable mappings are refused by the kernel
};
enum class MapAccess { kReadWrite, kReadOnly };

class SharedRegion {
 public:
  // Zeroed, mapped readable and writable. Error kOutOfMemory.
  static Result<SharedRegion> create(const char* name, std::uint64_t bytes, PeerAccess access);
  // Maps what a peer created. Error kProtocol when size or seals are not as expected.
  static Result<SharedRegion> map(const Fd& fd, std::uint64_t bytes, MapAccess access);

  SharedRegion() = default;
  SharedRegion(SharedRegion&& other) noexcept;
  SharedRegion& operator=(SharedRegion&& other) noexcept;
  ~SharedRegion();

  std::byte* data() const { return data_; }
  std::uint64_t bytes() const { return bytes_; }
  // The creator's descriptor, to be passed on; invalid in a receiver.
  const Fd& fd() const { return fd_; }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
  Fd fd_;
};

}  // namespace tempo
