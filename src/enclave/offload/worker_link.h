// File: enclave/offload/worker_link.h
// The enclave's only way to workers. Implemented by the ring (enclave/offload/ring_link.h), and by
// in-process stand-ins in tests.
//
// Everything behind it is hostile. Memory behind Slot::data can change at any time: it is written
// once, front to back, and read once (base rule: copy in, then use the copy only).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "wire/task.h"

namespace tempo {

// A contiguous run of slabs in shared memory. 64-byte aligned, at least `bytes` rounded up to 8.
struct Slot {
  std::uint32_t first_slab = 0;
  std::uint64_t bytes = 0;
  std::byte* data = nullptr;
};

// A worker that joined under an index: whatever was there before, and all that it held, is gone.
struct WorkerJoin {
  std::uint32_t worker = 0;  // below kMaxWorkers; may be beyond workers().size()
  std::uint32_t epoch = 0;   // greater than at its last join
  WorkerInfo info;           // printable; a claim, not a fact
};

// One thread at a time.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;

  // Those that were there at the start. Fixed for the life of the link. The information is a claim,
  // not a fact.
  virtual const std::vector<WorkerInfo>& workers() const = 0;
  // Workers that joined since the last call; does not wait. The first call asks to be told, and
  // takes up a request from then on. Tasks that are submitted after the call go to the worker that
  // joined; those before it complete as kWorkerLost. An off-loader can claim joins that never were:
  // a worker that was thought to be there is then lost like any other.
  virtual std::vector<WorkerJoin> joins() = 0;

  // Shared memory for a payload or reply, or nothing when none is free now (complete or release
  // something first). bytes <= max_slot_bytes().
  virtual std::optional<Slot> reserve(std::uint64_t bytes) = 0;
  virtual std::uint64_t max_slot_bytes() const = 0;
  virtual void release(const Slot& slot) = 0;

  // Hands a task over; assigns and returns its request number. `payload` for kPut and `reply` for
  // kMultiply|kReturn come from reserve(). The payload slot is released by the link when the task
  // completes; the reply slot stays the caller's. Nothing when the queue is full: poll and retry.
  // Error kProtocol: the channel is broken for good.
  virtual Result<std::optional<std::uint64_t>> submit(Task task, const Slot* payload,
                                                      const Slot* reply) = 0;

  // Nobody waits for this outstanding request any more: when it completes, the link releases its
  // reply slot too.
  virtual void abandon(std::uint64_t request) = 0;

  // The next completion, waiting at most timeout_ms (0: do not wait). Every completion matches
  // exactly one outstanding request, and bytes == its reply_bytes() when kOk. Error kProtocol: the
  // channel is broken for good (all later calls say the same).
  virtual Result<std::optional<Completion>> poll(int timeout_ms) = 0;
};

}  // namespace tempo
