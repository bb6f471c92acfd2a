// File: offloader/local_channel.h
// A worker on the same host: a Unix socket for handshake, doorbells and liveness, a pair of memory
// arenas for the rest. Each worker has a pair of its own, so that none sees another's tiles; it
// cannot write to the request arena.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "offloader/worker_channel.h"
#include "wire/descriptor_ring.h"
#include "wire/fd.h"
#include "wire/ring_layout.h"
#include "wire/shared_region.h"
#include "wire/slab_allocator.h"

namespace tempo {

class LocalChannel final : public WorkerChannel {
 public:
  // socket: after the hello. Creates the arenas and hands them over. Errors kOutOfMemory,
  // kProtocol.
  static Result<std::unique_ptr<LocalChannel>> open(Fd socket, const RingGeometry& geometry);

  Result<bool> send(const Task& task, const std::byte* payload, std::byte* reply) override;
  Result<std::optional<Completion>> receive() override;
  int wait_fd() const override { return socket_.get(); }
  bool begin_wait() override { return completions_.begin_wait() == RingRead::kEmpty; }
  Status end_wait() override;

 private:
  struct InFlight {
    Task task;  // as the caller gave it
    std::byte* reply = nullptr;
    std::optional<std::uint32_t> payload_slab;
    std::optional<std::uint32_t> reply_slab;
  };

  LocalChannel(Fd socket, const RingGeometry& geometry, SharedRegion request, SharedRegion reply);

  const Fd socket_;
  const RingGeometry geometry_;
  const SharedRegion request_;
  const SharedRegion reply_;
  RingProducer<Task> tasks_;
  RingConsumer<Completion> completions_;
  SlabAllocator request_slabs_;
  SlabAllocator reply_slabs_;
  std::deque<InFlight> in_flight_;  // in order of sending
};

}  // namespace tempo
