// File: offloader/router.h
// The off-loader's loop: takes tasks from the ring, keeps them in a queue a worker, hands them on
// as far as the worker has room, and brings completions back. One worker never holds up another:
// the ring is always drained into the queues, whose sum is bounded by the ring's entries.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/error.h"
#include "offloader/enclave_port.h"
#include "offloader/worker_channel.h"

namespace tempo {

class Router {
 public:
  // A null channel is a worker that is lost already.
  Router(EnclavePort& port, std::vector<std::unique_ptr<WorkerChannel>> channels);

  // Returns when the enclave is gone, or stop_fd becomes readable. Error kProtocol: the enclave's
  // end of the ring makes no sense.
  Status run(int stop_fd);

 private:
  struct Worker {
    std::unique_ptr<WorkerChannel> channel;  // null: lost
    std::deque<Task> queue;                  // not yet sent
    std::deque<std::uint64_t> sent;          // requests, in order
  };
  enum class Wake { kWork, kStop, kEnclaveGone };

  // Each returns whether there was anything to do.
  Result<bool> drain();
  bool serve(std::size_t index);
  Result<bool> flush();

  bool task_fits(const Task& task) const;
  void finish(const Completion& completion) { completions_.push_back(completion); }
  void lose(std::size_t index, const Error& why);
  Result<Wake> sleep(int stop_fd, int timeout_ms);

  EnclavePort& port_;
  std::vector<Worker> workers_;
  std::deque<Completion> completions_;  // not yet in the ring
  std::uint64_t open_ = 0;              // tasks taken and not yet completed in the ring
};

}  // namespace tempo
