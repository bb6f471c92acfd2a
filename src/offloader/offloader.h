// File: offloader/offloader.h
// The off-loader's life: find the workers, wait for the enclave, serve it until it leaves.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "offloader/worker_finder.h"
#include "wire/unix_socket.h"

namespace tempo {

struct OffloaderOptions {
  WorkerList workers;
  // Of all shared memory that may come into use: the ring's region and two arenas a worker.
  std::uint64_t memory_limit_bytes = std::uint64_t{16} << 30;
  int connect_timeout_ms = 5000;  // until all workers have answered, or go on without them
  int stop_fd = -1;               // readable when the program is to end
};

// Waits until all workers have answered or the time is over, and needs at least one by then (error
// kNoWorker); the others may join later. Serves exactly one enclave; others that try to attach
// before it and are no enclave, or want too much, are turned away. Returns when the enclave is
// gone, or on stop_fd. Errors: kNoWorker, kProtocol, kIo.
Status run_offloader(UnixListener listener, const OffloaderOptions& options);

}  // namespace tempo
