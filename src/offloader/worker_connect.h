// File: offloader/worker_connect.h
// Finds the workers: connects to all of them at once and exchanges the hello.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "wire/fd.h"
#include "wire/task.h"

namespace tempo {

struct ConnectedWorker {
  std::string path;
  Fd socket;
  WorkerInfo info;
};

// Tries until all have answered, at most timeout_ms, or stop_fd becomes readable. Those that did
// not answer are logged and left out. Errors: kNoWorker when that is all of them, kInterrupted.
Result<std::vector<ConnectedWorker>> connect_workers(const std::vector<std::string>& paths,
                                                     int timeout_ms, int stop_fd);

}  // namespace tempo
