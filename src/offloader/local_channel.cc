#include "offloader/local_channel.h"

#include <cstring>
#include <utility>

#include "wire/doorbell.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

constexpr int kSendTimeoutMs = 2000;

Error violation(const char* what) {
  return {
      ErrorCode::kProtocol, std::string("the worker broke the protocol: ") + what, "", "", "", ""};
}

}  // namespace

Result<std::unique_ptr<LocalChannel>> LocalChannel::open(Fd socket, const RingGeometry& geometry) {
  auto request =
      SharedRegion::create("tempo-request", request_arena_bytes(geometry), PeerAccess::kReadOnly);
  if (!request) return request.error();
  auto reply =
      SharedRegion::create("tempo-reply", reply_arena_bytes(geometry), PeerAccess::kReadWrite);
  if (!reply) return reply.error();
  const int fds[2] = {request->fd().get(), reply->fd().get()};
  TEMPO_RETURN_IF_ERROR(send_frame(socket.get(), FrameType::kArenas, encode_geometry(geometry), fds,
                                   deadline_in_ms(kSendTimeoutMs)));
  return std::unique_ptr<LocalChannel>(
      new LocalChannel(std::move(socket), geometry, std::move(*request), std::move(*reply)));
}

LocalChannel::LocalChannel(Fd socket, const RingGeometry& geometry, SharedRegion request,
                           SharedRegion reply)
    : socket_(std::move(socket)),
      geometry_(geometry),
      request_(std::move(request)),
      reply_(std::move(reply)),
      tasks_(arena_submissions(request_.data(), reply_.data()), geometry_.entries),
      completions_(arena_completions(request_.data(), reply_.data()), geometry_.entries),
      request_slabs_(geometry_.slabs),
      reply_slabs_(geometry_.slabs) {}

Result<bool> LocalChannel::send(const Task& task, const std::byte* payload, std::byte* reply) {
  const auto room = tasks_.room();
  if (!room) return violation("impossible ring index");
  // Completions need room as well: never more in flight than their ring holds.
  if (*room == 0 || in_flight_.size() >= geometry_.entries) return false;
  InFlight entry{task, reply, {}, {}};
  Task sent = task;
  sent.payload_slab = 0;
  sent.reply_slab = 0;
  sent.epoch = 0;
  if (const std::uint64_t bytes = task.payload_bytes(); bytes > 0) {
    entry.payload_slab =
        request_slabs_.allocate(static_cast<std::uint32_t>(slabs_for(geometry_, bytes)));
    if (!entry.payload_slab) return false;
    sent.payload_slab = *entry.payload_slab;
    std::memcpy(request_slab(request_.data(), geometry_, sent.payload_slab), payload, bytes);
  }
  if (const std::uint64_t bytes = task.reply_bytes(); bytes > 0) {
    entry.reply_slab =
        reply_slabs_.allocate(static_cast<std::uint32_t>(slabs_for(geometry_, bytes)));
    if (!entry.reply_slab) return false;  // a product has no payload: nothing to give back
    sent.reply_slab = *entry.reply_slab;
  }
  in_flight_.push_back(entry);
  tasks_.push(sent);
  if (tasks_.peer_waits()) ring_doorbell(socket_.get());
  return true;
}

Result<std::optional<Completion>> LocalChannel::receive() {
  Completion completion;
  switch (completions_.pop(completion)) {
    case RingRead::kEmpty:
      return std::optional<Completion>{};
    case RingRead::kBroken:
      return violation("impossible ring index");
    case RingRead::kItem:
      break;
  }
  if (in_flight_.empty() || in_flight_.front().task.request != completion.request) {
    return violation("a completion out of order");
  }
  const InFlight entry = in_flight_.front();
  in_flight_.pop_front();
  const std::uint64_t bytes = entry.task.reply_bytes();
  switch (completion.status) {
    case TaskStatus::kOk:
      if (completion.bytes != bytes) return violation("a reply of the wrong length");
      if (bytes > 0) {
        std::memcpy(entry.reply, reply_slab(reply_.data(), geometry_, *entry.reply_slab), bytes);
      }
      break;
    case TaskStatus::kOutOfMemory:
    case TaskStatus::kUnknownId:
    case TaskStatus::kBadTask:
      completion.bytes = 0;
      break;
    default:
      return violation("unknown status");
  }
  if (entry.payload_slab) request_slabs_.release(*entry.payload_slab);
  if (entry.reply_slab) reply_slabs_.release(*entry.reply_slab);
  return std::optional<Completion>{completion};
}

Status LocalChannel::end_wait() {
  completions_.end_wait();
  if (!answer_doorbell(socket_.get())) {
    return Error{ErrorCode::kProtocol, "the worker closed its connection", "", "", "", ""};
  }
  return {};
}

}  // namespace tempo
