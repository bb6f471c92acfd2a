// File: wire/slab_allocator.h
// First-fit allocation of contiguous runs of slabs. All its state is private memory of the process
// that hands the slabs out: nothing from the other side indexes it unchecked. First fit keeps the
// touched part of the shared memory small and in the cache. One thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace tempo {

class SlabAllocator {
 public:
  explicit SlabAllocator(std::uint32_t slabs);

  // The first slab of a run of `count` >= 1, or nothing when no run is long enough.
  std::optional<std::uint32_t> allocate(std::uint32_t count);
  // `first` came from allocate() and was not released since (asserted).
  void release(std::uint32_t first);

  std::uint32_t free_slabs() const { return free_slabs_; }

 private:
  std::map<std::uint32_t, std::uint32_t> free_;  // first slab -> length; no two runs touch
  std::map<std::uint32_t, std::uint32_t> used_;
  std::uint32_t free_slabs_;
};

}  // namespace tempo
