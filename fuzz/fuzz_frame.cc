// Frames from a hostile peer, through a real socket, as enclave, off-loader and worker read them.
// The first byte says which frame the reader expects.
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/error.h"
#include "wire/frame.h"
#include "wire/unix_socket.h"

namespace tempo::fuzz {
namespace {

void check_worker(const WorkerInfo& worker) {
  const std::size_t length = ::strnlen(worker.device, sizeof(worker.device));
  TEMPO_ASSERT(length < sizeof(worker.device));
  for (std::size_t i = 0; i < length; ++i) {
    TEMPO_ASSERT(worker.device[i] >= 0x20 && worker.device[i] < 0x7F);
  }
}

void check_geometry_of(const Bytes& body) {
  auto geometry = decode_geometry(body);
  if (!geometry) return;
  TEMPO_ASSERT(encode_geometry(*geometry) == body);
  TEMPO_ASSERT(ring_region_bytes(*geometry) <= 2 * kMaxPayloadBytes);
  TEMPO_ASSERT(slab_run_ok(*geometry, 0, geometry->payload_bytes()));
  TEMPO_ASSERT(!slab_run_ok(*geometry, 0, geometry->payload_bytes() + 1));
}

void check_body(FrameType type, const Bytes& body) {
  switch (type) {
    case FrameType::kAttach:
    case FrameType::kArenas:
      check_geometry_of(body);
      break;
    case FrameType::kAttached:
      if (auto workers = decode_workers(body)) {
        TEMPO_ASSERT(!workers->empty() && workers->size() <= kMaxWorkers);
        std::for_each(workers->begin(), workers->end(), check_worker);
      }
      break;
    case FrameType::kWelcome:
      if (auto worker = decode_worker(body)) check_worker(*worker);
      break;
    case FrameType::kRefused:
      TEMPO_ASSERT(!decode_refusal(body).one_line().empty());
      break;
    case FrameType::kHello:
      break;
  }
}

}  // namespace
}  // namespace tempo::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tempo;
  if (size < 1 || size > 64 * 1024) return 0;
  const auto expected = static_cast<FrameType>(1 + data[0] % 6);
  int fds[2];
  TEMPO_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
  const Fd reader(fds[0]);
  {
    const Fd writer(fds[1]);
    const ssize_t sent = ::send(writer.get(), data + 1, size - 1, MSG_NOSIGNAL);
    TEMPO_ASSERT(sent == static_cast<ssize_t>(size - 1));
  }
  // The stream ends, so no deadline is ever reached.
  for (;;) {
    auto frame = expect_frame(reader.get(), expected, 0, deadline_in_ms(60000));
    if (frame) {
      fuzz::check_body(frame->type, frame->body);
      continue;
    }
    TEMPO_ASSERT(!frame.error().one_line().empty());
    if (frame.error().what == "the peer closed the connection" ||
        frame.error().what == "the peer is gone") {
      return 0;
    }
  }
}
