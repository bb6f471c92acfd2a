// Both ends of the arenas between off-loader and worker, each against a hostile peer. The first
// byte says which.
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "fuzz/script_reader.h"
#include "offloader/local_channel.h"
#include "wire/unix_socket.h"
#include "worker/cpu_device.h"
#include "worker/session.h"
#include "worker/task_executor.h"

namespace tempo::fuzz {
namespace {

constexpr RingGeometry kGeometry{8, 4, 4096};
constexpr std::uint64_t kStoreBytes = 20000;

std::pair<Fd, Fd> make_sockets() {
  int fds[2];
  TEMPO_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

SharedRegion make_region(std::uint64_t bytes, PeerAccess access) {
  auto region = SharedRegion::create("fuzz", bytes, access);
  TEMPO_ASSERT(region.ok());
  return std::move(*region);
}

// Mostly sensible, so that the deep parts are reached.
Task make_task(ScriptReader& script) {
  Task task;
  task.request = script.below(8);
  task.verb = static_cast<Verb>(script.below(5));
  task.a = script.below(6);
  task.b = script.below(6);
  task.result = script.below(6);
  task.flags = script.below(40);
  task.rows = script.below(64);
  task.cols = script.below(64);
  task.payload_slab = script.below(6);
  task.reply_slab = script.below(6);
  switch (script.read<std::uint8_t>() % 16) {
    case 0:
      task.rows = script.read<std::uint32_t>();
      break;
    case 1:
      task.cols = script.read<std::uint32_t>();
      break;
    case 2:
      task.payload_slab = script.read<std::uint32_t>();
      break;
    case 3:
      task.reply_slab = script.read<std::uint32_t>();
      break;
    case 4:
      task.b = ~std::uint64_t{0};
      break;
    default:
      break;
  }
  if (task.verb == Verb::kPut || task.verb == Verb::kDrop) task.flags = 0;
  return task;
}

// The tasks lie ready when the worker's session starts; it ends with the socket.
void attack_worker(ScriptReader& script) {
  static CpuDevice device(1);
  auto [worker_socket, socket] = make_sockets();
  SharedRegion request = make_region(request_arena_bytes(kGeometry), PeerAccess::kReadOnly);
  SharedRegion reply = make_region(reply_arena_bytes(kGeometry), PeerAccess::kReadWrite);
  const int fds[2] = {request.fd().get(), reply.fd().get()};
  const Deadline deadline = deadline_in_ms(60000);
  TEMPO_ASSERT(send_frame(socket.get(), FrameType::kHello, {}, {}, deadline).ok());
  TEMPO_ASSERT(
      send_frame(socket.get(), FrameType::kArenas, encode_geometry(kGeometry), fds, deadline).ok());
  const RingPlace tasks = arena_submissions(request.data(), reply.data());
  const RingPlace completions = arena_completions(request.data(), reply.data());
  store_index(tasks.head, script.below(12));
  store_index(completions.tail, script.below(8) == 0 ? script.read<std::uint64_t>() : 0);
  for (std::uint32_t i = 0; i < kGeometry.entries; ++i) {
    const Task task = make_task(script);
    copy_out(tasks.slots + i * sizeof(Task), &task, sizeof(task));
  }
  // Each turn of the worker's loop takes at most 256 doorbells.
  const std::vector<char> doorbells(256 * (kGeometry.entries + 2), '!');
  TEMPO_ASSERT(::send(socket.get(), doorbells.data(), doorbells.size(), MSG_NOSIGNAL) > 0);
  // The worker still has to say its welcome; the end comes after the doorbells.
  TEMPO_ASSERT(::shutdown(socket.get(), SHUT_WR) == 0);
  TaskExecutor executor(device, {kStoreBytes, 4}, nullptr);
  LogLimit log_limit;
  TEMPO_ASSERT(Session(std::move(worker_socket), executor, device, log_limit, -1).run() ==
               SessionEnd::kPeerGone);
  TEMPO_ASSERT(executor.store().bytes() <= kStoreBytes && executor.store().size() <= 4);
}

void attack_offloader(ScriptReader& script) {
  auto [socket, worker_socket] = make_sockets();
  auto opened = LocalChannel::open(std::move(socket), kGeometry);
  TEMPO_ASSERT(opened.ok());
  const std::unique_ptr<LocalChannel> channel = std::move(*opened);
  auto frame = expect_frame(worker_socket.get(), FrameType::kArenas, 2, deadline_in_ms(60000));
  TEMPO_ASSERT(frame.ok());
  auto request =
      SharedRegion::map(frame->fds[0], request_arena_bytes(kGeometry), MapAccess::kReadOnly);
  auto reply =
      SharedRegion::map(frame->fds[1], reply_arena_bytes(kGeometry), MapAccess::kReadWrite);
  TEMPO_ASSERT(request.ok() && reply.ok());
  const RingPlace tasks = arena_submissions(request->data(), reply->data());
  const RingPlace completions = arena_completions(request->data(), reply->data());
  struct Sent {
    Task task;
    std::vector<std::byte> landing;
  };
  std::deque<Sent> sent;
  std::uint64_t next_request = 1;
  std::uint64_t head = 0;
  const std::vector<std::byte> payload(kGeometry.payload_bytes());
  for (bool lost = false; !lost && !script.done();) {
    switch (script.read<std::uint8_t>() % 5) {
      case 0: {
        Task task;
        task.request = next_request++;
        task.verb = static_cast<Verb>(1 + script.below(3));
        task.flags = task.verb == Verb::kMultiply ? static_cast<std::uint32_t>(kReturn) : 0;
        task.rows = 1 + script.below(64);
        task.cols = 1 + script.below(64);
        // Exactly as large as the reply: ASan sees a byte too many.
        std::vector<std::byte> landing(task.reply_bytes());
        auto went = channel->send(task, payload.data(), landing.data());
        lost = !went.ok();
        if (!lost && *went) sent.push_back({task, std::move(landing)});
        TEMPO_ASSERT(sent.size() <= kGeometry.entries);
        break;
      }
      case 1: {
        auto received = channel->receive();
        lost = !received.ok();
        if (lost || !received->has_value()) break;
        TEMPO_ASSERT(!sent.empty() && sent.front().task.request == (*received)->request);
        TEMPO_ASSERT((*received)->status != TaskStatus::kOk ||
                     (*received)->bytes == sent.front().task.reply_bytes());
        sent.pop_front();
        break;
      }
      case 2:  // anything anywhere that a worker can write
        store_word(reply->data() + script.below((4096 + kGeometry.entries * 32) / 8) * 8,
                   script.read<std::uint64_t>());
        break;
      case 3:
        store_index(tasks.tail, load_index(tasks.head));
        break;
      default: {
        const bool fits = !sent.empty() && script.below(8) > 0;
        const Completion completion{
            fits ? sent.front().task.request : script.below(16),
            static_cast<TaskStatus>(script.below(6)), 0,
            fits ? sent.front().task.reply_bytes() : 4ULL * script.below(5000), 0};
        copy_out(completions.slots + head % kGeometry.entries * sizeof(Completion), &completion,
                 sizeof(completion));
        store_index(completions.head, ++head);
      }
    }
  }
}

}  // namespace
}  // namespace tempo::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tempo;
  spdlog::set_level(spdlog::level::off);
  fuzz::ScriptReader script(data, size);
  if (script.read<std::uint8_t>() % 2 == 0) {
    fuzz::attack_worker(script);
  } else {
    fuzz::attack_offloader(script);
  }
  return 0;
}
