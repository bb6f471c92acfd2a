// File: worker/health_server.h
// What supervisors ask a worker over HTTP: GET /healthz and GET /readyz. On a thread of its own; a
// request is at most 4 KiB and has two seconds, and of more than 16 connections the oldest goes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "wire/worker_address.h"

namespace tempo {

struct Health {
  std::string version;
  std::string device;
  std::uint64_t memory_limit_bytes = 0;
  std::uint64_t memory_in_use_bytes = 0;
  std::uint64_t tasks_done = 0;
  bool serving = false;
};

class HealthServer {
 public:
  // look: called on the server's thread. Errors kNotFound, kIo.
  static Result<std::unique_ptr<HealthServer>> start(const WorkerAddress& address,
                                                     std::function<Health()> look);
  ~HealthServer();

 private:
  class Impl;
  explicit HealthServer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace tempo
