#include "tests/simulation/simulated_link.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace tempo {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr std::uint64_t kMaxPolls = 200000;
constexpr std::size_t kMostWorkers = 6;
constexpr std::uint64_t kUsualMemory = std::uint64_t{1} << 30;
constexpr RelayLimits kRelayLimits{std::uint64_t{1} << 18, std::uint64_t{1} << 17, 6};

const char* name_of(Verb verb) {
  switch (verb) {
    case Verb::kPut:
      return "put";
    case Verb::kMultiply:
      return "multiply";
    case Verb::kDrop:
      return "drop";
    case Verb::kWatch:
      return "watch";
  }
  return "?";
}

unsigned long long printable(std::uint64_t value) {
  return value;
}

}  // namespace

SimulatedLink::Relay::Relay(const RelayLimits& limits)
    : memory(RelayMemory::reserve(limits.window_bytes).value()),
      client(limits),
      server(limits, memory.bytes()) {}

SimulatedLink::SimulatedLink(int workers, const Limits& limits, const Faults& faults,
                             SeededRandom& random, History& history)
    : limits_(limits),
      faults_(faults),
      random_(random),
      history_(history),
      device_(1),
      workers_(static_cast<std::size_t>(workers)),
      free_bytes_(limits.shared_bytes),
      last_poll_(history.now()),
      last_completion_(history.now()) {
  for (std::uint32_t w = 0; w < workers_.size(); ++w) {
    infos_.push_back(claim());
    start(w);
  }
}

SimulatedLink::Bytes SimulatedLink::aligned_bytes(std::uint64_t size) {
  const std::uint64_t rounded = std::max<std::uint64_t>((size + 63) / 64 * 64, 64);
  auto* const data = static_cast<std::byte*>(std::aligned_alloc(64, rounded));
  std::memset(data, 0x5a, rounded);
  return Bytes(data);
}

bool SimulatedLink::happens(double rate) {
  if (rate <= 0 || random_.unit() >= rate) return false;
  ++faults_done_;
  return true;
}

// Mostly tens of microseconds.
nanoseconds SimulatedLink::latency() {
  const double us = 20 * std::exp(random_.normal());
  if (happens(faults_.delay)) return nanoseconds(std::llround(random_.unit() * 60e9));
  return nanoseconds(std::llround(us * 1e3));
}

// ---- workers that come and go ------------------------------------------------------------------

WorkerInfo SimulatedLink::claim() {
  WorkerInfo info;
  info.memory_limit_bytes = kUsualMemory;
  if (happens(faults_.claim)) {
    info.memory_limit_bytes = ~std::uint64_t{0} >> random_.between(0, 56);
  }
  std::strncpy(info.device, "simulated", sizeof(info.device) - 1);
  return info;
}

void SimulatedLink::start(std::uint32_t index) {
  Worker& worker = workers_[index];
  worker.is_gone = worker.is_disturbed = false;
  worker.is_cheat = faults_.cheat > 0 && random_.unit() < 0.5;
  worker.ns_per_multiply_add = std::exp(random_.normal());
  if (happens(faults_.slow)) worker.ns_per_multiply_add *= std::pow(10, random_.between(1, 5));
  StoreLimits limits{kUsualMemory};
  if (happens(faults_.memory)) limits.bytes = std::uint64_t{1} << random_.between(10, 16);
  worker.executor = std::make_unique<TaskExecutor>(device_, limits, nullptr);
  worker.relay.reset();
  if (random_.unit() < 0.5) worker.relay = std::make_unique<Relay>(kRelayLimits);
  history_.note("worker %u starts, epoch %u, %.3g ns, %s", index, worker.epoch,
                worker.ns_per_multiply_add, worker.relay ? "relayed" : "direct");
}

void SimulatedLink::lose(std::uint32_t index, const char* why) {
  Worker& worker = workers_[index];
  if (worker.is_gone) return;
  history_.note("worker %u is lost: %s", index, why);
  worker.is_gone = true;
  worker.executor->clear();
  for (auto& [time, event] : events_) {  // answers on their way may arrive
    if (event.what == What::kIsDone && event.worker == index && random_.unit() < 0.5) {
      event.completion = {event.request, TaskStatus::kWorkerLost, 0, 0, 0};
    }
  }
  if (const auto relay = std::move(worker.relay)) {
    for (const auto* requests : {&relay->sent, &relay->queue}) {
      for (const std::uint64_t request : *requests) fail(request, TaskStatus::kWorkerLost);
    }
  }
  if (happens(faults_.join)) {  // at once
    ++worker.epoch;
    start(index);
    joins_.push_back({index, worker.epoch, claim()});
  }
}

void SimulatedLink::begin_step() {
  tasks_ = polls_ = 0;
  jumped_s_ = 0;
  payloads_.clear();
  for (std::uint32_t w = 0; w < workers_.size(); ++w) {
    Worker& worker = workers_[w];
    if (worker.is_gone ? happens(faults_.join) : happens(faults_.false_join)) {
      ++worker.epoch;
      worker.is_disturbed = true;
      if (worker.is_gone) start(w);
      history_.note("worker %u is said to join, epoch %u", w, worker.epoch);
      joins_.push_back({w, worker.epoch, claim()});
    }
  }
  if (workers_.size() < kMostWorkers && happens(faults_.join)) {
    workers_.emplace_back();
    workers_.back().epoch = 1;
    const auto index = static_cast<std::uint32_t>(workers_.size() - 1);
    start(index);
    joins_.push_back({index, 1, claim()});
  }
}

std::vector<WorkerJoin> SimulatedLink::joins() {
  for (const WorkerJoin& join : joins_) {
    workers_[join.worker].used_epoch = join.epoch;
    workers_[join.worker].has_failed = false;
  }
  return std::exchange(joins_, {});
}

// ---- what the enclave calls --------------------------------------------------------------------

std::optional<Slot> SimulatedLink::reserve(std::uint64_t bytes) {
  const std::uint64_t rounded = (bytes + 63) / 64 * 64;
  if (rounded > free_bytes_) return std::nullopt;
  free_bytes_ -= rounded;
  const std::uint32_t slot = next_slot_++;
  auto& entry = slots_[slot];
  entry = {aligned_bytes(rounded), rounded};
  return Slot{slot, bytes, entry.first.get()};
}

void SimulatedLink::release(const Slot& slot) {
  const auto at = slots_.find(slot.first_slab);
  TEMPO_ASSERT(at != slots_.end());
  free_bytes_ += at->second.second;
  slots_.erase(at);
}

Result<std::optional<std::uint64_t>> SimulatedLink::submit(Task task, const Slot* payload,
                                                           const Slot* reply) {
  history_.advance_to(history_.now() + microseconds(2));
  if (happens(faults_.break_link)) is_broken_ = true;
  if (is_broken_)
    return Error{ErrorCode::kProtocol, "the simulated link is broken", "", "", "", ""};
  if (requests_.size() >= limits_.entries || happens(faults_.refuse)) {
    return std::optional<std::uint64_t>{};
  }
  ++tasks_;
  task.request = next_request_++;
  Worker& worker = workers_[task.worker];
  Request& request = requests_[task.request];
  request.task = task;
  request.epoch = worker.used_epoch;
  request.result = aligned_bytes(task.reply_bytes());
  if (payload != nullptr) {
    request.payload = *payload;
    payloads_[{task.rows, task.cols}].emplace(reinterpret_cast<const char*>(payload->data),
                                              task.payload_bytes());
  }
  if (reply != nullptr) request.reply = *reply;
  history_.note("%llu: %s to worker %u, %ux%u, a %llu b %llu result %llu flags %u",
                printable(task.request), name_of(task.verb), task.worker, task.rows, task.cols,
                printable(task.a), printable(task.b), printable(task.result), task.flags);
  Time arrival = history_.now() + latency();
  if (happens(faults_.misorder)) {  // sums on the worker may come out wrong
    worker.is_disturbed = worker.is_false = true;
  } else {
    arrival = std::max(arrival, worker.last_arrival);
  }
  worker.last_arrival = arrival;
  events_.emplace(arrival, Event{What::kArrives, task.request, task.worker, {}});
  return std::optional<std::uint64_t>{task.request};
}

void SimulatedLink::abandon(std::uint64_t request) {
  const auto at = requests_.find(request);
  if (at != requests_.end()) at->second.is_abandoned = true;
}

Result<std::optional<Completion>> SimulatedLink::poll(int timeout_ms) {
  history_.advance_to(history_.now() + microseconds(1));
  if (happens(faults_.clock_jump)) {
    history_.note("the clock jumps");
    history_.advance_to(history_.now() + seconds(3600));
    jumped_s_ += 3600;
  }
  if (++polls_ > kMaxPolls) has_run_away_ = is_broken_ = true;
  if (is_broken_)
    return Error{ErrorCode::kProtocol, "the simulated link is broken", "", "", "", ""};
  const Time until = history_.now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    last_poll_ = history_.now();
    run_due();
    if (!completed_.empty()) {
      last_completion_ = history_.now();
      const Completion completion = completed_.front();
      completed_.pop_front();
      const auto at = requests_.find(completion.request);
      const Request& request = at->second;
      Worker& worker = workers_[request.task.worker];
      const bool is_of_before = request.epoch != worker.used_epoch;
      worker.has_failed |= completion.status != TaskStatus::kOk && !is_of_before;
      if (request.payload) release(*request.payload);
      if (request.reply && request.is_abandoned) release(*request.reply);
      requests_.erase(at);
      return std::optional<Completion>{completion};
    }
    if (history_.now() >= until) return std::optional<Completion>{};
    history_.advance_to(events_.empty() ? until : std::min(until, events_.begin()->first));
  }
}

void SimulatedLink::drain() {
  faults_ = {};
  if (is_broken_) return;
  const auto run_all = [&] {
    while (!requests_.empty() && (!events_.empty() || !completed_.empty())) {
      polls_ = 0;
      if (!events_.empty()) history_.advance_to(events_.begin()->first);
      static_cast<void>(poll(0));
    }
  };
  run_all();
  for (std::uint32_t w = 0; w < workers_.size(); ++w) lose(w, "the end");
  run_all();
}

std::map<std::pair<std::uint32_t, std::uint32_t>, std::size_t> SimulatedLink::payloads_by_shape()
    const {
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::size_t> counts;
  for (const auto& [shape, payloads] : payloads_) counts[shape] = payloads.size();
  return counts;
}

// ---- events ------------------------------------------------------------------------------------

void SimulatedLink::run_due() {
  while (!events_.empty() && events_.begin()->first <= history_.now()) {
    const Event event = events_.begin()->second;
    events_.erase(events_.begin());
    if (event.what == What::kArrives) arrive(event.request);
    if (event.what == What::kPump) pump(event.worker);
    if (event.what == What::kIsDone) deliver(event.completion);
  }
}

void SimulatedLink::complete(std::uint64_t request, const Completion& completion, Time time) {
  if (happens(faults_.lose_answer)) time += seconds(100000);
  events_.emplace(time + latency(),
                  Event{What::kIsDone, request, requests_.at(request).task.worker, completion});
}

void SimulatedLink::fail(std::uint64_t request, TaskStatus status) {
  complete(request, {request, status, 0, 0, 0}, history_.now());
}

void SimulatedLink::arrive(std::uint64_t id) {
  Request& request = requests_.at(id);
  const Task& task = request.task;
  Worker& worker = workers_[task.worker];
  if (happens(faults_.crash)) lose(task.worker, "crashes before a task");
  if (worker.is_gone || request.epoch != worker.epoch) {
    return fail(id, TaskStatus::kWorkerLost);
  }
  if (happens(faults_.false_status)) {
    const auto status = static_cast<TaskStatus>(random_.between(1, 4));
    worker.is_disturbed = true;
    history_.note("%llu: answered with status %u that is not true", printable(id),
                  static_cast<unsigned>(status));
    return fail(id, status);
  }
  const Completion done{id, TaskStatus::kOk, 1, task.reply_bytes(), 0};
  if (happens(faults_.lose_task)) {
    history_.note("%llu: never done, answered as if", printable(id));
    worker.is_false = worker.is_disturbed = true;
    return complete(id, done, history_.now());
  }
  const std::byte* payload = request.payload ? request.payload->data : nullptr;
  if (payload != nullptr && happens(faults_.corrupt_payload)) {
    request.changed_payload = aligned_bytes(task.payload_bytes());
    std::memcpy(request.changed_payload.get(), payload, task.payload_bytes());
    const std::uint64_t at =
        random_below(random_, static_cast<std::uint32_t>(task.rows * task.cols)) * sizeof(float);
    const float value = static_cast<float>(random_.normal());
    std::memcpy(request.changed_payload.get() + at, &value, sizeof(value));
    worker.is_false = true;
    history_.note("%llu: payload changed on its way", printable(id));
  }
  if (worker.relay != nullptr) {
    worker.relay->queue.push_back(id);
    return pump(task.worker);
  }
  if (request.changed_payload != nullptr) payload = request.changed_payload.get();
  const Completion completion = execute(task.worker, task, payload, request.result.get());
  if (happens(faults_.crash)) {
    fail(id, TaskStatus::kWorkerLost);
    return lose(task.worker, "crashes in a task");
  }
  complete(id, completion, worker.free_at);
  if (happens(faults_.crash)) lose(task.worker, "crashes after a task");
}

Completion SimulatedLink::execute(std::uint32_t index, const Task& task, const std::byte* payload,
                                  std::byte* result) {
  Worker& worker = workers_[index];
  Completion completion = worker.executor->execute(task, payload, result);
  completion.compute_us = random_u32(random_);
  double multiply_adds = 0;
  if (task.verb == Verb::kMultiply) multiply_adds = 64.0 * task.rows * task.cols;
  worker.free_at = std::max(worker.free_at, history_.now()) +
                   nanoseconds(std::llround(worker.ns_per_multiply_add * multiply_adds));
  if (completion.status != TaskStatus::kOk) {
    history_.note("%llu: worker %u says status %u", printable(task.request), index,
                  static_cast<unsigned>(completion.status));
    const bool has_room = completion.status != TaskStatus::kOutOfMemory;
    if (has_room && !worker.is_disturbed && !impossible_task_) {
      impossible_task_ = "task " + std::to_string(task.request) + " cannot be done";
    }
    worker.is_disturbed = true;
  } else if (task.reply_bytes() > 0 && worker.is_cheat && happens(faults_.cheat)) {
    cheat(index, task, result);
  }
  return completion;
}

void SimulatedLink::cheat(std::uint32_t index, const Task& task, std::byte* result) {
  std::vector<float> values(std::size_t{task.rows} * task.cols);
  std::memcpy(values.data(), result, task.reply_bytes());
  const std::uint32_t row = random_below(random_, task.rows);
  const std::uint32_t column = random_below(random_, task.cols);
  float* const begin = values.data() + std::size_t{row} * task.cols;
  double squares = 0;
  for (std::uint32_t c = 0; c < task.cols; ++c) squares += double{begin[c]} * begin[c];
  const auto rms = static_cast<float>(std::sqrt(squares / task.cols));
  const int kind = random_.between(0, 6);
  switch (kind) {
    case 0:  // as little as a third of what is usual in that row
      begin[column] += rms * 0.3F;
      break;
    case 1:
      begin[column] -= rms * static_cast<float>(std::pow(10, random_.between(0, 30)));
      break;
    case 2:
      begin[column] = random_.unit() < 0.5 ? std::nanf("") : -HUGE_VALF;
      break;
    case 3:
      std::fill_n(begin, task.cols, 0.0F);
      break;
    case 4:
      std::fill(values.begin(), values.end(), 0.0F);
      break;
    case 5:
      for (float& value : values) value *= 1.01F;
      break;
    default:  // rows one place on
      std::rotate(values.begin(), values.begin() + task.cols, values.end());
      break;
  }
  std::memcpy(result, values.data(), task.reply_bytes());
  workers_[index].is_false = true;
  history_.note("%llu: worker %u cheats, kind %d, row %u column %u", printable(task.request), index,
                kind, row, column);
}

// What a lying off-loader does with results.
void SimulatedLink::falsify(Request& request) {
  const std::uint64_t size = request.task.reply_bytes();
  auto& earlier = earlier_[size];
  const std::byte* const result = request.result.get();
  std::vector<std::byte> honest(result, result + size);
  Worker& worker = workers_[request.task.worker];
  if (!earlier.empty() && happens(faults_.replay)) {
    const auto& other = earlier[random_below(random_, static_cast<std::uint32_t>(earlier.size()))];
    std::memcpy(request.result.get(), other.data(), size);
    worker.is_false = true;
    history_.note("%llu: an earlier result in its place", printable(request.task.request));
  } else if (happens(faults_.stale)) {
    std::memcpy(request.result.get(), request.reply->data, size);
    worker.is_false = true;
    history_.note("%llu: its result is not written", printable(request.task.request));
  } else if (happens(faults_.swap)) {
    for (const auto& [time, event] : events_) {  // only those that nobody writes any more
      if (event.what != What::kIsDone || event.completion.status != TaskStatus::kOk) continue;
      Request& other = requests_.at(event.request);
      if (&other == &request || other.task.reply_bytes() != size) continue;
      std::swap(request.result, other.result);
      worker.is_false = workers_[other.task.worker].is_false = true;
      history_.note("%llu: its result swapped with that of %llu", printable(request.task.request),
                    printable(event.request));
      break;
    }
  }
  earlier.push_back(std::move(honest));
  if (earlier.size() > 8) earlier.erase(earlier.begin());
}

void SimulatedLink::deliver(const Completion& completion) {
  Request& request = requests_.at(completion.request);
  if (completion.status == TaskStatus::kOk && request.reply) {
    falsify(request);
    std::memcpy(request.reply->data, request.result.get(), request.task.reply_bytes());
  }
  history_.note("%llu: complete, status %u", printable(completion.request),
                static_cast<unsigned>(completion.status));
  completed_.push_back(completion);
}

// ---- streams of bytes --------------------------------------------------------------------------

void SimulatedLink::pump(std::uint32_t index) {
  for (bool has_moved = true; has_moved;) {
    has_moved = false;
    if (workers_[index].relay == nullptr) return;
    if (!pump_once(index, has_moved)) return lose(index, "its connection ends");
  }
}

bool SimulatedLink::pump_once(std::uint32_t index, bool& has_moved) {
  Worker& worker = workers_[index];
  Relay& relay = *worker.relay;
  while (!relay.queue.empty()) {
    Request& request = requests_.at(relay.queue.front());
    const std::byte* payload = request.payload ? request.payload->data : nullptr;
    if (request.changed_payload != nullptr) payload = request.changed_payload.get();
    if (!relay.client.submit(request.task, payload, request.result.get())) break;
    relay.sent.push_back(relay.queue.front());
    relay.queue.pop_front();
  }
  if (!write_stream(index, relay.client, relay.to_worker, history_.now(), has_moved) ||
      !read_stream(index, relay.server, relay.to_worker, has_moved)) {
    return false;
  }
  while (const std::optional<RelayServer::Job> job = relay.server.take()) {
    has_moved = true;
    relay.server.finish(*job, execute(index, job->task, job->payload, job->reply));
    if (happens(faults_.crash)) return false;
  }
  if (!write_stream(index, relay.server, relay.to_offloader, worker.free_at, has_moved) ||
      !read_stream(index, relay.client, relay.to_offloader, has_moved)) {
    return false;
  }
  while (const std::optional<Completion> completion = relay.client.take()) {
    TEMPO_ASSERT(!relay.sent.empty() && relay.sent.front() == completion->request);
    relay.sent.pop_front();
    complete(completion->request, *completion, history_.now());
  }
  return true;
}

bool SimulatedLink::write_stream(std::uint32_t index, RelayCore& core, Stream& stream,
                                 Time earliest, bool& has_moved) {
  for (;;) {
    const RelayWrites writes = core.want_write();
    if (writes.count == 0) return true;
    has_moved = true;
    std::vector<std::byte> bytes;
    for (std::size_t i = 0; i < writes.count; ++i) {
      bytes.insert(bytes.end(), writes.spans[i].begin(), writes.spans[i].end());
    }
    // Mostly all at once, sometimes little.
    if (random_.unit() < 0.2) {
      bytes.resize(1 + random_below(random_, static_cast<std::uint32_t>(bytes.size())));
    }
    core.did_write(bytes.size());
    if (happens(faults_.corrupt_stream)) {
      const auto at = random_below(random_, static_cast<std::uint32_t>(bytes.size()));
      bytes[at] ^= static_cast<std::byte>(random_.between(1, 255));
      workers_[index].is_false = workers_[index].is_disturbed = true;
      history_.note("a byte to or from worker %u is changed", index);
    }
    if (happens(faults_.cut_stream)) return false;
    stream.last_arrival = std::max({history_.now() + latency(), earliest, stream.last_arrival});
    stream.chunks.push_back({stream.last_arrival, std::move(bytes)});
    events_.emplace(stream.last_arrival, Event{What::kPump, 0, index, {}});
  }
}

bool SimulatedLink::read_stream(std::uint32_t index, RelayCore& core, Stream& stream,
                                bool& has_moved) {
  while (!stream.chunks.empty() && stream.chunks.front().arrival <= history_.now()) {
    std::vector<std::byte>& bytes = stream.chunks.front().bytes;
    const std::span<std::byte> place = core.want_read();
    if (place.empty()) return true;
    has_moved = true;
    const std::size_t count = std::min(place.size(), bytes.size());
    std::memcpy(place.data(), bytes.data(), count);
    bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    if (bytes.empty()) stream.chunks.pop_front();
    if (const Status status = core.did_read(count); !status.ok()) {
      history_.note("relay of worker %u: %s", index, status.error().one_line().c_str());
      return false;
    }
  }
  return true;
}

}  // namespace tempo
