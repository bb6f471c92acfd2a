// File: worker/task_executor.h
// Does tasks, in the order of their arrival, on one device and store. Independent of how tasks
// arrive. One thread at a time, unless said otherwise.
//
// kMultiply: op(a) is rows x inner and op(b) inner x cols for some inner, else kBadTask. With
// kAccumulate the product is added to what `result` holds, and the sum stays there, with or
// without kKeep; `result` may be neither operand then (kBadTask). With kKeep the product replaces
// what is under `result`. With kReturn the product (or the sum) is written to the reply.
#pragma once

#include <atomic>
#include <cstddef>

#include "wire/task.h"
#include "worker/device.h"
#include "worker/hooks.h"
#include "worker/tensor_store.h"

namespace tempo {

class TaskExecutor {
 public:
  // hooks: null for none. All outlive the executor.
  TaskExecutor(Device& device, const StoreLimits& limits, WorkerHooks* hooks);

  // Precondition: task_ok(). payload: payload_bytes() bytes, reply: room for reply_bytes(), both
  // 64-byte aligned; the peer may change them at any time.
  Completion execute(const Task& task, const std::byte* payload, std::byte* reply);

  // Forgets everything.
  void clear();
  const TensorStore& store() const { return store_; }

  // From any thread: how many tasks were done, and what the store holds.
  std::uint64_t tasks_done() const { return tasks_done_; }
  std::uint64_t bytes_in_use() const { return bytes_in_use_; }

 private:
  Completion run(const Task& task, const std::byte* payload, std::byte* reply);
  Completion put(const Task& task, const std::byte* payload);
  Completion multiply(const Task& task, std::byte* reply);

  Device& device_;
  TensorStore store_;
  WorkerHooks* const hooks_;
  std::atomic<std::uint64_t> tasks_done_ = 0;
  std::atomic<std::uint64_t> bytes_in_use_ = 0;
};

}  // namespace tempo
