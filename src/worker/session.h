// File: worker/session.h
// One off-loader's connection, from its hello to its end. The off-loader is not trusted: every
// number from it is checked, and a violation ends the session.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "base/log_limit.h"
#include "wire/fd.h"
#include "wire/ring_layout.h"
#include "wire/shared_region.h"
#include "wire/task.h"
#include "worker/device.h"
#include "worker/task_executor.h"

namespace tempo {

inline constexpr int kHelloTimeoutMs = 2000;

// What an off-loader is told.
WorkerInfo worker_info(const Device& device, const StoreLimits& limits);

enum class SessionEnd { kPeerGone, kStopped };

class Session {
 public:
  // stop_fd: readable when the program is to end.
  Session(Fd socket, TaskExecutor& executor, const Device& device, LogLimit& log_limit, int stop_fd)
      : socket_(std::move(socket)),
        executor_(executor),
        device_(device),
        log_limit_(log_limit),
        stop_fd_(stop_fd) {}

  // Returns when the off-loader is gone or broke the protocol (logged), or on stop_fd. The store is
  // as the off-loader left it.
  SessionEnd run();

 private:
  struct Arenas {
    RingGeometry geometry;
    SharedRegion request;
    SharedRegion reply;
  };
  Result<Arenas> shake_hands();
  SessionEnd serve(const Arenas& arenas);
  // Sleeps until something arrives, at most that long (nothing: for ever). False: the program is to
  // end.
  bool wait(std::optional<std::chrono::nanoseconds> timeout);

  Fd socket_;
  TaskExecutor& executor_;
  const Device& device_;
  LogLimit& log_limit_;
  const int stop_fd_;
  bool stopped_ = false;
};

}  // namespace tempo
