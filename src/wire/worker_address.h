// File: wire/worker_address.h
// Where a worker can be reached, as a user writes it: unix:PATH, or tcp://HOST:PORT with an IPv6
// address in brackets.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace tempo {

struct WorkerAddress {
  std::string text;  // as written; names the worker in logs
  std::string path;  // of a Unix socket; empty: TCP
  std::string host;  // a name or an IP address, without brackets
  std::uint16_t port = 0;

  bool is_tcp() const { return path.empty(); }
};

// Error kUsage. Port 0 is accepted: a listener takes any free port.
Result<WorkerAddress> parse_worker_address(const std::string& text);

// "HOST:PORT", as in tcp://HOST:PORT. Error kUsage.
Result<WorkerAddress> parse_host_port(const std::string& text);

}  // namespace tempo
