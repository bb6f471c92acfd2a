// File: wire/event.h
// Event: a flag of this process that poll(2) can wait for (an eventfd that is never shared).
// Thread safety: all members, from any thread; raise() also from a signal handler.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/error.h"
#include "wire/fd.h"

namespace tempo {

class Event {
 public:
  Event() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { TEMPO_ASSERT(fd_.valid()); }

  // Readable while it is raised.
  int fd() const { return fd_.get(); }
  void raise() {
    const int saved = errno;
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(fd_.get(), &one, sizeof(one));
    errno = saved;
  }
  void clear() {
    std::uint64_t count;
    [[maybe_unused]] const auto got = ::read(fd_.get(), &count, sizeof(count));
  }

 private:
  Fd fd_;
};

}  // namespace tempo
