// File: enclave/server/http_connection.h
// One connection of the job API, from its first request to its end.
#pragma once

#include "enclave/server/api.h"
#include "wire/fd.h"

namespace tempo {

// Serves requests until the peer leaves, breaks the protocol, is too slow, or `stop_fd` becomes
// readable. Never throws.
void serve_connection(Fd socket, int stop_fd, Api& api, const ApiLimits& limits) noexcept;

// Answers 503 without reading the request, for a connection too many.
void refuse_connection(Fd socket) noexcept;

}  // namespace tempo
