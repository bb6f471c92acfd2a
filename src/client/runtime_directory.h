// File: client/runtime_directory.h
// A private directory (0700) for the sockets and logs of one run, removed with the object. One that
// a killed run left behind is removed by the next run: a lock tells the living from the dead.
#pragma once

#include <string>

#include "base/error.h"
#include "wire/fd.h"

namespace tempo {

class RuntimeDirectory {
 public:
  // Under `base`, or where that is empty under $XDG_RUNTIME_DIR, $TMPDIR or /tmp, whichever is a
  // writable directory and short enough for socket paths. Error kIo.
  static Result<RuntimeDirectory> create(const std::string& base = "");
  RuntimeDirectory(RuntimeDirectory&& other) noexcept;
  RuntimeDirectory& operator=(RuntimeDirectory&&) = delete;
  ~RuntimeDirectory();

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  RuntimeDirectory(std::string path, Fd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  Fd lock_;
};

}  // namespace tempo
