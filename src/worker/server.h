// File: worker/server.h
// Serves off-loaders one after the other, from this host and over the network; the store is emptied
// in between.
#pragma once

#include <vector>

#include "base/error.h"
#include "wire/unix_socket.h"
#include "worker/device.h"
#include "worker/serving.h"
#include "worker/task_executor.h"
#include "worker/tcp_service.h"

namespace tempo {

// Returns when stop_fd becomes readable. tcp: null for none; it has the same `serving`. Error kIo.
Status serve_offloaders(const std::vector<UnixListener>& listeners, TcpService* tcp,
                        TaskExecutor& executor, const Device& device, Serving& serving,
                        int stop_fd);

}  // namespace tempo
