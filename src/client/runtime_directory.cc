#include "client/runtime_directory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <system_error>
#include <utility>

namespace tempo {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "tempo-run-";
// 107 bytes are a socket path's limit; the rest is for "/tempo-run-XXXXXX/offloader.sock".
constexpr std::size_t kMaxBaseBytes = 70;

Fd lock_directory(const std::string& path) {
  Fd lock(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (lock.valid() && ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) lock.reset();
  return lock;
}

// Directories of ours whose owner does not live any more.
void remove_leftovers(const std::string& base) {
  std::error_code ec;
  for (fs::directory_iterator it(base, ec), end; !ec && it != end; it.increment(ec)) {
    const std::string path = it->path().string();
    if (!it->path().filename().string().starts_with(kPrefix)) continue;
    struct stat info = {};
    if (::lstat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != ::geteuid()) {
      continue;
    }
    const Fd lock = lock_directory(path);
    std::error_code ignored;
    if (lock.valid()) fs::remove_all(path, ignored);
  }
}

}  // namespace

Result<RuntimeDirectory> RuntimeDirectory::create(const std::string& base) {
  std::string last_error = "no candidate";
  const std::initializer_list<const char*> candidates = {
      base.c_str(), std::getenv("XDG_RUNTIME_DIR"), std::getenv("TMPDIR"), "/tmp"};
  for (const char* candidate : candidates) {
    if (candidate == nullptr || *candidate != '/') continue;
    const std::string root = candidate;
    if (root.size() > kMaxBaseBytes) continue;
    remove_leftovers(root);
    // Before it is locked, another run that starts now may take it for a leftover.
    for (int tries = 0; tries < 3; ++tries) {
      std::string path = root + "/" + std::string(kPrefix) + "XXXXXX";
      if (::mkdtemp(path.data()) == nullptr) {
        last_error = root + ": " + std::strerror(errno);
        break;
      }
      Fd lock = lock_directory(path);
      if (lock.valid() && ::access(path.c_str(), W_OK) == 0) {
        return RuntimeDirectory(std::move(path), std::move(lock));
      }
      last_error = path + ": " + std::strerror(errno);
    }
  }
  return Error{ErrorCode::kIo,
               "cannot make a directory for this run",
               "",
               "",
               last_error,
               "set TMPDIR to a writable directory with a short path"};
}

RuntimeDirectory::RuntimeDirectory(RuntimeDirectory&& other) noexcept
    : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}

RuntimeDirectory::~RuntimeDirectory() {
  if (path_.empty()) return;
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace tempo
