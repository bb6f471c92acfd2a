// File: wire/ring_layout.h
// Where everything lies in shared memory.
//
// Ring region (enclave and off-loader, both may write all of it):
//   control page | submission slots (64 B each) | completion slots (32 B each) | pad | slabs
// Arenas (off-loader and one worker; each side writes its own arena only):
//   request arena: control page | submission slots | pad | slabs    written by the off-loader
//   reply arena:   control page | completion slots | pad | slabs    written by the worker
// The parts after `pad` start on a page.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "wire/descriptor_ring.h"
#include "wire/task.h"

namespace tempo {

// Chosen by the enclave (and by the off-loader towards a worker); never read from shared memory.
struct RingGeometry {
  std::uint32_t entries = 256;       // descriptors a ring; a power of two
  std::uint32_t slabs = 4096;        // payload memory in units of slab_bytes
  std::uint64_t slab_bytes = 65536;  // a multiple of 4096

  std::uint64_t payload_bytes() const { return slabs * slab_bytes; }
};

inline constexpr std::uint32_t kMaxRingEntries = 65536;
inline constexpr std::uint32_t kMaxSlabs = 1U << 22;
inline constexpr std::uint64_t kMaxSlabBytes = 1ULL << 30;
inline constexpr std::uint64_t kMaxPayloadBytes = 1ULL << 40;

// Error kProtocol when the geometry is outside its limits. Everything below wants a checked one.
Status check_geometry(const RingGeometry& geometry);

// Number of slabs that hold `bytes`, at least one.
std::uint64_t slabs_for(const RingGeometry& geometry, std::uint64_t bytes);
// Whether the run of slabs that starts at `first` and holds `bytes` lies in the geometry.
bool slab_run_ok(const RingGeometry& geometry, std::uint32_t first, std::uint64_t bytes);

std::uint64_t ring_region_bytes(const RingGeometry& geometry);
RingPlace ring_submissions(std::byte* region, const RingGeometry& geometry);
RingPlace ring_completions(std::byte* region, const RingGeometry& geometry);
std::byte* ring_slab(std::byte* region, const RingGeometry& geometry, std::uint32_t slab);

std::uint64_t request_arena_bytes(const RingGeometry& geometry);
std::uint64_t reply_arena_bytes(const RingGeometry& geometry);
RingPlace arena_submissions(std::byte* request, std::byte* reply);
RingPlace arena_completions(std::byte* request, std::byte* reply);
std::byte* request_slab(std::byte* request, const RingGeometry& geometry, std::uint32_t slab);
std::byte* reply_slab(std::byte* reply, const RingGeometry& geometry, std::uint32_t slab);

}  // namespace tempo
