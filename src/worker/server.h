// File: worker/server.h
// Accepts off-loaders one after the other; the store is emptied in between.
#pragma once

#include "base/error.h"
#include "wire/unix_socket.h"
#include "worker/device.h"
#include "worker/hooks.h"
#include "worker/tensor_store.h"

namespace tempo {

// Returns when stop_fd becomes readable. hooks: null for none. Error kIo.
Status serve_offloaders(const UnixListener& listener, Device& device, const StoreLimits& limits,
                        WorkerHooks* hooks, int stop_fd);

}  // namespace tempo
