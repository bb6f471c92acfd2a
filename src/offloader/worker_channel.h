// File: offloader/worker_channel.h
// The off-loader's way to one worker, whatever carries it. The worker is not trusted: its answers
// must come in order, match what was asked, and have the right length.
#pragma once

#include <cstddef>
#include <optional>

#include "base/error.h"
#include "wire/task.h"

namespace tempo {

// One thread at a time. An error (kProtocol) from any call: the worker is lost for good. Once an
// error was returned, or the channel is destroyed, nothing of it touches payloads or replies.
class WorkerChannel {
 public:
  virtual ~WorkerChannel() = default;

  // Sends a task that is task_ok() and fits the geometry, with its payload_bytes() of payload; its
  // reply_bytes() go to `reply`. Both places stay valid until the completion was received. False
  // when there is no room now: completions make some.
  virtual Result<bool> send(const Task& task, const std::byte* payload, std::byte* reply) = 0;

  // The next completion, if one is there, with its reply in its place when kOk.
  virtual Result<std::optional<Completion>> receive() = 0;

  // What becomes readable when there is something to do.
  virtual int wait_fd() const = 0;
  // Before the thread sleeps. False: there is something to do already.
  virtual bool begin_wait() = 0;
  // Afterwards, also when begin_wait() returned false. Error: the worker is gone.
  virtual Status end_wait() = 0;
};

}  // namespace tempo
