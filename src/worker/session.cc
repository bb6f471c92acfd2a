#include "worker/session.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "wire/descriptor_ring.h"
#include "wire/doorbell.h"
#include "wire/task_check.h"
#include "wire/unix_socket.h"
#include "worker/wait.h"

namespace tempo {
namespace {

using Clock = std::chrono::steady_clock;

// Doorbells are hints: the rings are looked at again after this long.
constexpr std::chrono::milliseconds kMaxSleep{500};

bool task_fits(const Task& task, const RingGeometry& geometry) {
  if (!task_ok(task, geometry.payload_bytes())) return false;
  const std::uint64_t payload = task.payload_bytes();
  const std::uint64_t reply = task.reply_bytes();
  return (payload == 0 || slab_run_ok(geometry, task.payload_slab, payload)) &&
         (reply == 0 || slab_run_ok(geometry, task.reply_slab, reply));
}

}  // namespace

WorkerInfo worker_info(const Device& device, const StoreLimits& limits) {
  WorkerInfo info;
  info.memory_limit_bytes = limits.bytes;
  const std::string name = device.name();
  std::memcpy(info.device, name.data(), std::min(name.size(), sizeof(info.device) - 1));
  return info;
}

SessionEnd Session::run() {
  auto arenas = shake_hands();
  if (stopped_) return SessionEnd::kStopped;
  if (!arenas) {
    if (const auto more = log_limit_.admit()) {
      spdlog::warn("a peer was turned away: {}{}", arenas.error().one_line(), *more);
    }
    return SessionEnd::kPeerGone;
  }
  std::optional<std::string> more;
  if (spdlog::should_log(spdlog::level::info)) more = log_limit_.admit();
  if (more) spdlog::info("serving an off-loader{}", *more);
  const SessionEnd end = serve(*arenas);
  if (more) spdlog::info("the session ends");
  return end;
}

Result<Session::Arenas> Session::shake_hands() {
  const int socket = socket_.get();
  if (auto hello = expect_frame(socket, FrameType::kHello, 0, deadline_in_ms(kHelloTimeoutMs));
      !hello) {
    return hello.error();
  }
  const WorkerInfo info = worker_info(device_, executor_.store().limits());
  TEMPO_RETURN_IF_ERROR(send_frame(socket, FrameType::kWelcome, encode_worker(info), {},
                                   deadline_in_ms(kHelloTimeoutMs)));
  // The enclave may take its time to attach.
  if (!wait(std::nullopt)) return Error{ErrorCode::kInterrupted, "stopped", "", "", "", ""};
  auto frame = expect_frame(socket, FrameType::kArenas, 2, deadline_in_ms(kHelloTimeoutMs));
  if (!frame) return frame.error();
  auto geometry = decode_geometry(frame->body);
  if (!geometry) return geometry.error();
  auto request =
      SharedRegion::map(frame->fds[0], request_arena_bytes(*geometry), MapAccess::kReadOnly);
  if (!request) return request.error();
  auto reply =
      SharedRegion::map(frame->fds[1], reply_arena_bytes(*geometry), MapAccess::kReadWrite);
  if (!reply) return reply.error();
  return Arenas{*geometry, std::move(*request), std::move(*reply)};
}

bool Session::wait(std::optional<std::chrono::nanoseconds> timeout) {
  pollfd entries[2] = {{stop_fd_, POLLIN, 0}, {socket_.get(), POLLIN, 0}};
  wait_for(entries, timeout);
  stopped_ = entries[0].revents != 0;
  return !stopped_;
}

SessionEnd Session::serve(const Arenas& arenas) {
  const RingGeometry& geometry = arenas.geometry;
  std::byte* const request = arenas.request.data();
  std::byte* const reply = arenas.reply.data();
  RingConsumer<Task> tasks(arena_submissions(request, reply), geometry.entries);
  RingProducer<Completion> completions(arena_completions(request, reply), geometry.entries);
  const auto violation = [this](const char* what) {
    if (const auto more = log_limit_.admit()) {
      spdlog::error("the off-loader broke the protocol: {}{}", what, *more);
    }
    return SessionEnd::kPeerGone;
  };

  // Done, and not yet told: see Device::done_at.
  struct Held {
    Completion completion;
    Device::Time until;
  };
  std::deque<Held> held;
  const auto tell = [&] {
    bool told = false;
    for (; !held.empty() && held.front().until <= Clock::now(); held.pop_front(), told = true) {
      completions.push(held.front().completion);
    }
    if (told && completions.peer_waits()) ring_doorbell(socket_.get());
  };

  for (;;) {
    if (!wait(std::chrono::nanoseconds(0))) return SessionEnd::kStopped;
    if (!answer_doorbell(socket_.get())) return SessionEnd::kPeerGone;
    tell();
    Task task;
    RingRead read = tasks.pop(task);
    if (read == RingRead::kEmpty) {
      read = tasks.begin_wait();
      if (read == RingRead::kEmpty) {
        wait(held.empty()
                 ? kMaxSleep
                 : std::min<Clock::duration>(kMaxSleep, held.front().until - Clock::now()));
        tasks.end_wait();
        continue;
      }
      if (read == RingRead::kItem) continue;
    }
    if (read == RingRead::kBroken) return violation("impossible ring index");
    if (!task_fits(task, geometry)) return violation("malformed task");
    const auto room = completions.room();
    if (!room || *room <= held.size()) return violation("no room for a completion");
    const std::byte* payload =
        task.payload_bytes() > 0 ? request_slab(request, geometry, task.payload_slab) : nullptr;
    std::byte* out =
        task.reply_bytes() > 0 ? reply_slab(reply, geometry, task.reply_slab) : nullptr;
    const Completion completion = executor_.execute(task, payload, out);
    if (completion.status != TaskStatus::kOk) {
      if (const auto more = log_limit_.admit()) {
        spdlog::warn("task {}: status {}, detail {}{}", task.request,
                     static_cast<int>(completion.status), completion.detail, *more);
      }
    }
    held.push_back({completion, device_.done_at()});
    tell();
  }
}

}  // namespace tempo
