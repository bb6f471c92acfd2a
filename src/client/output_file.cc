#include "client/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "wire/fd.h"

namespace tempo {
namespace {

Error cannot_write(const std::string& path, const std::string& why) {
  return {ErrorCode::kIo, "cannot write", path, "", why, "choose another path"};
}

std::string temporary_path(const std::string& path) {
  return path + ".tmp-" + std::to_string(::getpid());
}

// Whether something is there that must not be replaced by a regular file.
Result<bool> is_special(const std::string& path) {
  struct stat info = {};
  if (path.empty()) return cannot_write("(empty path)", "");
  if (::stat(path.c_str(), &info) != 0) return false;
  if (S_ISDIR(info.st_mode)) return cannot_write(path, "a directory");
  return !S_ISREG(info.st_mode);
}

Status write_all(const Fd& file, const std::string& path, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(file.get(), content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return cannot_write(path, std::strerror(errno));
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace

Status check_writable(const std::string& path) {
  const auto special = is_special(path);
  if (!special) return special.error();
  if (*special) {
    if (::access(path.c_str(), W_OK) != 0) return cannot_write(path, std::strerror(errno));
    return {};
  }
  const std::string temporary = temporary_path(path);
  const Fd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!file.valid()) return cannot_write(path, std::strerror(errno));
  ::unlink(temporary.c_str());
  return {};
}

Status write_file(const std::string& path, std::string_view content) {
  const auto special = is_special(path);
  if (!special) return special.error();
  if (*special) {
    const Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file.valid()) return cannot_write(path, std::strerror(errno));
    return write_all(file, path, content);
  }
  const std::string temporary = temporary_path(path);
  const Fd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file.valid()) return cannot_write(path, std::strerror(errno));
  Status status = write_all(file, path, content);
  if (status.ok() && ::fsync(file.get()) != 0) status = cannot_write(path, std::strerror(errno));
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = cannot_write(path, std::strerror(errno));
  }
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

}  // namespace tempo
