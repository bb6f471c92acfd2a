#include "offloader/offloader.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/log_limit.h"
#include "offloader/enclave_port.h"
#include "offloader/router.h"

namespace tempo {
namespace {

Status check_memory(const RingGeometry& geometry, std::size_t local_workers, std::uint64_t limit) {
  // Cannot overflow: at most 2^40 and a little, 129 times.
  const std::uint64_t bytes =
      ring_region_bytes(geometry) +
      local_workers * (request_arena_bytes(geometry) + reply_arena_bytes(geometry));
  if (bytes <= limit) return {};
  return Error{ErrorCode::kOutOfMemory,
               "the ring asks for too much shared memory",
               "",
               "at most " + std::to_string(limit) + " bytes with its workers' arenas",
               std::to_string(bytes),
               "choose a smaller ring, or raise the off-loader's --memory-limit"};
}

// Those that are there, by id: what the enclave is told.
class FoundWorkers {
 public:
  explicit FoundWorkers(WorkerFinder& finder) : finder_(finder) {}

  void hear_news() {
    while (auto news = finder_.take()) {
      const std::size_t id = news->id;
      if (news->found()) {
        spdlog::info("found {} ({}, {} MiB)", news->address, news->info.device,
                     news->info.memory_limit_bytes >> 20);
        found_.insert_or_assign(id, std::move(*news));
      } else {
        found_.erase(id);
      }
    }
  }
  std::size_t size() const { return found_.size(); }
  bool all() const { return finder_.wanted() > 0 && found_.size() >= finder_.wanted(); }
  std::vector<WorkerInfo> infos() const {
    std::vector<WorkerInfo> infos;
    for (const auto& [id, news] : found_) infos.push_back(news.info);
    return infos;
  }
  std::vector<WorkerNews> take_all() {
    std::vector<WorkerNews> all;
    for (auto& [id, news] : found_) all.push_back(std::move(news));
    found_.clear();
    return all;
  }

 private:
  WorkerFinder& finder_;
  std::map<std::size_t, WorkerNews> found_;
};

// False: told to stop.
Result<bool> wait_for_workers(WorkerFinder& finder, FoundWorkers& found,
                              const OffloaderOptions& options) {
  const Deadline deadline = deadline_in_ms(options.connect_timeout_ms);
  while (!found.all() && remaining_ms(deadline) > 0) {
    pollfd entries[2] = {{options.stop_fd, POLLIN, 0}, {finder.wait_fd(), POLLIN, 0}};
    ::poll(entries, 2, remaining_ms(deadline));
    if (entries[0].revents != 0) return false;
    found.hear_news();
  }
  if (found.size() > 0) {
    if (!found.all()) {
      spdlog::warn("{} of {} workers answer; the others may join later", found.size(),
                   finder.wanted());
    }
    return true;
  }
  return Error{ErrorCode::kNoWorker,
               "no worker answers",
               "",
               "at least one",
               "none of " + std::to_string(finder.wanted()),
               "start tempo-worker, and see that its address is the one given here"};
}

// Waits for the one enclave. Null: told to stop.
Result<std::unique_ptr<EnclavePort>> wait_for_enclave(const UnixListener& listener,
                                                      WorkerFinder& finder, FoundWorkers& found,
                                                      const OffloaderOptions& options) {
  LogLimit log_limit;
  const auto log_refusal = [&](spdlog::level::level_enum level, const char* what,
                               const Error& why) {
    if (const auto more = log_limit.admit())
      spdlog::log(level, "{}: {}{}", what, why.one_line(), *more);
  };
  for (;;) {
    pollfd entries[3] = {
        {options.stop_fd, POLLIN, 0}, {listener.fd(), POLLIN, 0}, {finder.wait_fd(), POLLIN, 0}};
    ::poll(entries, 3, -1);
    if (entries[0].revents != 0) return std::unique_ptr<EnclavePort>();
    found.hear_news();
    if (entries[1].revents == 0) continue;
    Fd socket = listener.accept();
    if (!socket.valid()) continue;
    auto geometry = EnclavePort::receive_attach(socket);
    if (!geometry) {
      log_refusal(spdlog::level::warn, "a peer was turned away", geometry.error());
      EnclavePort::refuse(socket, geometry.error());
      continue;
    }
    Status fits = check_memory(*geometry, finder.wanted_local(), options.memory_limit_bytes);
    if (fits.ok() && found.size() == 0) {  // a list that was emptied since
      fits = Error{ErrorCode::kNoWorker, "there is no worker now", "", "", "", ""};
    }
    if (!fits.ok()) {
      log_refusal(spdlog::level::err, "an enclave was turned away", fits.error());
      EnclavePort::refuse(socket, fits.error());
      continue;
    }
    auto port = EnclavePort::open(std::move(socket), *geometry, found.infos());
    if (port) return port;
    log_refusal(spdlog::level::err, "an enclave could not attach", port.error());
  }
}

}  // namespace

Status run_offloader(UnixListener listener, const OffloaderOptions& options) {
  auto finder = WorkerFinder::start(options.workers);
  if (!finder) return finder.error();
  FoundWorkers found(**finder);
  const auto ready = wait_for_workers(**finder, found, options);
  if (!ready) return ready.error();
  if (!*ready) return {};
  std::unique_ptr<EnclavePort> port;
  {
    const UnixListener until_attached = std::move(listener);  // closed, and its file removed, after
    auto attached = wait_for_enclave(until_attached, **finder, found, options);
    if (!attached) return attached.error();
    port = std::move(*attached);
  }
  if (port == nullptr) return {};
  auto workers = found.take_all();
  for (std::size_t i = 0; i < workers.size(); ++i) {
    spdlog::info("worker {}: {}", i, workers[i].address);
  }
  spdlog::info("serving the enclave with {} workers", workers.size());
  Router router(*port, **finder, std::move(workers), options.memory_limit_bytes);
  Status ended = router.run(options.stop_fd);
  spdlog::info("the session ends");
  return ended;
}

}  // namespace tempo
