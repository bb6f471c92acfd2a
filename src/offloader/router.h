// File: offloader/router.h
// The off-loader's loop: takes tasks from the ring, keeps them in a queue a worker, hands them on
// as far as the worker has room, and brings completions back. One worker never holds up another:
// the ring is always drained into the queues, whose sum is bounded by the ring's entries.
//
// A worker keeps the index of its address. One that was lost and is found again, or is new, joins:
// the epoch of its index grows, tasks of another epoch are completed as lost, and the enclave is
// told by completing its kWatch.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "offloader/enclave_port.h"
#include "offloader/worker_channel.h"
#include "offloader/worker_finder.h"

namespace tempo {

class Router {
 public:
  // `workers` are found, at most kMaxWorkers, and become index 0, 1, ... with epoch 0, as the
  // enclave was told. memory_limit_bytes: of the ring's region and all arenas. The finder outlives
  // it.
  Router(EnclavePort& port, WorkerFinder& finder, std::vector<WorkerNews> workers,
         std::uint64_t memory_limit_bytes);

  // Returns when the enclave is gone, or stop_fd becomes readable. Error kProtocol: the enclave's
  // end of the ring makes no sense.
  Status run(int stop_fd);

 private:
  struct Worker {
    std::optional<std::size_t> id;  // of the finder
    bool is_wanted = true;          // its address is still in the list
    std::string address;
    std::uint32_t epoch = 0;
    std::unique_ptr<WorkerChannel> channel;  // null: lost
    bool is_local = false;
    std::deque<Task> queue;          // not yet sent
    std::deque<std::uint64_t> sent;  // requests, in order
  };
  struct Join {
    std::uint32_t index;
    std::uint32_t epoch;
    WorkerInfo info;
  };
  enum class Wake { kWork, kStop, kEnclaveGone };

  // Each returns whether there was anything to do.
  Result<bool> drain();
  bool serve(std::size_t index);
  Result<bool> flush();
  bool hear_news();

  void watch(const Task& task);
  void answer_watch();
  bool task_fits(const Task& task) const;
  void finish(const Completion& completion) { completions_.push_back(completion); }
  // The worker that it is meant for is not there any more.
  void finish_lost(std::uint64_t request) { finish({request, TaskStatus::kWorkerLost, 0, 0, 0}); }

  void join(WorkerNews news);
  void leave(std::size_t id);
  std::optional<std::size_t> index_for(std::size_t id) const;
  Status open_channel(std::size_t index, WorkerNews& news);
  void lose(std::size_t index, const Error& why);
  Result<Wake> sleep(int stop_fd, int timeout_ms);

  EnclavePort& port_;
  WorkerFinder& finder_;
  const std::uint64_t memory_limit_bytes_;
  std::vector<Worker> workers_;         // at most kMaxWorkers; never shrinks
  std::optional<Task> watch_;           // to be completed at the next join
  std::deque<Join> joins_;              // that the enclave does not know of; at most one an index
  std::deque<Completion> completions_;  // not yet in the ring
  std::uint64_t open_ = 0;              // tasks taken and not yet completed in the ring
};

}  // namespace tempo
