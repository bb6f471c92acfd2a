// File: enclave/offload/fake_link.h
// Test only: a WorkerLink whose workers live in this process and compute with gemm(). Can lose
// workers, cheat, starve for memory and record what a worker would see.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "enclave/offload/worker_link.h"
#include "matrix/gemm.h"

namespace tempo {

class FakeLink final : public WorkerLink {
 public:
  struct Received {
    Task task;
    std::vector<float> payload;
  };

  using Clock = std::chrono::steady_clock;

  FakeLink(int workers, std::uint64_t shared_bytes, std::uint64_t worker_memory = 1ULL << 32)
      : free_bytes_(shared_bytes), max_slot_bytes_(shared_bytes / 4) {
    workers_.resize(workers);
    stores_.resize(workers);
    for (WorkerInfo& info : workers_) {
      info.memory_limit_bytes = worker_memory;
      std::strncpy(info.device, "fake", sizeof(info.device) - 1);
    }
    lost_.assign(workers, false);
    epochs_.assign(workers, 0);
  }

  // Called for every product before it is returned; may change it.
  std::function<void(const Task&, std::vector<float>&)> after_multiply;
  // Called before every task; returning true loses the worker.
  std::function<bool(const Task&)> loses_worker;
  bool record = false;
  std::vector<Received> received;
  std::size_t resident(int worker) const { return stores_[worker].size(); }
  std::size_t slots_in_use() const { return slots_.size(); }

  // Time passes while somebody waits, and only then.
  Clock::time_point now() const { return now_; }

  const std::vector<WorkerInfo>& workers() const override { return workers_; }
  std::vector<WorkerJoin> joins() override { return std::exchange(joins_, {}); }
  // A lost worker, or one beyond those at the start, joins with nothing in its store.
  void join(std::uint32_t worker) {
    if (worker >= stores_.size()) {
      stores_.resize(worker + 1);
      lost_.resize(worker + 1);
      epochs_.resize(worker + 1);
    }
    stores_[worker].clear();
    lost_[worker] = false;
    joins_.push_back({worker, ++epochs_[worker], workers_[0]});
  }
  std::uint64_t max_slot_bytes() const override { return max_slot_bytes_; }

  std::optional<Slot> reserve(std::uint64_t bytes) override {
    const std::uint64_t rounded = (bytes + 63) / 64 * 64;
    if (rounded > free_bytes_) return std::nullopt;
    free_bytes_ -= rounded;
    const std::uint32_t number = next_slot_++;
    auto& memory = slots_[number];
    memory = AlignedBytes(rounded);
    return Slot{number, bytes, memory.data()};
  }

  void release(const Slot& slot) override {
    const auto at = slots_.find(slot.first_slab);
    free_bytes_ += at->second.size();
    slots_.erase(at);
  }

  Result<std::optional<std::uint64_t>> submit(Task task, const Slot* payload,
                                              const Slot* reply) override {
    if (broken) return Error{ErrorCode::kProtocol, "broken", {}, {}, {}, {}};
    if (queue_.size() >= 16) return std::optional<std::uint64_t>{};
    task.request = next_request_++;
    const Completion done = run(task, payload, reply);
    Clock::time_point& free_at = free_at_[task.worker];
    free_at = std::max(free_at, now_) + delay_of(task);
    queue_.push_back({done, reply ? std::optional<Slot>(*reply) : std::nullopt, task, free_at});
    if (payload != nullptr) release(*payload);
    return std::optional<std::uint64_t>{task.request};
  }

  void abandon(std::uint64_t request) override { abandoned_.insert(request); }

  Result<std::optional<Completion>> poll(int timeout_ms) override {
    if (broken) return Error{ErrorCode::kProtocol, "broken", {}, {}, {}, {}};
    if (silent) now_ += std::chrono::milliseconds(timeout_ms);
    if (silent || (timeout_ms == 0 && is_lazy)) return std::optional<Completion>{};
    const auto until = now_ + std::chrono::milliseconds(timeout_ms);
    for (;;) {
      auto next = queue_.end();
      for (auto at = queue_.begin(); at != queue_.end(); ++at) {
        if (withholds && withholds(at->task)) continue;
        if (next == queue_.end() || at->ready < next->ready) next = at;
      }
      if (next != queue_.end() && next->ready <= now_) {
        const Answer answer = *next;
        queue_.erase(next);
        if (answer.reply && abandoned_.erase(answer.completion.request) > 0) {
          release(*answer.reply);
        }
        return std::optional<Completion>{answer.completion};
      }
      if (now_ >= until) return std::optional<Completion>{};
      now_ = next == queue_.end() ? until : std::min(until, next->ready);
    }
  }

  // How long a worker takes, by worker; 0 beyond the end.
  std::vector<double> ns_per_multiply_add;
  // Answers to tasks for which this is true are not given (yet).
  std::function<bool(const Task&)> withholds;
  bool broken = false;
  bool silent = false;   // takes tasks and never completes one
  bool is_lazy = false;  // completes tasks only for a caller that waits

 private:
  struct Answer {
    Completion completion;
    std::optional<Slot> reply;
    Task task;
    Clock::time_point ready;
  };

  // Of a product; call after run().
  Clock::duration delay_of(const Task& task) const {
    if (task.verb != Verb::kMultiply || task.worker >= ns_per_multiply_add.size()) return {};
    return std::chrono::nanoseconds(std::llround(
        ns_per_multiply_add[task.worker] * static_cast<double>(task.rows) * task.cols * inner_));
  }

  class AlignedBytes {
   public:
    AlignedBytes() = default;
    explicit AlignedBytes(std::uint64_t size)
        : data_(static_cast<std::byte*>(std::aligned_alloc(64, size)), std::free), size_(size) {}
    std::byte* data() const { return data_.get(); }
    std::uint64_t size() const { return size_; }

   private:
    std::shared_ptr<std::byte> data_;
    std::uint64_t size_ = 0;
  };
  struct Stored {
    std::uint32_t rows, cols;
    std::vector<float> values;
  };

  Completion run(const Task& task, const Slot* payload, const Slot* reply) {
    Completion done{task.request, TaskStatus::kOk, 1, 0, 0};
    if (loses_worker && !lost_[task.worker] && loses_worker(task)) lost_[task.worker] = true;
    if (lost_[task.worker]) {
      done.status = TaskStatus::kWorkerLost;
      return done;
    }
    auto& store = stores_[task.worker];
    if (task.verb == Verb::kPut) {
      Stored stored{task.rows, task.cols, std::vector<float>(std::size_t{task.rows} * task.cols)};
      std::memcpy(stored.values.data(), payload->data, task.payload_bytes());
      if (record) received.push_back({task, stored.values});
      store[task.result] = std::move(stored);
    } else if (task.verb == Verb::kDrop) {
      store.erase(store.lower_bound(task.a), store.upper_bound(task.b));
    } else {
      const auto a = store.find(task.a);
      const auto b = store.find(task.b);
      if (a == store.end() || b == store.end()) {
        done.status = TaskStatus::kUnknownId;
        return done;
      }
      const bool ta = (task.flags & kTransposeA) != 0;
      const bool tb = (task.flags & kTransposeB) != 0;
      const std::uint32_t inner = inner_ = ta ? a->second.rows : a->second.cols;
      std::vector<float> out(std::size_t{task.rows} * task.cols);
      if ((task.flags & kAccumulate) != 0) out = store.at(task.result).values;
      gemm(Transpose{ta}, Transpose{tb}, task.rows, task.cols, inner, 1.0F, a->second.values.data(),
           a->second.cols, b->second.values.data(), b->second.cols,
           (task.flags & kAccumulate) != 0 ? 1.0F : 0.0F, out.data(), task.cols);
      if (after_multiply) after_multiply(task, out);
      if ((task.flags & kReturn) != 0) {
        std::memcpy(reply->data, out.data(), task.reply_bytes());
        done.bytes = task.reply_bytes();
      }
      if ((task.flags & kKeep) != 0) store[task.result] = {task.rows, task.cols, std::move(out)};
    }
    return done;
  }

  std::vector<WorkerInfo> workers_;
  std::vector<std::map<std::uint64_t, Stored>> stores_;
  std::vector<bool> lost_;
  std::vector<std::uint32_t> epochs_;
  std::vector<WorkerJoin> joins_;
  std::map<std::uint32_t, AlignedBytes> slots_;
  std::deque<Answer> queue_;
  Clock::time_point now_;
  std::map<std::uint32_t, Clock::time_point> free_at_;  // by worker
  std::uint32_t inner_ = 0;                             // of the last product
  std::set<std::uint64_t> abandoned_;
  std::uint64_t free_bytes_;
  std::uint64_t max_slot_bytes_;
  std::uint32_t next_slot_ = 0;
  std::uint64_t next_request_ = 1;
};

}  // namespace tempo
