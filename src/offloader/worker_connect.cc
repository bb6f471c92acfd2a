#include "offloader/worker_connect.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "wire/unix_socket.h"

namespace tempo {
namespace {

constexpr int kRetryMs = 50;
// A frame that has begun to arrive must be complete within this.
constexpr int kFrameTimeoutMs = 200;

struct Candidate {
  ConnectedWorker worker;
  bool answered = false;
  bool warned = false;
};

// One round: (re)connects and says hello where there is no connection.
void knock(std::vector<Candidate>& candidates) {
  for (Candidate& candidate : candidates) {
    ConnectedWorker& worker = candidate.worker;
    if (worker.socket.valid()) continue;
    worker.socket = connect_unix(worker.path);
    if (!worker.socket.valid()) continue;
    if (!send_frame(worker.socket.get(), FrameType::kHello, {}, {}, deadline_in_ms(kFrameTimeoutMs))
             .ok()) {
      worker.socket.reset();
    }
  }
}

void listen_to(Candidate& candidate) {
  ConnectedWorker& worker = candidate.worker;
  auto frame =
      expect_frame(worker.socket.get(), FrameType::kWelcome, 0, deadline_in_ms(kFrameTimeoutMs));
  auto info = frame ? decode_worker(frame->body) : Result<WorkerInfo>(frame.error());
  if (info) {
    worker.info = *info;
    candidate.answered = true;
  } else {
    if (!candidate.warned) spdlog::warn("worker {}: {}", worker.path, info.error().one_line());
    candidate.warned = true;
    worker.socket.reset();
  }
}

}  // namespace

Result<std::vector<ConnectedWorker>> connect_workers(const std::vector<std::string>& paths,
                                                     int timeout_ms, int stop_fd) {
  std::vector<Candidate> candidates;
  candidates.reserve(paths.size());
  for (const std::string& path : paths) candidates.push_back({{path, {}, {}}});
  const Deadline deadline = deadline_in_ms(timeout_ms);
  const auto all_answered = [&] {
    return std::all_of(candidates.begin(), candidates.end(),
                       [](const Candidate& c) { return c.answered; });
  };
  while (!all_answered() && remaining_ms(deadline) > 0) {
    knock(candidates);
    std::vector<pollfd> entries = {{stop_fd, POLLIN, 0}};
    for (const Candidate& c : candidates) {
      entries.push_back({c.answered ? -1 : c.worker.socket.get(), POLLIN, 0});
    }
    ::poll(entries.data(), entries.size(), std::min(kRetryMs, remaining_ms(deadline)));
    if (entries[0].revents != 0) {
      return Error{ErrorCode::kInterrupted, "stopped", "", "", "", ""};
    }
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      if (entries[i + 1].revents != 0) listen_to(candidates[i]);
    }
  }
  std::vector<ConnectedWorker> connected;
  for (Candidate& candidate : candidates) {
    if (candidate.answered) {
      connected.push_back(std::move(candidate.worker));
    } else {
      spdlog::warn("worker {} does not answer", candidate.worker.path);
    }
  }
  if (connected.empty()) {
    return Error{ErrorCode::kNoWorker,
                 "no worker answers",
                 paths.empty() ? "" : paths[0],
                 "at least one",
                 "none of " + std::to_string(paths.size()),
                 "start tempo-worker, and see that its address is the one given here"};
  }
  return connected;
}

}  // namespace tempo
