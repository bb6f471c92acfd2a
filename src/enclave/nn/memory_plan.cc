#include "enclave/nn/memory_plan.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <numeric>

#include "base/buffer.h"

namespace tempo {
namespace {

std::int64_t padded(std::int64_t bytes) {
  constexpr auto kLine = static_cast<std::int64_t>(kCacheLineBytes);
  return (bytes + kLine - 1) / kLine * kLine;
}

struct Placed {
  std::int64_t begin, end;  // bytes
  int first, last;
};

// `placed` is sorted by begin.
std::int64_t tightest_gap(const std::vector<Placed>& placed, const Lifetime& buffer,
                          std::int64_t bytes) {
  std::int64_t best = -1, best_gap = std::numeric_limits<std::int64_t>::max();
  std::int64_t free_from = 0;
  for (const Placed& other : placed) {
    if (other.last < buffer.first || other.first > buffer.last) continue;
    const std::int64_t gap = other.begin - free_from;
    if (gap >= bytes && gap < best_gap) {
      best = free_from;
      best_gap = gap;
    }
    free_from = std::max(free_from, other.end);
  }
  return best >= 0 ? best : free_from;
}

}  // namespace

MemoryPlan plan_memory(std::span<const Lifetime> buffers) {
  std::vector<std::size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return buffers[a].bytes > buffers[b].bytes;
  });
  MemoryPlan plan;
  plan.offsets.resize(buffers.size(), 0);
  std::vector<Placed> placed;
  placed.reserve(buffers.size());
  for (const std::size_t index : order) {
    const Lifetime& buffer = buffers[index];
    const std::int64_t bytes = padded(buffer.bytes);
    if (bytes == 0) continue;
    const std::int64_t begin = tightest_gap(placed, buffer, bytes);
    plan.offsets[index] = begin;
    plan.arena_bytes = std::max(plan.arena_bytes, begin + bytes);
    const Placed entry{begin, begin + bytes, buffer.first, buffer.last};
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), entry,
                         [](const Placed& a, const Placed& b) { return a.begin < b.begin; }),
        entry);
  }
  return plan;
}

std::int64_t peak_bytes(std::span<const Lifetime> buffers) {
  std::map<int, std::int64_t> change;
  for (const Lifetime& buffer : buffers) {
    change[buffer.first] += padded(buffer.bytes);
    change[buffer.last + 1] -= padded(buffer.bytes);
  }
  std::int64_t alive = 0, peak = 0;
  for (const auto& [step, bytes] : change) {
    alive += bytes;
    peak = std::max(peak, alive);
  }
  return peak;
}

}  // namespace tempo
