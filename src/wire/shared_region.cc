#include "wire/shared_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace tempo {
namespace {

constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

Error no_memory(const char* step, std::uint64_t bytes) {
  return {ErrorCode::kOutOfMemory,
          std::string("shared memory: ") + step + " failed",
          "",
          std::to_string(bytes) + " bytes",
          std::strerror(errno),
          "lower the ring's size or free memory"};
}

}  // namespace

Result<SharedRegion> SharedRegion::create(const char* name, std::uint64_t bytes,
                                          PeerAccess access) {
  SharedRegion region;
  region.fd_ = Fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!region.fd_.valid()) return no_memory("memfd_create", bytes);
  const int fd = region.fd_.get();
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0) return no_memory("ftruncate", bytes);
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return no_memory("mmap", bytes);
  region.data_ = static_cast<std::byte*>(data);
  region.bytes_ = bytes;
  // Our own mapping is there already and stays writable.
  const int seals = kSizeSeals | (access == PeerAccess::kReadOnly ? F_SEAL_FUTURE_WRITE : 0);
  if (::fcntl(fd, F_ADD_SEALS, seals) != 0) return no_memory("sealing", bytes);
  return region;
}

Result<SharedRegion> SharedRegion::map(const Fd& fd, std::uint64_t bytes, MapAccess access) {
  // Seals first: once the size is sealed, what fstat says stays true.
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  struct stat info = {};
  const bool ok = seals >= 0 && (seals & kSizeSeals) == kSizeSeals &&
                  ::fstat(fd.get(), &info) == 0 && info.st_size >= 0 &&
                  static_cast<std::uint64_t>(info.st_size) == bytes;
  if (!ok) {
    return Error{ErrorCode::kProtocol,
                 "the peer's shared memory is not what was agreed",
                 "",
                 "a sealed memory file of " + std::to_string(bytes) + " bytes",
                 seals < 0 ? "no memory file" : std::to_string(info.st_size) + " bytes",
                 ""};
  }
  const int protection = access == MapAccess::kReadWrite ? PROT_READ | PROT_WRITE : PROT_READ;
  void* data = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return no_memory("mmap", bytes);
  SharedRegion region;
  region.data_ = static_cast<std::byte*>(data);
  region.bytes_ = bytes;
  return region;
}

SharedRegion::SharedRegion(SharedRegion&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      fd_(std::move(other.fd_)) {}

SharedRegion& SharedRegion::operator=(SharedRegion&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) ::munmap(data_, bytes_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    fd_ = std::move(other.fd_);
  }
  return *this;
}

SharedRegion::~SharedRegion() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace tempo
