#include "offloader/offloader.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <utility>

#include "offloader/enclave_port.h"
#include "offloader/local_channel.h"
#include "offloader/router.h"
#include "offloader/worker_connect.h"

namespace tempo {
namespace {

Status check_memory(const RingGeometry& geometry, std::size_t workers, std::uint64_t limit) {
  // Cannot overflow: at most 2^40 and a little, 129 times.
  const std::uint64_t bytes =
      ring_region_bytes(geometry) +
      workers * (request_arena_bytes(geometry) + reply_arena_bytes(geometry));
  if (bytes <= limit) return {};
  return Error{ErrorCode::kOutOfMemory,
               "the ring asks for too much shared memory",
               "",
               "at most " + std::to_string(limit) + " bytes with its workers' arenas",
               std::to_string(bytes),
               "choose a smaller ring, or raise the off-loader's --memory-limit"};
}

// Waits for the one enclave. Null: told to stop.
Result<std::unique_ptr<EnclavePort>> wait_for_enclave(const UnixListener& listener,
                                                      const std::vector<WorkerInfo>& workers,
                                                      const OffloaderOptions& options) {
  for (;;) {
    pollfd entries[2] = {{options.stop_fd, POLLIN, 0}, {listener.fd(), POLLIN, 0}};
    ::poll(entries, 2, -1);
    if (entries[0].revents != 0) return std::unique_ptr<EnclavePort>();
    if (entries[1].revents == 0) continue;
    Fd socket = listener.accept();
    if (!socket.valid()) continue;
    auto geometry = EnclavePort::receive_attach(socket);
    if (!geometry) {
      spdlog::warn("a peer was turned away: {}", geometry.error().one_line());
      EnclavePort::refuse(socket, geometry.error());
      continue;
    }
    if (Status fits = check_memory(*geometry, workers.size(), options.memory_limit_bytes);
        !fits.ok()) {
      spdlog::error("an enclave was turned away: {}", fits.error().one_line());
      EnclavePort::refuse(socket, fits.error());
      continue;
    }
    auto port = EnclavePort::open(std::move(socket), *geometry, workers);
    if (port) return port;
    spdlog::error("an enclave could not attach: {}", port.error().one_line());
  }
}

}  // namespace

Status run_offloader(UnixListener listener, const OffloaderOptions& options) {
  auto connected =
      connect_workers(options.worker_paths, options.connect_timeout_ms, options.stop_fd);
  if (!connected) {
    return connected.error().code == ErrorCode::kInterrupted ? Status() : connected.error();
  }
  std::vector<WorkerInfo> infos;
  for (std::size_t i = 0; i < connected->size(); ++i) {
    const ConnectedWorker& worker = (*connected)[i];
    spdlog::info("worker {}: {} ({}, {} MiB)", i, worker.path, worker.info.device,
                 worker.info.memory_limit_bytes >> 20);
    infos.push_back(worker.info);
  }
  std::unique_ptr<EnclavePort> port;
  {
    const UnixListener until_attached = std::move(listener);  // closed, and its file removed, after
    auto attached = wait_for_enclave(until_attached, infos, options);
    if (!attached) return attached.error();
    port = std::move(*attached);
  }
  if (port == nullptr) return {};
  std::vector<std::unique_ptr<WorkerChannel>> channels;
  for (std::size_t i = 0; i < connected->size(); ++i) {
    auto channel = LocalChannel::open(std::move((*connected)[i].socket), port->geometry());
    if (channel) {
      channels.push_back(std::move(*channel));
    } else {
      spdlog::warn("worker {} is lost: {}", i, channel.error().one_line());
      channels.push_back(nullptr);
    }
  }
  spdlog::info("serving the enclave with {} workers", channels.size());
  Router router(*port, std::move(channels));
  Status ended = router.run(options.stop_fd);
  spdlog::info("the session ends");
  return ended;
}

}  // namespace tempo
