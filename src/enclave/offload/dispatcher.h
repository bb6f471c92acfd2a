// File: enclave/offload/dispatcher.h
// The enclave's book of workers and outstanding tasks over one WorkerLink: who may still be used,
// how quick each is, when an answer is late, which completion belongs to whom. Shared by all
// engines of a job. One thread at a time.
//
// Speeds are measured here, by the clock of the enclave (which the host sets): what workers say
// about themselves counts for nothing. They decide who gets how much, never what is accepted.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
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

// How long answers are waited for.
struct Patience {
  std::chrono::milliseconds first{10000};  // for a worker of which nothing is known yet
  std::chrono::milliseconds least{3000};   // and 8 times what it should take, from then on
  std::chrono::milliseconds stall{20000};  // without any answer: the worker is retired
};

class Dispatcher {
 public:
  using Clock = std::chrono::steady_clock;
  using Now = std::function<Clock::time_point()>;

  // All must outlive the dispatcher. now: what time it is; simulations have one of their own.
  Dispatcher(WorkerLink& link, EngineStats& stats, TimeLedger& ledger, const Patience& patience,
             Now now = Clock::now);
  // Abandons what is outstanding.
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // ---- workers ---------------------------------------------------------------------------------

  int worker_count() const { return static_cast<int>(workers_.size()); }
  const WorkerInfo& info(int worker) const { return workers_[worker].info; }
  // Rises when another worker (or the same, started anew) takes this place: what was resident there
  // is gone.
  std::uint32_t epoch(int worker) const { return workers_[worker].epoch; }
  // Not retired.
  bool alive(int worker) const { return workers_[worker].is_alive; }
  // Alive, and not late with an answer.
  bool usable(int worker) const { return alive(worker) && !workers_[worker].is_late; }
  // Multiply-adds a second while it had tasks, over the last steps; nothing before the first.
  std::optional<double> speed(int worker) const { return workers_[worker].speed; }
  // The usable worker other than `worker` that should be done with its tasks first.
  std::optional<int> substitute(int worker) const;

  // Gives the worker nothing any more. One that was lost may join again, one that returned a wrong
  // result never. The event is recorded once, under the step that is under way.
  void retire(EngineEvent event);
  // A task given to this worker has not been answered by its deadline: it gets nothing new until it
  // answers something.
  void mark_late(int worker) { workers_[worker].is_late = true; }

  // Between steps: measures speeds and lets workers join, who know nothing of tasks that may still
  // be outstanding. Events are recorded under this step.
  void begin_step(std::uint64_t step);

  // ---- tasks -----------------------------------------------------------------------------------

  // Shared memory for a payload or reply; waits, handling completions, while there is none.
  // Nothing once the channel is broken.
  std::optional<Slot> reserve(std::uint64_t bytes);
  // The same without waiting.
  std::optional<Slot> try_reserve(std::uint64_t bytes);
  void release(const Slot& slot) { link_.release(slot); }

  // Queues a task for a worker; waits while the queue is full. On a broken channel the sink is told
  // kWorkerLost at once. sink may be null when nobody cares. work: its multiply-adds.
  void submit(Task task, const std::optional<Slot>& payload, const std::optional<Slot>& reply,
              CompletionSink* sink, std::uint64_t tag, double work = 0);
  // When the worker should have answered everything it has been given so far, with much patience.
  Clock::time_point deadline(int worker) const;

  // Frees all ids in [first, last] on a worker; nothing when it is retired.
  void drop(int worker, std::uint64_t first, std::uint64_t last);

  // Handles all completions that are there; waits for the first one until then.
  void poll() { poll(Clock::time_point::min()); }
  void poll(Clock::time_point until);

  std::uint64_t next_id() { return next_id_++; }
  Clock::time_point now() const { return now_(); }

 private:
  struct Worker {
    WorkerInfo info;
    std::uint32_t epoch = 0;
    bool is_alive = true;
    bool has_tampered = false;
    bool is_late = false;
    std::uint64_t outstanding = 0;  // tasks
    double outstanding_work = 0;
    Clock::time_point since;  // the last completion, or the first task after a rest
    std::optional<double> speed;
    double busy_s = 0;  // in this step
    double work = 0;    // done in this step
  };
  struct Pending {
    CompletionSink* sink;
    std::uint64_t tag;
    int worker;
    std::optional<Slot> reply;
    std::uint64_t reply_bytes;
    double work;
    std::uint32_t epoch;
  };
  void handle(const Completion& completion);
  void settle(const Pending& pending, bool is_done);
  void admit(const WorkerJoin& join);
  void record(EngineEvent event);
  void break_channel(const Error& error);
  void retire_stalled();

  WorkerLink& link_;
  EngineStats& stats_;
  TimeLedger& ledger_;
  const Patience patience_;
  const Now now_;
  std::vector<Worker> workers_;
  std::unordered_map<std::uint64_t, Pending> pending_;
  std::uint64_t next_id_ = 1;
  std::uint64_t step_ = 0;
  bool broken_ = false;
};

}  // namespace tempo
