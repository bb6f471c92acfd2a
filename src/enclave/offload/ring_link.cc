#include "enclave/offload/ring_link.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/buffer.h"
#include "wire/doorbell.h"
#include "wire/shared_words.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

// A poll(0) looks at the socket only this often: it costs a system call.
constexpr std::uint32_t kIdlePollsPerLiveness = 64;
// Doorbells are hints: nobody sleeps longer than this without looking again.
constexpr int kMaxSleepMs = 100;

Error no_offloader(const std::string& path, std::string got) {
  return {ErrorCode::kNoWorker, "the off-loader does not answer",          path, "",
          std::move(got),       "see the off-loader's own message, if any"};
}

}  // namespace

Result<std::unique_ptr<RingLink>> RingLink::attach(const std::string& path,
                                                   const RingGeometry& geometry, int timeout_ms) {
  if (Status status = check_geometry(geometry); !status.ok()) {
    Error error = status.error();
    error.code = ErrorCode::kUsage;
    return error;
  }
  if (auto address = parse_unix_address("unix:" + path); !address) return address.error();
  const Deadline deadline = deadline_in_ms(timeout_ms);
  Fd socket;
  while (!(socket = connect_unix(path)).valid()) {
    if (remaining_ms(deadline) == 0) return no_offloader(path, "nobody listens there");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const Bytes body = encode_geometry(geometry);
  if (Status sent = send_frame(socket.get(), FrameType::kAttach, body, {}, deadline); !sent.ok()) {
    return no_offloader(path, sent.error().one_line());
  }
  auto frame = expect_frame(socket.get(), FrameType::kAttached, 1, deadline);
  if (!frame) return frame.error();
  auto workers = decode_workers(frame->body);
  if (!workers) return workers.error();
  auto mapping =
      SharedRegion::map(frame->fds[0], ring_region_bytes(geometry), MapAccess::kReadWrite);
  if (!mapping) return mapping.error();
  const std::span<std::byte> region(mapping->data(), mapping->bytes());
  auto link = std::make_unique<RingLink>(region, geometry, std::move(*workers), std::move(socket));
  link->mapping_ = std::move(*mapping);
  return link;
}

RingLink::RingLink(std::span<std::byte> region, const RingGeometry& geometry,
                   std::vector<WorkerInfo> workers, Fd socket)
    : region_(region.data()),
      geometry_(geometry),
      workers_(std::move(workers)),
      socket_(std::move(socket)),
      submissions_(ring_submissions(region_, geometry_), geometry_.entries),
      completions_(ring_completions(region_, geometry_), geometry_.entries),
      slabs_(slot_slabs(geometry_)) {
  TEMPO_ASSERT(check_geometry(geometry_).ok() && region.size() == ring_region_bytes(geometry_));
  TEMPO_ASSERT(reinterpret_cast<std::uintptr_t>(region_) % kCacheLineBytes == 0);
  TEMPO_ASSERT(!workers_.empty());
}

std::optional<Slot> RingLink::reserve(std::uint64_t bytes) {
  TEMPO_ASSERT(bytes <= max_slot_bytes());
  const auto first = slabs_.allocate(static_cast<std::uint32_t>(slabs_for(geometry_, bytes)));
  if (!first) return std::nullopt;
  return Slot{*first, bytes, ring_slab(region_, geometry_, *first)};
}

void RingLink::release(const Slot& slot) {
  slabs_.release(slot.first_slab);
}

Result<std::optional<std::uint64_t>> RingLink::submit(Task task, const Slot* payload,
                                                      const Slot* reply) {
  TEMPO_ASSERT(task.worker < kMaxWorkers && task.verb != Verb::kWatch);
  const std::uint64_t payload_bytes = task.payload_bytes();
  const std::uint64_t reply_bytes = task.reply_bytes();
  TEMPO_ASSERT(payload_bytes == 0 || (payload != nullptr && payload_bytes <= payload->bytes));
  TEMPO_ASSERT(reply_bytes == 0 || (reply != nullptr && reply_bytes <= reply->bytes));
  if (broken_ != nullptr) return broken_error();
  // The completion ring has room for whatever is outstanding, so that the off-loader never waits.
  if (outstanding_.size() >= geometry_.entries) return std::optional<std::uint64_t>{};
  const auto room = submissions_.room();
  if (!room) return break_link("an index of the submission ring is impossible");
  if (*room == 0) return std::optional<std::uint64_t>{};

  task.request = next_request_++;
  task.payload_slab = payload_bytes > 0 ? payload->first_slab : 0;
  task.reply_slab = reply_bytes > 0 ? reply->first_slab : 0;
  task.epoch = used_[task.worker];
  Outstanding entry{.reply_bytes = reply_bytes};
  if (payload_bytes > 0) entry.payload_slab = payload->first_slab;
  if (reply_bytes > 0) entry.reply_slab = reply->first_slab;
  outstanding_.emplace(task.request, entry);
  submissions_.push(task);
  if (submissions_.peer_waits()) ring_doorbell(socket_.get());
  return std::optional<std::uint64_t>{task.request};
}

std::vector<WorkerJoin> RingLink::joins() {
  watch();
  for (const WorkerJoin& join : joins_) used_[join.worker] = join.epoch;
  return std::exchange(joins_, {});
}

void RingLink::watch() {
  if (broken_ != nullptr || watch_ != 0 || !can_watch(geometry_)) return;
  if (outstanding_.size() >= geometry_.entries) return;
  if (submissions_.room().value_or(0) == 0) return;  // a broken ring is for submit() to report
  Task task;
  task.request = watch_ = next_request_++;
  task.verb = Verb::kWatch;
  task.rows = 1;
  task.cols = sizeof(WorkerInfo) / sizeof(float);
  task.reply_slab = slot_slabs(geometry_);  // beyond those that slots use
  outstanding_.emplace(task.request, Outstanding{.reply_bytes = task.reply_bytes()});
  submissions_.push(task);
  if (submissions_.peer_waits()) ring_doorbell(socket_.get());
}

Status RingLink::take_join(const Completion& completion) {
  WorkerJoin join;
  join.worker = static_cast<std::uint32_t>(completion.detail);
  join.epoch = static_cast<std::uint32_t>(completion.detail >> 32);
  if (completion.status != TaskStatus::kOk || join.worker >= kMaxWorkers ||
      join.epoch <= told_[join.worker]) {
    return break_link("an impossible join");
  }
  std::array<std::byte, sizeof(WorkerInfo)> bytes;
  copy_in(bytes.data(), ring_slab(region_, geometry_, slot_slabs(geometry_)), bytes.size());
  join.info = decode_worker(bytes).value();  // of the right size: cannot fail
  told_[join.worker] = join.epoch;
  joins_.push_back(join);
  watch_ = 0;
  return {};
}

void RingLink::abandon(std::uint64_t request) {
  if (const auto entry = outstanding_.find(request); entry != outstanding_.end()) {
    entry->second.abandoned = true;
  }
}

Result<std::optional<Completion>> RingLink::take() {
  Completion completion;
  switch (completions_.pop(completion)) {
    case RingRead::kEmpty:
      return std::optional<Completion>{};
    case RingRead::kBroken:
      return break_link("an index of the completion ring is impossible");
    case RingRead::kItem:
      break;
  }
  const auto entry = outstanding_.find(completion.request);
  if (entry == outstanding_.end()) return break_link("a completion without a request");
  switch (completion.status) {
    case TaskStatus::kOk:
      if (completion.bytes != entry->second.reply_bytes) {
        return break_link("a completion of the wrong length");
      }
      break;
    case TaskStatus::kWorkerLost:
    case TaskStatus::kOutOfMemory:
    case TaskStatus::kUnknownId:
    case TaskStatus::kBadTask:
      completion.bytes = 0;
      break;
    default:
      return break_link("a completion of unknown status");
  }
  if (entry->second.payload_slab) slabs_.release(*entry->second.payload_slab);
  if (entry->second.abandoned && entry->second.reply_slab) {
    slabs_.release(*entry->second.reply_slab);
  }
  outstanding_.erase(entry);
  if (completion.request != watch_) return std::optional<Completion>{completion};
  TEMPO_RETURN_IF_ERROR(take_join(completion));
  return take();  // once: no watch is outstanding now
}

Result<std::optional<Completion>> RingLink::poll(int timeout_ms) {
  if (broken_ != nullptr) return broken_error();
  auto taken = take();
  if (!taken || taken->has_value()) return taken;
  if (timeout_ms <= 0) {
    const bool look = ++idle_polls_ % kIdlePollsPerLiveness == 0;
    if (look && offloader_gone()) return break_link("the off-loader is gone");
    return taken;
  }
  const Deadline deadline = deadline_in_ms(timeout_ms);
  for (;;) {
    const bool gone = offloader_gone();
    // What was completed before it left still counts.
    taken = take();
    if (!taken || taken->has_value()) return taken;
    if (gone) return break_link("the off-loader is gone");
    const int left = remaining_ms(deadline);
    if (left == 0) return taken;
    sleep(std::min(left, kMaxSleepMs));
  }
}

void RingLink::sleep(int timeout_ms) {
  if (!socket_.valid() || completions_.begin_wait() != RingRead::kEmpty) return;
  pollfd entry = {socket_.get(), POLLIN, 0};
  ::poll(&entry, 1, timeout_ms);
  completions_.end_wait();
}

bool RingLink::offloader_gone() const {
  return socket_.valid() && !answer_doorbell(socket_.get());
}

Error RingLink::break_link(const char* reason) {
  broken_ = reason;
  return broken_error();
}

Error RingLink::broken_error() const {
  return {ErrorCode::kProtocol,
          std::string("the channel to the off-loader broke: ") + broken_,
          "",
          "",
          "",
          "see the off-loader's own message, if any"};
}

}  // namespace tempo
