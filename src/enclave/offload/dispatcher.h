// File: enclave/offload/dispatcher.h
// The enclave's book of workers and outstanding tasks over one WorkerLink: who may still be used,
// which completion belongs to whom. Shared by all engines of a job. One thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/offload/engine_stats.h"
#include "enclave/offload/worker_link.h"

namespace tempo {

// Receives what a task came to. `reply` is the caller's again: it must release it.
class CompletionSink {
 public:
  virtual ~CompletionSink() = default;
  virtual void on_completion(std::uint64_t tag, int worker, const Completion& completion,
                             const std::optional<Slot>& reply) = 0;
};

class Dispatcher {
 public:
  // All must outlive the dispatcher. A worker that keeps everybody waiting for stall_timeout_ms is
  // retired.
  Dispatcher(WorkerLink& link, EngineStats& stats, TimeLedger& ledger, int stall_timeout_ms);
  // Abandons what is outstanding.
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  int worker_count() const { return static_cast<int>(alive_.size()); }
  bool alive(int worker) const { return alive_[worker]; }
  // The next usable worker after `worker` in cyclic order; none when all are retired.
  std::optional<int> successor(int worker) const;

  // Never uses the worker again. The event is recorded once.
  void retire(int worker, EngineEvent::Kind kind, const std::string& operator_name,
              const std::string& detail);

  // Shared memory for a payload or reply; waits, handling completions, while there is none.
  // Nothing once the channel is broken.
  std::optional<Slot> reserve(std::uint64_t bytes);
  void release(const Slot& slot) { link_.release(slot); }

  // Queues a task for a worker; waits while the queue is full. On a broken channel the sink is told
  // kWorkerLost at once. sink may be null when nobody cares.
  void submit(Task task, const std::optional<Slot>& payload, const std::optional<Slot>& reply,
              CompletionSink* sink, std::uint64_t tag);

  // Frees all ids in [first, last] on a worker; nothing when it is retired.
  void drop(int worker, std::uint64_t first, std::uint64_t last);

  // Handles all completions that are there; waits for at least one when `wait`.
  void poll(bool wait);

  std::uint64_t next_id() { return next_id_++; }
  void set_step(std::uint64_t step) { step_ = step; }

 private:
  struct Pending {
    CompletionSink* sink;
    std::uint64_t tag;
    int worker;
    std::optional<Slot> reply;
    std::uint64_t reply_bytes;
  };
  void handle(const Completion& completion);
  void break_channel(const Error& error);
  void retire_stalled();

  WorkerLink& link_;
  EngineStats& stats_;
  TimeLedger& ledger_;
  const int stall_timeout_ms_;
  std::vector<bool> alive_;
  std::unordered_map<std::uint64_t, Pending> pending_;
  std::uint64_t next_id_ = 1;
  std::uint64_t step_ = 0;
  bool broken_ = false;
};

}  // namespace tempo
