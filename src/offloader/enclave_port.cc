#include "offloader/enclave_port.h"

#include <utility>

#include "wire/doorbell.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

constexpr int kAttachTimeoutMs = 2000;

}  // namespace

Result<RingGeometry> EnclavePort::receive_attach(const Fd& socket) {
  auto frame = expect_frame(socket.get(), FrameType::kAttach, 0, deadline_in_ms(kAttachTimeoutMs));
  if (!frame) return frame.error();
  return decode_geometry(frame->body);
}

void EnclavePort::refuse(const Fd& socket, const Error& error) {
  // Whether it arrives does not matter: the connection ends anyway.
  [[maybe_unused]] const Status sent =
      send_frame(socket.get(), FrameType::kRefused, encode_refusal(error), {},
                 deadline_in_ms(kAttachTimeoutMs));
}

Result<std::unique_ptr<EnclavePort>> EnclavePort::open(Fd socket, const RingGeometry& geometry,
                                                       const std::vector<WorkerInfo>& workers) {
  auto region =
      SharedRegion::create("tempo-ring", ring_region_bytes(geometry), PeerAccess::kReadWrite);
  if (!region) return region.error();
  const int fds[1] = {region->fd().get()};
  TEMPO_RETURN_IF_ERROR(send_frame(socket.get(), FrameType::kAttached, encode_workers(workers), fds,
                                   deadline_in_ms(kAttachTimeoutMs)));
  return std::unique_ptr<EnclavePort>(
      new EnclavePort(std::move(socket), geometry, std::move(*region)));
}

EnclavePort::EnclavePort(Fd socket, const RingGeometry& geometry, SharedRegion region)
    : socket_(std::move(socket)),
      geometry_(geometry),
      region_(std::move(region)),
      tasks_(ring_submissions(region_.data(), geometry_), geometry_.entries),
      completions_(ring_completions(region_.data(), geometry_), geometry_.entries) {}

Result<bool> EnclavePort::push(const Completion& completion) {
  const auto room = completions_.room();
  if (!room) {
    return Error{ErrorCode::kProtocol,
                 "the enclave broke the protocol: impossible ring index",
                 "",
                 "",
                 "",
                 ""};
  }
  if (*room == 0) return false;
  completions_.push(completion);
  if (completions_.peer_waits()) ring_doorbell(socket_.get());
  return true;
}

bool EnclavePort::end_wait() {
  tasks_.end_wait();
  return answer_doorbell(socket_.get());
}

}  // namespace tempo
