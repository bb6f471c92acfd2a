#include "client/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "wire/fd.h"

namespace tempo {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

Error cannot_read(const std::string& path, const std::string& why) {
  return {ErrorCode::kNotFound, "cannot read a file", path, "", why, "check the path"};
}

Error too_long(const std::string& path, std::uint64_t limit) {
  return {ErrorCode::kBadData,
          "the file is too long",
          path,
          "at most " + std::to_string(limit) + " bytes",
          "",
          ""};
}

Error no_memory(const std::string& path) {
  return {ErrorCode::kOutOfMemory, "no memory for a file", path, "", "", ""};
}

Result<Fd> open_regular(const std::string& path, std::uint64_t* size) {
  // Non-blocking, so that a pipe without a writer does not hang.
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) return cannot_read(path, std::strerror(errno));
  struct stat info = {};
  if (::fstat(file.get(), &info) != 0) return cannot_read(path, std::strerror(errno));
  if (S_ISDIR(info.st_mode)) return cannot_read(path, "a directory");
  if (!S_ISREG(info.st_mode)) return cannot_read(path, "not a regular file");
  *size = static_cast<std::uint64_t>(info.st_size);
  return file;
}

// read(buffer, bytes) returns how many came, 0 at the end, -1 for an error.
template <class Read>
Result<std::vector<std::byte>> read_all(const std::string& path, std::uint64_t expected,
                                        std::uint64_t limit, Read read) {
  std::vector<std::byte> bytes;
  try {
    bytes.reserve(std::min(expected, limit));
    for (;;) {
      const std::size_t had = bytes.size();
      bytes.resize(had + kChunkBytes);
      const auto got = read(bytes.data() + had, kChunkBytes);
      if (!got) return got.error();
      bytes.resize(had + *got);
      if (bytes.size() > limit) return too_long(path, limit);
      if (*got == 0) return bytes;
    }
  } catch (const std::bad_alloc&) {
    return no_memory(path);
  }
}

}  // namespace

Status check_readable(const std::string& path) {
  std::uint64_t size = 0;
  const auto file = open_regular(path, &size);
  return file ? Status() : file.error();
}

Result<std::vector<std::byte>> read_file(const std::string& path, std::uint64_t limit_bytes) {
  std::uint64_t size = 0;
  auto file = open_regular(path, &size);
  if (!file) return file.error();
  if (size > limit_bytes) return too_long(path, limit_bytes);
  return read_all(path, size, limit_bytes,
                  [&](std::byte* buffer, std::size_t bytes) -> Result<std::size_t> {
                    for (;;) {
                      const ssize_t got = ::read(file->get(), buffer, bytes);
                      if (got >= 0) return static_cast<std::size_t>(got);
                      if (errno != EINTR) return cannot_read(path, std::strerror(errno));
                    }
                  });
}

Result<std::vector<std::byte>> read_gzip_file(const std::string& path, std::uint64_t limit_bytes) {
  std::uint64_t size = 0;
  auto file = open_regular(path, &size);
  if (!file) return file.error();
  const auto close = [](gzFile gz) { ::gzclose(gz); };
  const int copy = ::fcntl(file->get(), F_DUPFD_CLOEXEC, 0);  // gzclose() closes it
  const std::unique_ptr<gzFile_s, decltype(close)> gz(::gzdopen(copy, "rb"), close);
  if (gz == nullptr) {
    if (copy >= 0) ::close(copy);
    return no_memory(path);
  }
  return read_all(
      path, size, limit_bytes, [&](std::byte* buffer, std::size_t bytes) -> Result<std::size_t> {
        const int got = ::gzread(gz.get(), buffer, static_cast<unsigned>(bytes));
        int code = Z_OK;
        const char* text = ::gzerror(gz.get(), &code);
        if (got < 0 || code == Z_BUF_ERROR) {
          return Error{ErrorCode::kBadData,          "not a whole gzip file", path, "", text,
                       "get an undamaged copy of it"};
        }
        return static_cast<std::size_t>(got);
      });
}

}  // namespace tempo
