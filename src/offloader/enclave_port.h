// File: offloader/enclave_port.h
// The off-loader's end of the ring: the attach handshake, the region, and its two rings.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "wire/descriptor_ring.h"
#include "wire/fd.h"
#include "wire/ring_layout.h"
#include "wire/shared_region.h"
#include "wire/task.h"

namespace tempo {

class EnclavePort {
 public:
  // Reads the attach request from a new connection. Error kProtocol: not an enclave.
  static Result<RingGeometry> receive_attach(const Fd& socket);
  // Tells an enclave that it cannot be served.
  static void refuse(const Fd& socket, const Error& error);
  // Creates the region and hands it over. Errors kOutOfMemory, kProtocol.
  static Result<std::unique_ptr<EnclavePort>> open(Fd socket, const RingGeometry& geometry,
                                                   const std::vector<WorkerInfo>& workers);

  const RingGeometry& geometry() const { return geometry_; }
  std::byte* slab(std::uint32_t first) { return ring_slab(region_.data(), geometry_, first); }

  RingRead pop(Task& task) { return tasks_.pop(task); }
  // False when the ring is full. Error kProtocol.
  Result<bool> push(const Completion& completion);

  // What becomes readable when there is something to do.
  int wait_fd() const { return socket_.get(); }
  // Before the thread sleeps. Anything but kEmpty: it must not.
  RingRead begin_wait() { return tasks_.begin_wait(); }
  // Afterwards. False: the enclave is gone.
  bool end_wait();

 private:
  EnclavePort(Fd socket, const RingGeometry& geometry, SharedRegion region);

  const Fd socket_;
  const RingGeometry geometry_;
  const SharedRegion region_;
  RingConsumer<Task> tasks_;
  RingProducer<Completion> completions_;
};

}  // namespace tempo
