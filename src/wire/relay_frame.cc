#include "wire/relay_frame.h"

#include <bit>
#include <cstring>
#include <string>

#include "wire/frame.h"

namespace tempo {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are written in native order");

constexpr std::uint32_t kMagic = 0x524D5054;       // "TPMR"
constexpr std::uint32_t kFrameMagic = 0x66504D54;  // "TMPf"

// As they lie in the frames.
struct HelloWords {
  std::uint32_t magic = kMagic;
  std::uint32_t version = kRelayVersion;
  std::uint64_t reserved[3] = {};
};
static_assert(sizeof(HelloWords) == kRelayHelloBytes);

struct WelcomeWords {
  std::uint32_t magic = kMagic;
  std::uint32_t version = kRelayVersion;
  std::uint32_t answer = 0;
  std::uint32_t element_types = 0;
  std::uint64_t window_bytes = 0;
  std::uint64_t max_payload_bytes = 0;
  std::uint64_t max_tasks = 0;
  WorkerInfo worker;
  std::uint64_t reserved[3] = {};
};
static_assert(sizeof(WelcomeWords) == kRelayWelcomeBytes);

template <class Body>
struct Framed {
  std::uint32_t magic = kFrameMagic;
  RelayKind kind = RelayKind::kAlive;
  Body body;
};
static_assert(sizeof(Framed<Task>) == kRelayTaskBytes);
static_assert(sizeof(Framed<Completion>) == kRelayDoneBytes);

Error malformed(const char* what, std::string expected = {}, std::string got = {}) {
  return {ErrorCode::kProtocol, what, "", std::move(expected), std::move(got), ""};
}

template <std::size_t kBytes, class Words>
std::array<std::byte, kBytes> encode(const Words& words) {
  std::array<std::byte, kBytes> frame;
  static_assert(sizeof(Words) == kBytes);
  std::memcpy(frame.data(), &words, kBytes);
  return frame;
}

template <class Words, std::size_t kBytes>
Words decode(const std::array<std::byte, kBytes>& frame) {
  Words words;
  static_assert(sizeof(Words) == kBytes);
  std::memcpy(&words, frame.data(), kBytes);
  return words;
}

template <class Body, std::size_t kBytes>
Result<std::optional<Body>> decode_framed(const std::array<std::byte, kBytes>& frame,
                                          RelayKind expected) {
  const auto words = decode<Framed<Body>>(frame);
  if (words.magic != kFrameMagic) return malformed("what arrives is no frame");
  if (words.kind == RelayKind::kAlive) return std::optional<Body>();
  if (words.kind != expected) {
    return malformed("unknown frame", "", std::to_string(static_cast<std::uint32_t>(words.kind)));
  }
  return std::optional<Body>(words.body);
}

}  // namespace

RelayHelloFrame encode_relay_hello(std::uint32_t version) {
  HelloWords words;
  words.version = version;
  return encode<kRelayHelloBytes>(words);
}

Result<std::uint32_t> decode_relay_hello(const RelayHelloFrame& frame) {
  const auto words = decode<HelloWords>(frame);
  if (words.magic != kMagic) return malformed("the peer does not speak Tempo's relay protocol");
  return words.version;
}

RelayWelcomeFrame encode_relay_welcome(const RelayWelcome& welcome) {
  WelcomeWords words;
  words.version = welcome.version;
  words.answer = static_cast<std::uint32_t>(welcome.answer);
  words.element_types = welcome.element_types;
  words.window_bytes = welcome.limits.window_bytes;
  words.max_payload_bytes = welcome.limits.max_payload_bytes;
  words.max_tasks = welcome.limits.max_tasks;
  words.worker = welcome.worker;
  return encode<kRelayWelcomeBytes>(words);
}

Result<RelayWelcome> decode_relay_welcome(const RelayWelcomeFrame& frame) {
  const auto words = decode<WelcomeWords>(frame);
  if (words.magic != kMagic) return malformed("the peer does not speak Tempo's relay protocol");
  if (words.version != kRelayVersion) {
    return malformed("the worker has another version of the relay protocol",
                     std::to_string(kRelayVersion), std::to_string(words.version));
  }
  if (words.answer == static_cast<std::uint32_t>(RelayAnswer::kBusy)) {
    return malformed("the worker serves another off-loader");
  }
  if (words.answer != static_cast<std::uint32_t>(RelayAnswer::kServed)) {
    return malformed("unknown answer", "", std::to_string(words.answer));
  }
  if ((words.element_types & kFloat32) == 0) {
    return malformed("the worker does not compute with float32");
  }
  if (words.window_bytes < kRelayBlockBytes || words.window_bytes > kMaxRelayWindow ||
      words.max_payload_bytes == 0 || words.max_payload_bytes > words.window_bytes ||
      words.max_tasks == 0 || words.max_tasks > kMaxRelayTasks) {
    return malformed("the worker's limits make no sense");
  }
  auto worker = decode_worker(std::as_bytes(std::span(&words.worker, 1)));
  if (!worker) return worker.error();
  RelayWelcome welcome;
  welcome.element_types = words.element_types;
  welcome.limits = {words.window_bytes, words.max_payload_bytes,
                    static_cast<std::uint32_t>(words.max_tasks)};
  welcome.worker = *worker;
  return welcome;
}

RelayTaskFrame encode_relay_task(const Task& task) {
  return encode<kRelayTaskBytes>(Framed<Task>{kFrameMagic, RelayKind::kTask, task});
}

RelayTaskFrame relay_alive_to_worker() {
  return encode<kRelayTaskBytes>(Framed<Task>());
}

Result<std::optional<Task>> decode_relay_task(const RelayTaskFrame& frame) {
  return decode_framed<Task>(frame, RelayKind::kTask);
}

RelayDoneFrame encode_relay_done(const Completion& completion) {
  return encode<kRelayDoneBytes>(Framed<Completion>{kFrameMagic, RelayKind::kDone, completion});
}

RelayDoneFrame relay_alive_to_offloader() {
  return encode<kRelayDoneBytes>(Framed<Completion>());
}

Result<std::optional<Completion>> decode_relay_done(const RelayDoneFrame& frame) {
  return decode_framed<Completion>(frame, RelayKind::kDone);
}

}  // namespace tempo
