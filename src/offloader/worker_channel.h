// File: offloader/worker_channel.h
// The off-loader's way to one worker, whatever carries it. The worker is not trusted: its answers
// must come in order, match what was asked, and have the right length.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>

#include "base/error.h"
#include "wire/task.h"

namespace tempo {

// One thread at a time. An error (kProtocol) from any call: the worker is lost for good.
class WorkerChannel {
 public:
  virtual ~WorkerChannel() = default;

  // Sends a task that is task_ok() and fits the geometry, with its payload_bytes() of payload.
  // False when there is no room now: completions make some.
  virtual Result<bool> send(const Task& task, const std::byte* payload) = 0;

  // The next completion, if one is there. Its reply (kOk and reply_bytes() > 0) is written to the
  // place that place_of(task) names, with the task as it was sent.
  using ReplyPlace = std::function<std::byte*(const Task& task)>;
  virtual Result<std::optional<Completion>> receive(const ReplyPlace& place_of) = 0;

  // What becomes readable when there is something to do.
  virtual int wait_fd() const = 0;
  // Before the thread sleeps. False: there is something to do already.
  virtual bool begin_wait() = 0;
  // Afterwards, also when begin_wait() returned false. Error: the worker is gone.
  virtual Status end_wait() = 0;
};

}  // namespace tempo
