#include "enclave/offload/dispatcher.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace tempo {
namespace {

std::string sanitised(const char* text, std::size_t limit) {
  std::string out;
  for (std::size_t i = 0; i < limit && text[i] != 0; ++i) {
    out.push_back(text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?');
  }
  return out;
}

}  // namespace

Dispatcher::Dispatcher(WorkerLink& link, EngineStats& stats, TimeLedger& ledger,
                       int stall_timeout_ms)
    : link_(link),
      stats_(stats),
      ledger_(ledger),
      stall_timeout_ms_(stall_timeout_ms),
      alive_(link.workers().size(), true) {
  stats_.workers.resize(alive_.size());
  for (std::size_t w = 0; w < alive_.size(); ++w) {
    const WorkerInfo& info = link.workers()[w];
    stats_.workers[w].device = sanitised(info.device, sizeof(info.device));
  }
}

Dispatcher::~Dispatcher() {
  for (const auto& [request, pending] : pending_) link_.abandon(request);
}

std::optional<int> Dispatcher::successor(int worker) const {
  const int count = worker_count();
  for (int i = 1; i <= count; ++i) {
    const int candidate = (worker + i) % count;
    if (alive_[candidate]) return candidate;
  }
  return std::nullopt;
}

void Dispatcher::retire(int worker, EngineEvent::Kind kind, const std::string& operator_name,
                        const std::string& detail) {
  if (worker >= 0) {
    if (!alive_[worker]) return;
    alive_[worker] = false;
    if (kind == EngineEvent::Kind::kLost) stats_.workers[worker].lost = true;
  }
  if (stats_.events.size() < EngineStats::kMaxEvents) {
    stats_.events.push_back({kind, worker, operator_name, detail, step_});
  } else {
    ++stats_.events_dropped;
  }
}

void Dispatcher::break_channel(const Error& error) {
  if (broken_) return;
  broken_ = true;
  retire(-1, EngineEvent::Kind::kLost, "", "off-loader lost: " + error.one_line());
  std::fill(alive_.begin(), alive_.end(), false);
  auto orphans = std::exchange(pending_, {});
  for (auto& [request, pending] : orphans) {
    if (pending.sink == nullptr) continue;
    pending.sink->on_completion(pending.tag, pending.worker,
                                {request, TaskStatus::kWorkerLost, 0, 0, 0}, pending.reply);
  }
}

std::optional<Slot> Dispatcher::reserve(std::uint64_t bytes) {
  while (!broken_) {
    if (auto slot = link_.reserve(bytes)) return slot;
    // Slots of abandoned tasks can starve this loop.
    if (pending_.empty()) return std::nullopt;
    poll(true);
  }
  return std::nullopt;
}

void Dispatcher::submit(Task task, const std::optional<Slot>& payload,
                        const std::optional<Slot>& reply, CompletionSink* sink, std::uint64_t tag) {
  const Pending pending{sink, tag, static_cast<int>(task.worker), reply, task.reply_bytes()};
  const std::uint64_t payload_bytes = task.payload_bytes();
  bool has_waited = false;
  while (!broken_) {
    auto request = link_.submit(task, payload ? &*payload : nullptr, reply ? &*reply : nullptr);
    if (!request.ok()) {
      break_channel(request.error());
      break;
    }
    if (request->has_value()) {
      pending_.emplace(**request, pending);
      stats_.bytes_to_workers += payload_bytes;
      ++stats_.workers[pending.worker].tasks;
      return;
    }
    if (pending_.empty() && std::exchange(has_waited, true)) {
      // Full of tasks that were given up, and nothing moves.
      break_channel({ErrorCode::kProtocol, "the off-loader does not serve its queue", "", "", "",
                     "see the off-loader's own message, if any"});
      break;
    }
    poll(true);
  }
  if (sink != nullptr) {
    sink->on_completion(tag, pending.worker, {0, TaskStatus::kWorkerLost, 0, 0, 0}, reply);
  }
}

void Dispatcher::drop(int worker, std::uint64_t first, std::uint64_t last) {
  if (!alive_[worker]) return;
  Task task;
  task.verb = Verb::kDrop;
  task.worker = static_cast<std::uint32_t>(worker);
  task.a = first;
  task.b = last;
  submit(task, std::nullopt, std::nullopt, nullptr, 0);
}

void Dispatcher::handle(const Completion& completion) {
  const auto at = pending_.find(completion.request);
  if (at == pending_.end()) return;  // abandoned
  const Pending pending = at->second;
  pending_.erase(at);
  if (completion.status == TaskStatus::kOk) {
    stats_.bytes_from_workers += pending.reply_bytes;
    stats_.worker_gemm_s += completion.compute_us * 1e-6;
  }
  if (pending.sink != nullptr) {
    pending.sink->on_completion(pending.tag, pending.worker, completion, pending.reply);
  } else if (pending.reply) {
    link_.release(*pending.reply);
  }
}

void Dispatcher::retire_stalled() {
  std::vector<bool> stalled(alive_.size(), false);
  for (const auto& [request, pending] : pending_) stalled[pending.worker] = true;
  for (std::size_t w = 0; w < stalled.size(); ++w) {
    if (stalled[w]) {
      retire(static_cast<int>(w), EngineEvent::Kind::kLost, "",
             "no answer for " + std::to_string(stall_timeout_ms_ / 1000) + " s");
    }
  }
  // The link keeps their reply slots until the off-loader is done with them.
  const auto orphans = std::exchange(pending_, {});
  for (const auto& [request, pending] : orphans) {
    link_.abandon(request);
    if (pending.sink == nullptr) continue;
    pending.sink->on_completion(pending.tag, pending.worker,
                                {request, TaskStatus::kWorkerLost, 0, 0, 0}, std::nullopt);
  }
}

void Dispatcher::poll(bool wait) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  bool handled = false;
  while (!broken_) {
    constexpr int kSliceMs = 200;
    const bool block = wait && !handled && !pending_.empty();
    auto completion = [&] {
      const TimeScope scope(ledger_, TimeKind::kWaiting);
      return link_.poll(block ? std::min(kSliceMs, stall_timeout_ms_) : 0);
    }();
    if (!completion.ok()) {
      break_channel(completion.error());
      return;
    }
    if (completion->has_value()) {
      handle(**completion);
      handled = true;
      continue;
    }
    if (!block) return;
    if (Clock::now() - start > std::chrono::milliseconds(stall_timeout_ms_)) {
      retire_stalled();
      return;
    }
  }
}

}  // namespace tempo
