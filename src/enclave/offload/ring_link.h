// File: enclave/offload/ring_link.h
// The enclave's end of the ring: a WorkerLink over memory that it shares with the off-loader.
//
// Trusted side of a hostile channel. The geometry is the enclave's own; indexes, outstanding
// requests and the ownership of slabs are private; the off-loader's indexes are read once and
// range-checked; a completion is copied out once, and must match exactly one outstanding request
// and its length. Any violation breaks the link for good. The off-loader can stop the work; it
// cannot make the enclave read or write outside the region, or take one answer for another.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "enclave/offload/worker_link.h"
#include "wire/descriptor_ring.h"
#include "wire/fd.h"
#include "wire/frame.h"
#include "wire/ring_layout.h"
#include "wire/shared_region.h"
#include "wire/slab_allocator.h"

namespace tempo {

class RingLink final : public WorkerLink {
 public:
  static constexpr int kAttachTimeoutMs = 20000;

  // Connects to the off-loader's Unix socket, which may appear only later, and attaches. Errors:
  // kUsage (geometry or path), kNoWorker (no off-loader there in time, or none of its workers
  // answers), kOutOfMemory (more shared memory than the off-loader allows), kProtocol.
  static Result<std::unique_ptr<RingLink>> attach(const std::string& socket_path,
                                                  const RingGeometry& geometry,
                                                  int timeout_ms = kAttachTimeoutMs);

  // Over memory given by the caller, which outlives the link: for tests. The geometry was checked,
  // region.size() == ring_region_bytes(geometry), aligned to 64 bytes, workers is not empty. The
  // socket carries the doorbells; without one, poll() does not sleep.
  RingLink(std::span<std::byte> region, const RingGeometry& geometry,
           std::vector<WorkerInfo> workers, Fd socket);

  const std::vector<WorkerInfo>& workers() const override { return workers_; }
  std::vector<WorkerJoin> joins() override;
  std::optional<Slot> reserve(std::uint64_t bytes) override;
  // All but the slab of the watch.
  std::uint64_t max_slot_bytes() const override {
    return slot_slabs(geometry_) * geometry_.slab_bytes;
  }
  void release(const Slot& slot) override;
  // At most geometry.entries tasks are outstanding at a time.
  Result<std::optional<std::uint64_t>> submit(Task task, const Slot* payload,
                                              const Slot* reply) override;
  void abandon(std::uint64_t request) override;
  Result<std::optional<Completion>> poll(int timeout_ms) override;
  bool is_broken() const { return broken_ != nullptr; }

 private:
  struct Outstanding {
    std::uint64_t reply_bytes = 0;
    std::optional<std::uint32_t> payload_slab = {};  // released on completion
    std::optional<std::uint32_t> reply_slab = {};    // the caller's until it is abandoned
    bool abandoned = false;
  };

  // A ring of a single slab or entry has no room to watch for joins.
  static bool can_watch(const RingGeometry& g) { return g.slabs > 1 && g.entries > 1; }
  static std::uint32_t slot_slabs(const RingGeometry& g) {
    return g.slabs - (can_watch(g) ? 1 : 0);
  }

  // Tells the off-loader to report the next join, unless it was told.
  void watch();
  // What it reports: read once, checked.
  Status take_join(const Completion& completion);
  Error broken_error() const;
  Error break_link(const char* reason);
  // The next descriptor, checked; nothing when there is none.
  Result<std::optional<Completion>> take();
  // Also answers the doorbell.
  bool offloader_gone() const;
  // Sleeps until the off-loader rings or leaves, at most timeout_ms.
  void sleep(int timeout_ms);

  SharedRegion mapping_;  // empty over given memory
  std::byte* const region_;
  const RingGeometry geometry_;
  const std::vector<WorkerInfo> workers_;
  const Fd socket_;
  RingProducer<Task> submissions_;
  RingConsumer<Completion> completions_;
  SlabAllocator slabs_;
  std::unordered_map<std::uint64_t, Outstanding> outstanding_;
  std::uint64_t next_request_ = 1;
  std::uint64_t watch_ = 0;                        // its request; 0: none is outstanding
  std::array<std::uint32_t, kMaxWorkers> told_{};  // epochs by index, of the last join
  std::array<std::uint32_t, kMaxWorkers> used_{};  // that tasks carry: of the last joins()
  std::vector<WorkerJoin> joins_;                  // since the last joins()
  std::uint32_t idle_polls_ = 0;
  const char* broken_ = nullptr;  // why
};

}  // namespace tempo
