// File: tests/simulation/simulated_link.h
// A WorkerLink over a simulated off-loader, network and workers, on simulated time. The workers'
// task executors are the product's; some of them are reached through the relay's two ends and
// streams of bytes. What goes wrong, where and how often is drawn from the random source.
//
// As behind the ring: every completion that comes out belongs to an outstanding request and has its
// length; an off-loader that breaks those rules breaks the link.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "enclave/obfuscation/seeded_random.h"
#include "enclave/offload/worker_link.h"
#include "offloader/relay_client.h"
#include "tests/simulation/history.h"
#include "worker/cpu_device.h"
#include "worker/relay_server.h"
#include "worker/task_executor.h"

namespace tempo {

// How likely each fault is, for every task unless it says otherwise. A run has some of them.
struct Faults {
  // workers
  double crash = 0;   // before, during or after a task
  double slow = 0;    // of a worker: takes up to 10^5 times as long
  double cheat = 0;   // of a worker's products
  double memory = 0;  // of a worker: has less memory than it says
  double claim = 0;   // of a worker: says anything of its memory
  // network, off-loader
  double delay = 0;        // a task or an answer takes up to a minute
  double lose_answer = 0;  // for good
  double lose_task = 0;    // says that it is done
  double corrupt_payload = 0;
  double replay = 0;        // an earlier result of the same size
  double swap = 0;          // with another result of the same size
  double stale = 0;         // nothing is written where the result should be
  double false_status = 0;  // of a worker that lives
  double misorder = 0;      // a task overtakes another
  double refuse = 0;        // the queue is said to be full
  double break_link = 0;
  double false_join = 0;  // of a worker, every step
  double join = 0;        // of a worker that is gone or new, every step
  double clock_jump = 0;  // of a poll: an hour passes at once
  // streams of bytes
  double cut_stream = 0;      // a connection ends in the middle of a frame; of a chunk
  double corrupt_stream = 0;  // of a chunk
};

class SimulatedLink final : public WorkerLink {
 public:
  using Time = History::Clock::time_point;

  struct Limits {
    std::uint64_t shared_bytes;
    std::size_t entries;  // tasks outstanding
  };

  SimulatedLink(int workers, const Limits& limits, const Faults& faults, SeededRandom& random,
                History& history);

  // Draws who joins and leaves between two steps, and begins counting anew.
  void begin_step();
  // Brings all that is outstanding to an end, without faults; nothing when the link is broken.
  void drain();

  // Since the last begin_step().
  std::uint64_t tasks() const { return tasks_; }
  std::uint64_t polls() const { return polls_; }
  // By shape: how many different payloads were put.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::size_t> payloads_by_shape() const;

  std::size_t slots_in_use() const { return slots_.size(); }
  bool is_broken() const { return is_broken_; }
  // Polled more often in one step than anything that makes progress could.
  bool has_run_away() const { return has_run_away_; }
  // Whether anything was done to this worker's results, by itself or on their way.
  bool was_falsified(int worker) const {
    return workers_[static_cast<std::size_t>(worker)].is_false;
  }
  // Whether the enclave was told that a task of the worker that it knows there failed.
  bool has_failed(int worker) const {
    return workers_[static_cast<std::size_t>(worker)].has_failed;
  }
  // A task that a worker could not do, although all before it had reached it as they were sent.
  const std::optional<std::string>& impossible_task() const { return impossible_task_; }
  // From the last completion to the last poll.
  double idle_s() const {
    return std::chrono::duration<double>(last_poll_ - last_completion_).count();
  }
  // By how much the clock jumped.
  double jumped_s() const { return jumped_s_; }
  std::uint64_t faults_done() const { return faults_done_; }

  const std::vector<WorkerInfo>& workers() const override { return infos_; }
  std::vector<WorkerJoin> joins() override;
  std::optional<Slot> reserve(std::uint64_t bytes) override;
  std::uint64_t max_slot_bytes() const override { return limits_.shared_bytes / 4; }
  void release(const Slot& slot) override;
  Result<std::optional<std::uint64_t>> submit(Task task, const Slot* payload,
                                              const Slot* reply) override;
  void abandon(std::uint64_t request) override;
  Result<std::optional<Completion>> poll(int timeout_ms) override;

 private:
  struct AlignedFree {
    void operator()(std::byte* data) const { std::free(data); }
  };
  using Bytes = std::unique_ptr<std::byte[], AlignedFree>;
  static Bytes aligned_bytes(std::uint64_t size);

  struct Request {
    Task task;
    std::optional<Slot> payload;
    std::optional<Slot> reply;
    std::uint32_t epoch = 0;  // of the worker that it is for
    Bytes changed_payload;    // as it went to the worker; null: as in its slot
    Bytes result;             // as it comes from the worker
    bool is_abandoned = false;
  };
  // One direction of a connection.
  struct Stream {
    struct Chunk {
      Time arrival;
      std::vector<std::byte> bytes;
    };
    std::deque<Chunk> chunks;
    Time last_arrival;
  };
  // The relay between the off-loader and a worker.
  struct Relay {
    explicit Relay(const RelayLimits& limits);
    RelayMemory memory;
    RelayClient client;
    RelayServer server;
    Stream to_worker, to_offloader;
    std::deque<std::uint64_t> queue;  // requests that wait for credit
    std::deque<std::uint64_t> sent;   // those that do not, in order
  };
  struct Worker {
    bool is_gone = false;
    bool is_false = false;
    bool is_disturbed = false;  // not all tasks reached it, or not as they were sent
    bool has_failed = false;    // in the epoch that the enclave knows of
    std::uint32_t epoch = 0;
    std::uint32_t used_epoch = 0;  // that the enclave knows of
    Time last_arrival;             // of a task
    double ns_per_multiply_add = 1;
    bool is_cheat = false;
    Time free_at;
    std::unique_ptr<TaskExecutor> executor;
    std::unique_ptr<Relay> relay;  // null: reached without
  };
  enum class What { kArrives, kIsDone, kPump };
  struct Event {
    What what;
    std::uint64_t request;
    std::uint32_t worker;
    Completion completion;
  };

  bool happens(double rate);
  std::chrono::nanoseconds latency();
  void start(std::uint32_t index);
  WorkerInfo claim();
  void lose(std::uint32_t index, const char* why);
  void complete(std::uint64_t request, const Completion& completion, Time time);
  void fail(std::uint64_t request, TaskStatus status);
  void arrive(std::uint64_t request);
  void pump(std::uint32_t index);
  // False: the connection is gone.
  bool pump_once(std::uint32_t index, bool& has_moved);
  bool write_stream(std::uint32_t index, RelayCore& core, Stream& stream, Time earliest,
                    bool& has_moved);
  bool read_stream(std::uint32_t index, RelayCore& core, Stream& stream, bool& has_moved);
  Completion execute(std::uint32_t index, const Task& task, const std::byte* payload,
                     std::byte* result);
  void cheat(std::uint32_t index, const Task& task, std::byte* result);
  void falsify(Request& request);
  void deliver(const Completion& completion);
  void run_due();

  const Limits limits_;
  Faults faults_;
  SeededRandom& random_;
  History& history_;
  CpuDevice device_;
  std::vector<WorkerInfo> infos_;
  std::vector<Worker> workers_;
  std::map<std::uint32_t, std::pair<Bytes, std::uint64_t>> slots_;
  std::uint64_t free_bytes_;
  std::map<std::uint64_t, Request> requests_;
  std::multimap<Time, Event> events_;  // equal times: in the order in which they were added
  std::deque<Completion> completed_;
  std::vector<WorkerJoin> joins_;
  std::map<std::uint64_t, std::vector<std::vector<std::byte>>> earlier_;  // results by size
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::set<std::string>> payloads_;
  std::uint64_t tasks_ = 0;
  std::uint64_t polls_ = 0;
  std::uint64_t faults_done_ = 0;
  std::uint64_t next_request_ = 1;
  std::uint32_t next_slot_ = 0;
  double jumped_s_ = 0;
  Time last_poll_, last_completion_;
  std::optional<std::string> impossible_task_;
  bool is_broken_ = false;
  bool has_run_away_ = false;
};

}  // namespace tempo
