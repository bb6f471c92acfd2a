#include "wire/slab_allocator.h"

#include <iterator>

#include "base/error.h"

namespace tempo {

SlabAllocator::SlabAllocator(std::uint32_t slabs) : free_slabs_(slabs) {
  if (slabs > 0) free_.emplace(0, slabs);
}

std::optional<std::uint32_t> SlabAllocator::allocate(std::uint32_t count) {
  TEMPO_ASSERT(count >= 1);
  for (auto run = free_.begin(); run != free_.end(); ++run) {
    const auto [first, length] = *run;
    if (length < count) continue;
    free_.erase(run);
    if (length > count) free_.emplace(first + count, length - count);
    used_.emplace(first, count);
    free_slabs_ -= count;
    return first;
  }
  return std::nullopt;
}

void SlabAllocator::release(std::uint32_t first) {
  const auto used = used_.find(first);
  TEMPO_ASSERT(used != used_.end());
  std::uint32_t start = first;
  std::uint32_t length = used->second;
  used_.erase(used);
  free_slabs_ += length;
  const auto after = free_.lower_bound(start);
  if (after != free_.end() && after->first == start + length) {
    length += after->second;
    free_.erase(after);
  }
  const auto next = free_.lower_bound(start);
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == start) {
      start = before->first;
      length += before->second;
      free_.erase(before);
    }
  }
  free_.emplace(start, length);
}

}  // namespace tempo
