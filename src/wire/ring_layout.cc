#include "wire/ring_layout.h"

#include <bit>
#include <string>

#include "base/buffer.h"

namespace tempo {
namespace {

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kControlBytes = kPageBytes;

std::uint64_t page_ceil(std::uint64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// The n-th control word; each has a cache line of its own.
std::byte* control(std::byte* base, int n) {
  return base + n * kCacheLineBytes;
}

std::uint64_t ring_slabs_offset(const RingGeometry& g) {
  return page_ceil(kControlBytes + std::uint64_t{g.entries} * (sizeof(Task) + sizeof(Completion)));
}
std::uint64_t request_slabs_offset(const RingGeometry& g) {
  return page_ceil(kControlBytes + std::uint64_t{g.entries} * sizeof(Task));
}
std::uint64_t reply_slabs_offset(const RingGeometry& g) {
  return page_ceil(kControlBytes + std::uint64_t{g.entries} * sizeof(Completion));
}

}  // namespace

Status check_geometry(const RingGeometry& g) {
  const bool ok = std::has_single_bit(g.entries) && g.entries <= kMaxRingEntries && g.slabs >= 1 &&
                  g.slabs <= kMaxSlabs && g.slab_bytes >= kPageBytes &&
                  g.slab_bytes % kPageBytes == 0 && g.slab_bytes <= kMaxSlabBytes &&
                  g.slabs <= kMaxPayloadBytes / g.slab_bytes;
  if (ok) return {};
  return Error{
      ErrorCode::kProtocol,
      "the ring's geometry is outside its limits",
      "",
      "a power of two of entries up to 65536, slabs of whole 4096-byte pages, 1 TiB in all",
      std::to_string(g.entries) + " entries, " + std::to_string(g.slabs) + " slabs of " +
          std::to_string(g.slab_bytes) + " bytes",
      ""};
}

std::uint64_t slabs_for(const RingGeometry& g, std::uint64_t bytes) {
  if (bytes == 0) return 1;
  return (bytes - 1) / g.slab_bytes + 1;
}

bool slab_run_ok(const RingGeometry& g, std::uint32_t first, std::uint64_t bytes) {
  return first < g.slabs && slabs_for(g, bytes) <= g.slabs - first;
}

std::uint64_t ring_region_bytes(const RingGeometry& g) {
  return ring_slabs_offset(g) + g.payload_bytes();
}

RingPlace ring_submissions(std::byte* region, const RingGeometry&) {
  return {control(region, 0), control(region, 1), control(region, 2), region + kControlBytes};
}

RingPlace ring_completions(std::byte* region, const RingGeometry& g) {
  return {control(region, 3), control(region, 4), control(region, 5),
          region + kControlBytes + std::uint64_t{g.entries} * sizeof(Task)};
}

std::byte* ring_slab(std::byte* region, const RingGeometry& g, std::uint32_t slab) {
  return region + ring_slabs_offset(g) + slab * g.slab_bytes;
}

std::uint64_t request_arena_bytes(const RingGeometry& g) {
  return request_slabs_offset(g) + g.payload_bytes();
}

std::uint64_t reply_arena_bytes(const RingGeometry& g) {
  return reply_slabs_offset(g) + g.payload_bytes();
}

RingPlace arena_submissions(std::byte* request, std::byte* reply) {
  return {control(request, 0), control(reply, 1), control(reply, 2), request + kControlBytes};
}

RingPlace arena_completions(std::byte* request, std::byte* reply) {
  return {control(reply, 0), control(request, 1), control(request, 2), reply + kControlBytes};
}

std::byte* request_slab(std::byte* request, const RingGeometry& g, std::uint32_t slab) {
  return request + request_slabs_offset(g) + slab * g.slab_bytes;
}

std::byte* reply_slab(std::byte* reply, const RingGeometry& g, std::uint32_t slab) {
  return reply + reply_slabs_offset(g) + slab * g.slab_bytes;
}

}  // namespace tempo
