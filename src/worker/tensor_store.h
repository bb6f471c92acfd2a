// File: worker/tensor_store.h
// The operands that a worker keeps, by id, within a limit of bytes and of ids. One thread at a
// time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "worker/device.h"

namespace tempo {

struct StoreLimits {
  std::uint64_t bytes = 0;
  std::size_t ids = 1U << 20;
};

class TensorStore {
 public:
  explicit TensorStore(const StoreLimits& limits) : limits_(limits) {}

  // Null when there is none.
  DeviceMatrix* find(std::uint64_t id);
  // Bytes that `bytes` more (after freeing what is under `id`) would exceed the limit by; 0: fits.
  // With too many ids: all of them.
  std::uint64_t excess(std::uint64_t id, std::uint64_t bytes) const;
  // Replaces what is there.
  void insert(std::uint64_t id, std::unique_ptr<DeviceMatrix> matrix);
  // Frees all ids in [first, last].
  void drop(std::uint64_t first, std::uint64_t last);
  void clear();

  std::uint64_t bytes() const { return bytes_; }
  std::size_t size() const { return matrices_.size(); }
  const StoreLimits& limits() const { return limits_; }

 private:
  const StoreLimits limits_;
  std::map<std::uint64_t, std::unique_ptr<DeviceMatrix>> matrices_;
  std::uint64_t bytes_ = 0;
};

}  // namespace tempo
