// File: wire/task.h
// What the enclave asks of a worker, as it crosses both boundaries: ring descriptors (enclave to
// off-loader) and frames (off-loader to worker). Fixed-size, little-endian, no pointers.
//
// A worker keeps operands under 64-bit ids that the enclave chooses; a dropped id is free again.
// Tasks of one worker are done in the order of their submission.
//
// Workers leave and join while an enclave is attached. Each time that one joins under an index, the
// epoch of the index grows; those that were there at the start have epoch 0. A task carries the
// epoch of the worker that it is meant for, and is completed as kWorkerLost when that one is gone,
// so that nothing which was sent before the enclave knew of a join reaches the fresh worker. The
// enclave learns of joins from a kWatch (rows 1, cols 16, flags 0; one outstanding at a time): the
// reply is the joined worker's WorkerInfo, the completion's detail is join_detail(index, epoch).
#pragma once

#include <cstdint>

namespace tempo {

inline constexpr std::uint32_t kProtocolVersion = 1;

enum class Verb : std::uint32_t {
  kPut = 1,       // store the payload (rows x cols floats) under `result`; replaces what was there
  kMultiply = 2,  // op(a) op(b), rows x cols; see MultiplyFlags
  kDrop = 3,      // free all ids in [a, b]; unknown ids are ignored
  kWatch = 4,     // to the off-loader itself: complete it when a worker has joined; see below
};

enum MultiplyFlags : std::uint32_t {
  kTransposeA = 1U << 0,
  kTransposeB = 1U << 1,
  kAccumulate = 1U << 2,  // add to what `result` holds (which must exist with the same shape)
  kKeep = 1U << 3,        // leave the outcome under `result`
  kReturn = 1U << 4,      // send the outcome back
};

struct WorkerInfo {
  std::uint64_t memory_limit_bytes = 0;
  char device[56] = {};  // printable, zero-terminated; untrusted text
};
static_assert(sizeof(WorkerInfo) == 64);

// 64 bytes; the same words in a ring slot and in a frame.
struct Task {
  std::uint64_t request = 0;  // chosen by the enclave, never reused
  Verb verb = Verb::kPut;
  std::uint32_t worker = 0;  // index in the off-loader's list
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  std::uint64_t result = 0;
  std::uint32_t flags = 0;
  std::uint32_t rows = 0;  // of the payload or the product
  std::uint32_t cols = 0;
  std::uint32_t payload_slab = 0;  // ring only: first slab of the payload (put)
  std::uint32_t reply_slab = 0;    // ring only: first slab of the reply (multiply with kReturn)
  std::uint32_t epoch = 0;         // ring only: of the worker

  std::uint64_t payload_bytes() const {
    return verb == Verb::kPut ? std::uint64_t{rows} * cols * sizeof(float) : 0;
  }
  std::uint64_t reply_bytes() const {
    if (verb == Verb::kWatch) return sizeof(WorkerInfo);
    return verb == Verb::kMultiply && (flags & kReturn) != 0
               ? std::uint64_t{rows} * cols * sizeof(float)
               : 0;
  }
};
static_assert(sizeof(Task) == 64);

enum class TaskStatus : std::uint32_t {
  kOk = 0,
  kWorkerLost = 1,   // the connection broke; nothing that was resident there exists any more
  kOutOfMemory = 2,  // detail = bytes needed beyond the limit
  kUnknownId = 3,    // an operand is not there
  kBadTask = 4,      // shapes, flags or sizes that contradict each other
};

// 32 bytes.
struct Completion {
  std::uint64_t request = 0;
  TaskStatus status = TaskStatus::kOk;
  std::uint32_t compute_us = 0;  // the worker's own word on how long it computed: statistics only
  std::uint64_t bytes = 0;       // of the reply: must equal Task::reply_bytes()
  std::uint64_t detail = 0;
};
static_assert(sizeof(Completion) == 32);

inline constexpr std::uint64_t join_detail(std::uint32_t index, std::uint32_t epoch) {
  return std::uint64_t{epoch} << 32 | index;
}

}  // namespace tempo
