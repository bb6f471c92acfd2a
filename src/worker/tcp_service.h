// File: worker/tcp_service.h
// Off-loaders that come over the network. Accepting, hellos and all input and output happen on a
// thread of the service; tasks are done on the thread that calls serve(), so that a long product
// keeps nobody waiting for a sign of life.
//
// Peers are not trusted. A hello has to be complete within kRelayHelloMs (with TLS, after its
// handshake within the same time); at most kMaxHandshakes are under way, and the oldest goes when
// there are more; whoever is turned away costs a log line, as
// far as LogLimit admits it. Tasks and answers under way take at
// most the window, from memory that was set aside at the start.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "wire/relay_frame.h"
#include "wire/tls.h"
#include "wire/worker_address.h"
#include "worker/device.h"
#include "worker/serving.h"
#include "worker/session.h"
#include "worker/task_executor.h"

namespace tempo {

struct TcpServiceOptions {
  std::vector<WorkerAddress> listen;
  RelayLimits limits;  // the window: a multiple of kRelayBlockBytes
  WorkerInfo info;
  std::shared_ptr<TlsContext> tls;  // null: none
};

class TcpService {
 public:
  static constexpr std::size_t kMaxHandshakes = 32;

  // Listens. `serving` outlives the service. Errors: kNotFound (a host that does not resolve), kIo,
  // kOutOfMemory.
  static Result<std::unique_ptr<TcpService>> start(TcpServiceOptions options, Serving& serving);
  ~TcpService();

  // The ports that it listens on, in the order of the addresses.
  std::vector<std::uint16_t> ports() const;
  // Readable when an off-loader has said hello and is to be served.
  int wait_fd() const;
  // Serves it until it leaves, breaks the protocol, or stop_fd becomes readable. The store is as it
  // left it. device: that the executor computes on; says when an answer may leave.
  SessionEnd serve(TaskExecutor& executor, const Device& device, int stop_fd);

 private:
  class Impl;
  explicit TcpService(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

// "listening" on all interfaces or one that others can reach, rather than on this host alone.
bool is_loopback(const WorkerAddress& address);

}  // namespace tempo
