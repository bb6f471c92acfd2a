#include "offloader/router.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "wire/task_check.h"

namespace tempo {
namespace {

// Doorbells are hints: everything is looked at again after this long.
constexpr int kMaxSleepMs = 500;
// While there is always something to do, whether everybody is alive is seen this often.
constexpr int kRoundsPerLiveness = 64;

Error enclave_violation() {
  return {ErrorCode::kProtocol,
          "the enclave broke the protocol: impossible ring index",
          "",
          "",
          "",
          ""};
}

}  // namespace

Router::Router(EnclavePort& port, std::vector<std::unique_ptr<WorkerChannel>> channels)
    : port_(port) {
  for (auto& channel : channels) workers_.push_back({std::move(channel), {}, {}});
}

Status Router::run(int stop_fd) {
  int busy_rounds = 0;
  for (;;) {
    auto drained = drain();
    if (!drained) return drained.error();
    bool progress = *drained;
    for (std::size_t i = 0; i < workers_.size(); ++i) progress = serve(i) || progress;
    auto flushed = flush();
    if (!flushed) return flushed.error();
    progress = *flushed || progress;
    if (progress && ++busy_rounds < kRoundsPerLiveness) continue;
    auto wake = sleep(stop_fd, progress ? 0 : kMaxSleepMs);
    if (!wake) return wake.error();
    if (*wake != Wake::kWork) return {};
    busy_rounds = 0;
  }
}

bool Router::task_fits(const Task& task) const {
  const RingGeometry& geometry = port_.geometry();
  if (task.worker >= workers_.size() || !task_ok(task, geometry.payload_bytes())) return false;
  const std::uint64_t payload = task.payload_bytes();
  const std::uint64_t reply = task.reply_bytes();
  return (payload == 0 || slab_run_ok(geometry, task.payload_slab, payload)) &&
         (reply == 0 || slab_run_ok(geometry, task.reply_slab, reply));
}

Result<bool> Router::drain() {
  bool progress = false;
  while (open_ < port_.geometry().entries) {
    Task task;
    const RingRead read = port_.pop(task);
    if (read == RingRead::kBroken) return enclave_violation();
    if (read == RingRead::kEmpty) break;
    progress = true;
    ++open_;
    if (!task_fits(task)) {
      finish({task.request, TaskStatus::kBadTask, 0, 0, 0});
    } else if (workers_[task.worker].channel == nullptr) {
      finish({task.request, TaskStatus::kWorkerLost, 0, 0, 0});
    } else {
      workers_[task.worker].queue.push_back(task);
    }
  }
  return progress;
}

bool Router::serve(std::size_t index) {
  Worker& worker = workers_[index];
  if (worker.channel == nullptr) return false;
  bool progress = false;
  const auto place_of = [this](const Task& task) { return port_.slab(task.reply_slab); };
  for (;;) {
    auto received = worker.channel->receive(place_of);
    if (!received) {
      lose(index, received.error());
      return true;
    }
    if (!received->has_value()) break;
    worker.sent.pop_front();
    finish(**received);
    progress = true;
  }
  // One task a round: a payload is copied here, and the others wait meanwhile.
  if (worker.queue.empty()) return progress;
  const Task& task = worker.queue.front();
  const std::byte* payload = task.payload_bytes() > 0 ? port_.slab(task.payload_slab) : nullptr;
  auto sent = worker.channel->send(task, payload);
  if (!sent) {
    lose(index, sent.error());
    return true;
  }
  if (*sent) {
    worker.sent.push_back(task.request);
    worker.queue.pop_front();
    progress = true;
  }
  return progress;
}

Result<bool> Router::flush() {
  bool progress = false;
  while (!completions_.empty()) {
    auto pushed = port_.push(completions_.front());
    if (!pushed) return pushed.error();
    if (!*pushed) break;
    completions_.pop_front();
    --open_;
    progress = true;
  }
  return progress;
}

void Router::lose(std::size_t index, const Error& why) {
  Worker& worker = workers_[index];
  spdlog::warn("worker {} is lost: {}", index, why.one_line());
  worker.channel.reset();
  for (const std::uint64_t request : worker.sent) {
    finish({request, TaskStatus::kWorkerLost, 0, 0, 0});
  }
  for (const Task& task : worker.queue) finish({task.request, TaskStatus::kWorkerLost, 0, 0, 0});
  worker.sent.clear();
  worker.queue.clear();
}

Result<Router::Wake> Router::sleep(int stop_fd, int timeout_ms) {
  bool idle = true;
  // A full set of open tasks is no reason to stay awake: completions will make room.
  const RingRead tasks = port_.begin_wait();
  if (tasks == RingRead::kBroken) return enclave_violation();
  if (tasks == RingRead::kItem && open_ < port_.geometry().entries) idle = false;
  std::vector<pollfd> entries = {{stop_fd, POLLIN, 0}, {port_.wait_fd(), POLLIN, 0}};
  for (Worker& worker : workers_) {
    if (worker.channel == nullptr) continue;
    if (!worker.channel->begin_wait()) idle = false;
    entries.push_back({worker.channel->wait_fd(), POLLIN, 0});
  }
  ::poll(entries.data(), entries.size(), idle ? timeout_ms : 0);
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i].channel == nullptr) continue;
    if (Status alive = workers_[i].channel->end_wait(); !alive.ok()) lose(i, alive.error());
  }
  const bool enclave_there = port_.end_wait();
  if (entries[0].revents != 0) return Wake::kStop;
  return enclave_there ? Wake::kWork : Wake::kEnclaveGone;
}

}  // namespace tempo
