#include "enclave/offload/dispatcher.h"

#include <algorithm>
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

constexpr std::chrono::milliseconds kSlice{200};  // of waiting
constexpr double kPatience = 8;                   // times the time that an answer should take
// How far a measured speed moves towards the last step's.
constexpr double kSpeedUpdate = 0.5;

double seconds(Dispatcher::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

Dispatcher::Dispatcher(WorkerLink& link, EngineStats& stats, TimeLedger& ledger,
                       const Patience& patience, Now now)
    : link_(link),
      stats_(stats),
      ledger_(ledger),
      patience_(patience),
      now_(std::move(now)),
      workers_(link.workers().size()) {
  stats_.workers.resize(workers_.size());
  for (std::size_t w = 0; w < workers_.size(); ++w) {
    workers_[w].info = link.workers()[w];
    stats_.workers[w].device = sanitised(workers_[w].info.device, sizeof(WorkerInfo::device));
  }
}

Dispatcher::~Dispatcher() {
  for (const auto& [request, pending] : pending_) link_.abandon(request);
}

std::optional<int> Dispatcher::substitute(int worker) const {
  std::optional<int> best;
  double soonest = 0;
  for (int w = 0; w < worker_count(); ++w) {
    if (w == worker || !usable(w)) continue;
    const double wait = workers_[w].outstanding_work / workers_[w].speed.value_or(1);
    if (!best || wait < soonest) {
      best = w;
      soonest = wait;
    }
  }
  return best;
}

void Dispatcher::retire(EngineEvent event) {
  if (event.worker >= 0) {
    if (!alive(event.worker)) return;
    workers_[event.worker].is_alive = false;
    workers_[event.worker].has_tampered = event.kind == EngineEvent::Kind::kTampered;
    if (event.kind == EngineEvent::Kind::kLost) stats_.workers[event.worker].lost = true;
  }
  record(std::move(event));
}

void Dispatcher::record(EngineEvent event) {
  // A worker tampers once: nobody can crowd that out with joins and losses.
  if (event.kind != EngineEvent::Kind::kTampered &&
      stats_.events.size() >= EngineStats::kMaxEvents) {
    ++stats_.events_dropped;
    return;
  }
  event.step = step_;
  stats_.events.push_back(std::move(event));
}

void Dispatcher::begin_step(std::uint64_t step) {
  step_ = step;
  for (Worker& worker : workers_) {
    if (worker.work > 0 && worker.busy_s > 0) {
      const double now = worker.work / worker.busy_s;
      worker.speed = worker.speed ? *worker.speed + kSpeedUpdate * (now - *worker.speed) : now;
    }
    worker.work = worker.busy_s = 0;
  }
  if (broken_) return;
  for (const WorkerJoin& join : link_.joins()) admit(join);
}

void Dispatcher::admit(const WorkerJoin& join) {
  if (join.worker >= workers_.size()) {
    Worker absent;  // those in between may come later
    absent.is_alive = false;
    workers_.resize(join.worker + 1, absent);
    stats_.workers.resize(workers_.size());
  }
  Worker& worker = workers_[join.worker];
  if (worker.has_tampered) return;
  Worker joined;
  joined.info = join.info;
  joined.epoch = join.epoch;
  joined.outstanding = worker.outstanding;
  joined.since = now_();
  worker = joined;
  WorkerStats& stats = stats_.workers[join.worker];
  stats.device = sanitised(join.info.device, sizeof(join.info.device));
  stats.lost = false;
  record({EngineEvent::Kind::kJoined, static_cast<int>(join.worker), "", stats.device});
}

void Dispatcher::break_channel(const Error& error) {
  if (broken_) return;
  broken_ = true;
  retire({EngineEvent::Kind::kLost, -1, "", "off-loader lost: " + error.one_line()});
  for (Worker& worker : workers_) worker.is_alive = false;
  auto orphans = std::exchange(pending_, {});
  for (auto& [request, pending] : orphans) {
    if (pending.sink == nullptr) continue;
    pending.sink->on_completion(pending.tag, pending.worker,
                                {request, TaskStatus::kWorkerLost, 0, 0, 0}, pending.reply);
  }
}

std::optional<Slot> Dispatcher::try_reserve(std::uint64_t bytes) {
  return broken_ ? std::nullopt : link_.reserve(bytes);
}

std::optional<Slot> Dispatcher::reserve(std::uint64_t bytes) {
  while (!broken_) {
    if (auto slot = link_.reserve(bytes)) return slot;
    // Slots of abandoned tasks can starve this loop.
    if (pending_.empty()) return std::nullopt;
    poll(Clock::time_point::max());
  }
  return std::nullopt;
}

void Dispatcher::submit(Task task, const std::optional<Slot>& payload,
                        const std::optional<Slot>& reply, CompletionSink* sink, std::uint64_t tag,
                        double work) {
  const Pending pending{sink,
                        tag,
                        static_cast<int>(task.worker),
                        reply,
                        task.reply_bytes(),
                        work,
                        workers_[task.worker].epoch};
  const std::uint64_t payload_bytes = task.payload_bytes();
  std::optional<Clock::time_point> given_up;
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
      Worker& worker = workers_[pending.worker];
      if (worker.outstanding++ == 0) worker.since = now_();
      worker.outstanding_work += work;
      return;
    }
    if (!pending_.empty()) {
      poll(Clock::time_point::max());
      continue;
    }
    // Full of tasks that were given up. What one worker keeps is no reason to lose the others, as
    // long as something moves in time.
    if (!given_up) given_up = now_() + patience_.stall;
    const bool is_over = now_() >= *given_up;
    const TimeScope scope(ledger_, TimeKind::kWaiting);
    const auto completion = link_.poll(is_over ? 0 : static_cast<int>(kSlice.count()));
    if (!completion.ok()) {
      break_channel(completion.error());
    } else if (is_over && !completion->has_value()) {
      break_channel({ErrorCode::kProtocol, "the off-loader does not serve its queue", "", "", "",
                     "see the off-loader's own message, if any"});
    }
  }
  if (sink != nullptr) {
    sink->on_completion(tag, pending.worker, {0, TaskStatus::kWorkerLost, 0, 0, 0}, reply);
  }
}

Dispatcher::Clock::time_point Dispatcher::deadline(int worker) const {
  const Worker& w = workers_[worker];
  const Clock::time_point now = now_();
  if (!w.speed) return now + patience_.first;
  const double expected_s =
      std::min(kPatience * w.outstanding_work / *w.speed, seconds(patience_.stall));
  return now +
         std::max<Clock::duration>(patience_.least, std::chrono::duration_cast<Clock::duration>(
                                                        std::chrono::duration<double>(expected_s)));
}

void Dispatcher::drop(int worker, std::uint64_t first, std::uint64_t last) {
  if (!alive(worker)) return;
  Task task;
  task.verb = Verb::kDrop;
  task.worker = static_cast<std::uint32_t>(worker);
  task.a = first;
  task.b = last;
  submit(task, std::nullopt, std::nullopt, nullptr, 0);
}

// The task is no longer outstanding.
void Dispatcher::settle(const Pending& pending, bool is_done) {
  Worker& worker = workers_[pending.worker];
  worker.outstanding -= 1;
  if (pending.epoch != worker.epoch) return;  // it was for the one that was there before
  const Clock::time_point now = now_();
  worker.busy_s += seconds(now - worker.since);
  worker.since = now;
  worker.outstanding_work = worker.outstanding == 0 ? 0 : worker.outstanding_work - pending.work;
  if (!is_done) return;
  worker.work += pending.work;
  worker.is_late = false;
}

void Dispatcher::handle(const Completion& completion) {
  const auto at = pending_.find(completion.request);
  if (at == pending_.end()) return;  // abandoned
  const Pending pending = at->second;
  pending_.erase(at);
  settle(pending, completion.status == TaskStatus::kOk);
  if (pending.epoch != workers_[pending.worker].epoch) {  // of the worker that was there before
    if (pending.reply) link_.release(*pending.reply);
    return;
  }
  if (completion.status == TaskStatus::kOk) {
    stats_.bytes_from_workers += pending.reply_bytes;
    stats_.worker_gemm_s += completion.compute_us * 1e-6;
    stats_.workers[pending.worker].multiply_adds += pending.work;
  }
  if (pending.sink != nullptr) {
    pending.sink->on_completion(pending.tag, pending.worker, completion, pending.reply);
  } else if (pending.reply) {
    link_.release(*pending.reply);
  }
}

void Dispatcher::retire_stalled() {
  const Clock::time_point now = now_();
  std::vector<bool> is_stalled(workers_.size(), false);
  for (std::size_t w = 0; w < workers_.size(); ++w) {
    is_stalled[w] = workers_[w].outstanding > 0 && now - workers_[w].since > patience_.stall;
    if (!is_stalled[w]) continue;
    retire({EngineEvent::Kind::kLost, static_cast<int>(w), "",
            "no answer for " + std::to_string(patience_.stall.count() / 1000) + " s"});
  }
  // The link keeps their reply slots until the off-loader is done with them.
  std::vector<std::pair<std::uint64_t, Pending>> orphans;
  std::erase_if(pending_, [&](const auto& entry) {
    if (!is_stalled[static_cast<std::size_t>(entry.second.worker)]) return false;
    orphans.push_back(entry);
    return true;
  });
  for (const auto& [request, pending] : orphans) {
    link_.abandon(request);
    settle(pending, false);
    if (pending.sink == nullptr) continue;
    pending.sink->on_completion(pending.tag, pending.worker,
                                {request, TaskStatus::kWorkerLost, 0, 0, 0}, std::nullopt);
  }
}

void Dispatcher::poll(Clock::time_point until) {
  bool handled = false;
  while (!broken_) {
    std::chrono::milliseconds wait{0};
    if (!handled && !pending_.empty()) {
      const Clock::time_point now = now_();
      const auto left = until > now ? until - now : Clock::duration::zero();
      wait = std::chrono::ceil<std::chrono::milliseconds>(
          std::min<Clock::duration>({left, kSlice, patience_.stall}));
    }
    auto completion = [&] {
      const TimeScope scope(ledger_, TimeKind::kWaiting);
      return link_.poll(static_cast<int>(wait.count()));
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
    if (handled) return;
    retire_stalled();
    if (pending_.empty() || now_() >= until) return;
  }
}

}  // namespace tempo
