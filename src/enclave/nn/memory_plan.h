// File: enclave/nn/memory_plan.h
// Static memory: places buffers whose lifetimes are known in one arena, so that buffers that live
// at the same time do not overlap.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tempo {

// Alive during steps first .. last, both included.
struct Lifetime {
  std::int64_t bytes = 0;
  int first = 0;
  int last = 0;
};

struct MemoryPlan {
  std::vector<std::int64_t> offsets;  // index as given; multiples of 64
  std::int64_t arena_bytes = 0;
};

// Largest first, each into the tightest gap that holds it. Quadratic in the number of buffers.
MemoryPlan plan_memory(std::span<const Lifetime> buffers);

// The most bytes alive in one step: no plan can need less.
std::int64_t peak_bytes(std::span<const Lifetime> buffers);

}  // namespace tempo
