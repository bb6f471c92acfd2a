#include "wire/frame.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

namespace tempo {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are written in native order");

constexpr std::uint32_t kMagic = 0x4F504D54;  // "TMPO"

Error malformed(const char* what, std::string expected, std::string got) {
  return {ErrorCode::kProtocol, what, "", std::move(expected), std::move(got), ""};
}

template <class T>
void put(Bytes& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::size_t offset = out.size();
  out.resize(offset + sizeof(T));
  std::memcpy(out.data() + offset, &value, sizeof(T));
}

// Precondition: offset + sizeof(T) <= body.size().
template <class T>
T get(std::span<const std::byte> body, std::size_t offset) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, body.data() + offset, sizeof(T));
  return value;
}

char printable(char c) {
  return c >= 0x20 && c < 0x7F ? c : '?';
}

WorkerInfo get_worker(std::span<const std::byte> body, std::size_t offset) {
  auto worker = get<WorkerInfo>(body, offset);
  bool ended = false;
  for (char& c : worker.device) {
    ended = ended || c == 0;
    c = ended ? '\0' : printable(c);
  }
  worker.device[sizeof(worker.device) - 1] = 0;
  return worker;
}

}  // namespace

std::array<std::byte, kFrameHeaderBytes> encode_frame_header(const FrameHeader& header) {
  const std::uint32_t words[4] = {kMagic, kProtocolVersion, static_cast<std::uint32_t>(header.type),
                                  header.body_bytes};
  std::array<std::byte, kFrameHeaderBytes> out;
  std::memcpy(out.data(), words, sizeof(words));
  return out;
}

Result<FrameHeader> decode_frame_header(std::span<const std::byte> bytes) {
  if (bytes.size() != kFrameHeaderBytes) {
    return malformed("truncated frame header", std::to_string(kFrameHeaderBytes) + " bytes",
                     std::to_string(bytes.size()));
  }
  if (get<std::uint32_t>(bytes, 0) != kMagic) {
    return malformed("the peer does not speak Tempo's protocol", "", "");
  }
  const auto version = get<std::uint32_t>(bytes, 4);
  if (version != kProtocolVersion) {
    return malformed("the peer has another protocol version", std::to_string(kProtocolVersion),
                     std::to_string(version));
  }
  const auto type = get<std::uint32_t>(bytes, 8);
  if (type < static_cast<std::uint32_t>(FrameType::kAttach) ||
      type > static_cast<std::uint32_t>(FrameType::kArenas)) {
    return malformed("unknown frame type", "", std::to_string(type));
  }
  const auto body = get<std::uint32_t>(bytes, 12);
  if (body > kMaxFrameBody) {
    return malformed("oversized frame", "at most " + std::to_string(kMaxFrameBody) + " bytes",
                     std::to_string(body));
  }
  return FrameHeader{static_cast<FrameType>(type), body};
}

Bytes encode_geometry(const RingGeometry& geometry) {
  Bytes out;
  put(out, geometry.entries);
  put(out, geometry.slabs);
  put(out, geometry.slab_bytes);
  return out;
}

Result<RingGeometry> decode_geometry(std::span<const std::byte> body) {
  if (body.size() != 16) {
    return malformed("malformed geometry", "16 bytes", std::to_string(body.size()));
  }
  const RingGeometry geometry{get<std::uint32_t>(body, 0), get<std::uint32_t>(body, 4),
                              get<std::uint64_t>(body, 8)};
  TEMPO_RETURN_IF_ERROR(check_geometry(geometry));
  return geometry;
}

Bytes encode_worker(const WorkerInfo& worker) {
  Bytes out;
  put(out, worker);
  return out;
}

Result<WorkerInfo> decode_worker(std::span<const std::byte> body) {
  if (body.size() != sizeof(WorkerInfo)) {
    return malformed("malformed worker information", std::to_string(sizeof(WorkerInfo)) + " bytes",
                     std::to_string(body.size()));
  }
  return get_worker(body, 0);
}

Bytes encode_workers(const std::vector<WorkerInfo>& workers) {
  TEMPO_ASSERT(workers.size() <= kMaxWorkers);
  Bytes out;
  put(out, static_cast<std::uint64_t>(workers.size()));
  for (const WorkerInfo& worker : workers) put(out, worker);
  return out;
}

Result<std::vector<WorkerInfo>> decode_workers(std::span<const std::byte> body) {
  const std::uint64_t count = body.size() >= 8 ? get<std::uint64_t>(body, 0) : 0;
  if (count < 1 || count > kMaxWorkers || body.size() != 8 + count * sizeof(WorkerInfo)) {
    return malformed("malformed list of workers",
                     "1 to " + std::to_string(kMaxWorkers) + " workers",
                     std::to_string(count) + " in " + std::to_string(body.size()) + " bytes");
  }
  std::vector<WorkerInfo> workers;
  for (std::uint64_t i = 0; i < count; ++i) {
    workers.push_back(get_worker(body, 8 + i * sizeof(WorkerInfo)));
  }
  return workers;
}

Bytes encode_refusal(const Error& error) {
  Bytes out;
  put(out, static_cast<std::uint32_t>(error.code));
  const std::string text = error.one_line().substr(0, kMaxRefusalText);
  for (char c : text) out.push_back(static_cast<std::byte>(c));
  return out;
}

Error decode_refusal(std::span<const std::byte> body) {
  if (body.size() < 4 || body.size() > 4 + kMaxRefusalText) {
    return malformed("malformed refusal", "", std::to_string(body.size()) + " bytes");
  }
  const auto code = get<std::uint32_t>(body, 0);
  std::string text;
  for (std::byte b : body.subspan(4)) text.push_back(printable(static_cast<char>(b)));
  Error error;
  error.code = code == static_cast<std::uint32_t>(ErrorCode::kNoWorker) ? ErrorCode::kNoWorker
               : code == static_cast<std::uint32_t>(ErrorCode::kOutOfMemory)
                   ? ErrorCode::kOutOfMemory
                   : ErrorCode::kProtocol;
  error.what = "the peer refused: " + text;
  return error;
}

}  // namespace tempo
