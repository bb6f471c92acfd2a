// File: worker/hooks.h
// What an observer of a worker's work is told. The product worker has none; see
// lab/worker_hooks.h for those that experiments and tests use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "wire/task.h"

namespace tempo {

class WorkerHooks {
 public:
  virtual ~WorkerHooks() = default;

  // Every well-formed task, before it is done. payload: of a put; else empty.
  virtual void received(const Task&, std::span<const float> /*payload*/) {}
  // Every product that was computed, before its completion is sent. result: what will be sent back
  // (rows x cols), and may be changed; null when the product stays here. inner: the length of its
  // dot products, without those of products that were there to be added to.
  virtual void after_multiply(const Task&, float* /*result*/, std::uint32_t /*rows*/,
                              std::uint32_t /*cols*/, std::uint32_t /*inner*/) {}
};

}  // namespace tempo
