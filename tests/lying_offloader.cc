// The off-loader as the attacker: serves one enclave over the real ring, with two workers that it
// makes up and computes for itself, honestly until it lies as --lie says. For process_test.
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "offloader/enclave_port.h"
#include "wire/shared_words.h"
#include "wire/unix_socket.h"
#include "worker/cpu_device.h"
#include "worker/task_executor.h"

namespace tempo {
namespace {

constexpr std::uint32_t kWorkers = 2;
constexpr std::uint64_t kMemory = std::uint64_t{1} << 30;
constexpr int kHonestProducts = 20;  // before the first lie
constexpr std::chrono::milliseconds kPartnerLimit{50};

class Liar {
 public:
  Liar(EnclavePort& port, std::string lie) : port_(port), lie_(std::move(lie)) {
    for (auto& worker : workers_)
      worker = std::make_unique<TaskExecutor>(device_, limits(), nullptr);
  }

  void run() {
    for (;;) {
      Task task;
      const RingRead read = port_.pop(task);
      if (read == RingRead::kBroken) return;
      if (read == RingRead::kItem) {
        serve(task);
        continue;
      }
      if (held_ && std::chrono::steady_clock::now() > held_since_ + kPartnerLimit) {
        complete(*held_, TaskStatus::kOk);  // nobody came to exchange results with
        held_.reset();
      }
      if (port_.begin_wait() == RingRead::kEmpty) {
        pollfd entry = {port_.wait_fd(), POLLIN, 0};
        ::poll(&entry, 1, 50);
      }
      if (!port_.end_wait()) return;
    }
  }

 private:
  static StoreLimits limits() { return {kMemory}; }

  void complete(const Task& task, TaskStatus status, std::uint64_t detail = 0) {
    const std::uint64_t bytes = status == TaskStatus::kOk ? task.reply_bytes() : 0;
    for (;;) {
      const auto pushed = port_.push({task.request, status, 0, bytes, detail});
      if (!pushed || *pushed) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void serve(const Task& task) {
    if (task.verb == Verb::kWatch) {
      watch_ = task;
      return tell_joins();
    }
    const bool is_victim = task.worker == 0;
    if (lie_ == "bury" && is_victim &&
        (task.epoch < epoch_ || tasks_of_victim_++ == kBuriedAfter)) {
      bury(task.epoch);
      return complete(task, TaskStatus::kWorkerLost);
    }
    if (lie_ == "stall" && is_victim && tasks_of_victim_++ > kBuriedAfter) return;
    const std::byte* payload = task.payload_bytes() > 0 ? port_.slab(task.payload_slab) : nullptr;
    std::byte* reply = task.reply_bytes() > 0 ? port_.slab(task.reply_slab) : nullptr;
    std::vector<std::byte> before;
    if (reply != nullptr) before.assign(reply, reply + task.reply_bytes());
    const Completion done = workers_[task.worker]->execute(task, payload, reply);
    if (done.status == TaskStatus::kOk && reply != nullptr && ++products_ > kHonestProducts) {
      if (lie_ == "swap") return swap(task);
      if (lie_ == "unwritten" && products_ % kHonestProducts == 0) {
        std::memcpy(reply, before.data(), before.size());
      }
      if (lie_ == "replay" && old_.contains(before.size()) && products_ % kHonestProducts == 0) {
        std::memcpy(reply, old_[before.size()].data(), before.size());
      }
    }
    if (reply != nullptr) old_[before.size()].assign(reply, reply + before.size());
    complete(task, done.status, done.detail);
    if (lie_ == "repeat" && products_ == kHonestProducts) complete(task, done.status);
  }

  // Results of one size change places, whatever they are results of.
  void swap(const Task& task) {
    if (!held_ || held_->reply_bytes() != task.reply_bytes()) {
      if (held_) complete(*held_, TaskStatus::kOk);
      held_ = task;
      held_since_ = std::chrono::steady_clock::now();
      return;
    }
    std::byte* const mine = port_.slab(task.reply_slab);
    std::swap_ranges(mine, mine + task.reply_bytes(), port_.slab(held_->reply_slab));
    complete(*held_, TaskStatus::kOk);
    complete(task, TaskStatus::kOk);
    held_.reset();
  }

  // Says that the worker is dead, and in the same breath that it has joined again.
  void bury(std::uint32_t epoch) {
    if (epoch < epoch_) return;
    ++epoch_;
    tasks_of_victim_ = 0;
    workers_[0]->clear();
    has_joined_ = true;
    tell_joins();
  }
  void tell_joins() {
    if (!watch_ || !has_joined_) return;
    has_joined_ = false;
    const WorkerInfo info = made_up();
    copy_out(port_.slab(watch_->reply_slab), &info, sizeof(info));
    complete(*watch_, TaskStatus::kOk, join_detail(0, epoch_));
    watch_.reset();
  }

 public:
  static WorkerInfo made_up() {
    WorkerInfo info;
    info.memory_limit_bytes = kMemory;
    std::strcpy(info.device, "made up");
    return info;
  }

 private:
  static constexpr int kBuriedAfter = 60;

  EnclavePort& port_;
  const std::string lie_;
  CpuDevice device_{1};
  std::unique_ptr<TaskExecutor> workers_[kWorkers];
  int products_ = 0;  // with a result
  int tasks_of_victim_ = 0;
  std::uint32_t epoch_ = 0;  // of worker 0
  bool has_joined_ = false;
  std::optional<Task> watch_;
  std::optional<Task> held_;
  std::chrono::steady_clock::time_point held_since_;
  std::map<std::uint64_t, std::vector<std::byte>> old_;  // by size
};

int run(const std::string& listen, const std::string& lie) {
  const auto path = parse_unix_address(listen);
  if (!path) return 2;
  auto listener = UnixListener::open(*path);
  if (!listener) return 13;
  pollfd entry = {listener->fd(), POLLIN, 0};
  ::poll(&entry, 1, -1);
  Fd socket = listener->accept();
  const auto geometry = EnclavePort::receive_attach(socket);
  if (!geometry) return 11;
  const auto port = EnclavePort::open(std::move(socket), *geometry,
                                      std::vector<WorkerInfo>(kWorkers, Liar::made_up()));
  if (!port) return 11;
  Liar(**port, lie).run();
  return 0;
}

}  // namespace
}  // namespace tempo

int main(int argc, char** argv) {
  std::string listen;
  std::string lie;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--listen") == 0) listen = argv[i + 1];
    if (std::strcmp(argv[i], "--lie") == 0) lie = argv[i + 1];
  }
  return tempo::run(listen, lie);
}
