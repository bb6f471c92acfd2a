#include "offloader/router.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "offloader/local_channel.h"
#include "wire/frame.h"
#include "wire/shared_words.h"
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

Router::Router(EnclavePort& port, WorkerFinder& finder, std::vector<WorkerNews> workers,
               std::uint64_t memory_limit_bytes)
    : port_(port), finder_(finder), memory_limit_bytes_(memory_limit_bytes) {
  for (WorkerNews& news : workers) {
    Worker& worker = workers_.emplace_back();
    worker.id = news.id;
    worker.address = news.address;
    const std::size_t index = workers_.size() - 1;
    if (Status opened = open_channel(index, news); !opened.ok()) lose(index, opened.error());
  }
}

Status Router::run(int stop_fd) {
  int busy_rounds = 0;
  for (;;) {
    auto drained = drain();
    if (!drained) return drained.error();
    bool progress = *drained;
    for (std::size_t i = 0; i < workers_.size(); ++i) progress = serve(i) || progress;
    progress = hear_news() || progress;
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
    if (task.verb == Verb::kWatch) {
      watch(task);
    } else if (!task_fits(task)) {
      finish({task.request, TaskStatus::kBadTask, 0, 0, 0});
    } else if (workers_[task.worker].channel == nullptr ||
               workers_[task.worker].epoch != task.epoch) {
      finish_lost(task.request);
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
  for (;;) {
    auto received = worker.channel->receive();
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
  std::byte* reply = task.reply_bytes() > 0 ? port_.slab(task.reply_slab) : nullptr;
  auto sent = worker.channel->send(task, payload, reply);
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

void Router::watch(const Task& task) {
  const bool fits = !watch_ && task.rows == 1 && task.flags == 0 &&
                    std::uint64_t{task.cols} * sizeof(float) == sizeof(WorkerInfo) &&
                    slab_run_ok(port_.geometry(), task.reply_slab, sizeof(WorkerInfo));
  if (!fits) return finish({task.request, TaskStatus::kBadTask, 0, 0, 0});
  watch_ = task;
  answer_watch();
}

void Router::answer_watch() {
  while (watch_ && !joins_.empty()) {
    const Join join = joins_.front();
    joins_.pop_front();
    const Worker& worker = workers_[join.index];
    if (worker.channel == nullptr || worker.epoch != join.epoch) continue;  // lost since
    copy_out(port_.slab(watch_->reply_slab), &join.info, sizeof(join.info));
    finish({watch_->request, TaskStatus::kOk, 0, sizeof(WorkerInfo),
            join_detail(join.index, join.epoch)});
    watch_.reset();
  }
}

bool Router::hear_news() {
  bool heard = false;
  while (auto news = finder_.take()) {
    heard = true;
    if (news->found()) {
      join(std::move(*news));
    } else {
      leave(news->id);
    }
  }
  return heard;
}

// The one that it had, a new one, or one of an address that left.
std::optional<std::size_t> Router::index_for(std::size_t id) const {
  std::optional<std::size_t> unused;
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i].id == id) return i;
    if (!workers_[i].is_wanted && !unused) unused = i;
  }
  if (workers_.size() < kMaxWorkers) return workers_.size();
  return unused;
}

void Router::join(WorkerNews news) {
  const auto index = index_for(news.id);
  if (!index) return spdlog::warn("{} cannot join: all indices are taken", news.address);
  if (*index == workers_.size()) workers_.emplace_back();
  Worker& worker = workers_[*index];
  worker.id = news.id;
  worker.is_wanted = true;
  worker.address = news.address;
  ++worker.epoch;
  const WorkerInfo info = news.info;
  if (Status opened = open_channel(*index, news); !opened.ok()) {
    return lose(*index, opened.error());
  }
  spdlog::info("worker {}: {} joins ({}, {} MiB)", *index, worker.address, info.device,
               info.memory_limit_bytes >> 20);
  const auto this_index = static_cast<std::uint32_t>(*index);
  std::erase_if(joins_, [&](const Join& join) { return join.index == this_index; });
  joins_.push_back({this_index, worker.epoch, info});
  answer_watch();
}

void Router::leave(std::size_t id) {
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i].id != id) continue;
    workers_[i].is_wanted = false;
    if (workers_[i].channel != nullptr) {
      lose(i, {ErrorCode::kNoWorker, "its address was removed", "", "", "", ""});
    }
  }
}

Status Router::open_channel(std::size_t index, WorkerNews& news) {
  Worker& worker = workers_[index];
  worker.is_local = news.local.valid();
  if (!worker.is_local) {
    worker.channel = std::move(news.remote);
    return {};
  }
  const RingGeometry& geometry = port_.geometry();
  std::uint64_t bytes = ring_region_bytes(geometry);
  for (const Worker& each : workers_) {
    const bool has_arenas = each.is_local && (each.channel != nullptr || &each == &worker);
    if (has_arenas) bytes += request_arena_bytes(geometry) + reply_arena_bytes(geometry);
  }
  if (bytes > memory_limit_bytes_) {
    return Error{ErrorCode::kOutOfMemory,
                 "no shared memory for another worker on this host",
                 "",
                 "at most " + std::to_string(memory_limit_bytes_) + " bytes",
                 std::to_string(bytes),
                 "raise the off-loader's --memory-limit"};
  }
  auto channel = LocalChannel::open(std::move(news.local), geometry);
  if (!channel) return channel.error();
  worker.channel = std::move(*channel);
  return {};
}

void Router::lose(std::size_t index, const Error& why) {
  Worker& worker = workers_[index];
  spdlog::warn("worker {} is lost: {}", index, why.one_line());
  worker.channel.reset();  // nothing touches its payloads and replies after that
  for (const std::uint64_t request : worker.sent) finish_lost(request);
  for (const Task& task : worker.queue) finish_lost(task.request);
  worker.sent.clear();
  worker.queue.clear();
  if (worker.is_wanted) finder_.lost(*worker.id);
}

Result<Router::Wake> Router::sleep(int stop_fd, int timeout_ms) {
  bool idle = true;
  // A full set of open tasks is no reason to stay awake: completions will make room.
  const RingRead tasks = port_.begin_wait();
  if (tasks == RingRead::kBroken) return enclave_violation();
  if (tasks == RingRead::kItem && open_ < port_.geometry().entries) idle = false;
  std::vector<pollfd> entries = {
      {stop_fd, POLLIN, 0}, {port_.wait_fd(), POLLIN, 0}, {finder_.wait_fd(), POLLIN, 0}};
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
