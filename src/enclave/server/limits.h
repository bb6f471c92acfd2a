// File: enclave/server/limits.h
// What a client of the job API may ask for. Every size, count and time has a bound.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tempo {

struct ApiLimits {
  std::size_t jobs = 16;      // kept, in any state; the oldest finished one makes room
  std::size_t events = 4096;  // progress lines kept a job
  std::uint64_t model_bytes = std::uint64_t{2} << 30;  // protobuf's own limit
  std::uint64_t file_bytes = std::uint64_t{8} << 30;
  std::uint64_t upload_bytes = std::uint64_t{16} << 30;  // of all jobs that have not ended
  int idle_job_s = 600;  // a job that is not started in this time may make room
  std::size_t connections = 16;
  std::uint32_t header_bytes = 16 * 1024;
  int header_ms = 10'000;  // for a request's header, counted from its first byte
  int idle_ms = 60'000;    // between the requests of a connection
  int body_ms = 60'000;    // for a body, plus its size at body_bytes_per_ms
  std::uint64_t body_bytes_per_ms = 1000;
  int keep_alive_ms = 1000;  // between two comments of an event stream
};

}  // namespace tempo
