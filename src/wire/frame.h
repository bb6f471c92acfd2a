// File: wire/frame.h
// Frames on the control sockets, before any memory is shared. A frame is a 16-byte header and a
// body of at most kMaxFrameBody bytes; integers are little-endian.
//
//   enclave    -> off-loader  kAttach    RingGeometry
//   off-loader -> enclave     kAttached  WorkerInfo list; 1 descriptor: the ring's region
//   off-loader -> enclave     kRefused   error code and text
//   off-loader -> worker      kHello     empty
//   worker     -> off-loader  kWelcome   WorkerInfo
//   off-loader -> worker      kArenas    RingGeometry; 2 descriptors: request and reply arena
// After that a socket carries doorbells only (wire/doorbell.h); closing it ends the session.
//
// Decoders take any bytes and answer with an error of code kProtocol, never more.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "wire/ring_layout.h"
#include "wire/task.h"

namespace tempo {

enum class FrameType : std::uint32_t {
  kAttach = 1,
  kAttached = 2,
  kRefused = 3,
  kHello = 4,
  kWelcome = 5,
  kArenas = 6,
};

inline constexpr std::size_t kFrameHeaderBytes = 16;
inline constexpr std::size_t kMaxWorkers = 64;
inline constexpr std::size_t kMaxFrameBody = 8 + kMaxWorkers * sizeof(WorkerInfo);
inline constexpr std::size_t kMaxRefusalText = 256;

struct FrameHeader {
  FrameType type = FrameType::kHello;
  std::uint32_t body_bytes = 0;
};

using Bytes = std::vector<std::byte>;

std::array<std::byte, kFrameHeaderBytes> encode_frame_header(const FrameHeader& header);
Result<FrameHeader> decode_frame_header(std::span<const std::byte> bytes);

Bytes encode_geometry(const RingGeometry& geometry);
// The geometry is within its limits (check_geometry).
Result<RingGeometry> decode_geometry(std::span<const std::byte> body);

Bytes encode_worker(const WorkerInfo& worker);
// The text is printable and zero-terminated afterwards.
Result<WorkerInfo> decode_worker(std::span<const std::byte> body);

// At most kMaxWorkers.
Bytes encode_workers(const std::vector<WorkerInfo>& workers);
Result<std::vector<WorkerInfo>> decode_workers(std::span<const std::byte> body);

Bytes encode_refusal(const Error& error);
// What the peer says, or that it says nonsense: code kNoWorker, kOutOfMemory or kProtocol, and
// printable text.
Error decode_refusal(std::span<const std::byte> body);

}  // namespace tempo
