#include "enclave/server/job_store.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <utility>

namespace tempo {
namespace {

using Clock = std::chrono::steady_clock;

Error unknown_job() {
  return {ErrorCode::kNotFound, "no such job", "", "an id from POST /v1/jobs", "", ""};
}

Error wrong_state(std::string_view what, JobState state, std::string_view expected) {
  return {ErrorCode::kUsage,
          std::string(what),
          "",
          std::string(expected),
          std::string(job_state_name(state)),
          ""};
}

}  // namespace

struct JobStore::Job {
  std::uint64_t number = 0;  // order of creation
  Clock::time_point touched = Clock::now();
  JobState state = JobState::kCreated;
  std::optional<Error> error;
  JobInputs inputs;
  std::uint64_t reserved_bytes = 0;
  std::atomic<bool> stop = false;
  std::deque<Progress> lines;
  std::uint64_t first_line = 0;  // number of lines.front()
  std::shared_ptr<const JobOutputs> outputs;

  JobView view() const {
    return {state, error, lines.empty() ? std::nullopt : std::optional(lines.back())};
  }
};

std::string_view job_state_name(JobState state) {
  switch (state) {
    case JobState::kCreated:
      return "created";
    case JobState::kQueued:
      return "queued";
    case JobState::kRunning:
      return "running";
    case JobState::kDone:
      return "done";
    case JobState::kStopped:
      return "stopped";
    case JobState::kFailed:
      return "failed";
  }
  return "failed";
}

JobStore::Room::Room(Room&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)), bytes_(other.bytes_) {}

JobStore::Room::~Room() {
  if (store_ == nullptr) return;
  const std::lock_guard lock(store_->mutex_);
  store_->reserved_bytes_ -= bytes_;
}

JobStore::JobStore(JobRunner& runner, const ApiLimits& limits)
    : runner_(runner), limits_(limits), thread_([this] { run_jobs(); }) {}

JobStore::~JobStore() {
  shut_down(std::chrono::milliseconds(0));
  thread_.join();
}

Result<JobStore::JobPtr> JobStore::find(const std::string& id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return unknown_job();
  found->second->touched = Clock::now();
  return found->second;
}

Result<JobStore::JobPtr> JobStore::find_open(const std::string& id) {
  auto job = find(id);
  if (job && (*job)->state != JobState::kCreated) {
    return wrong_state("the job has been started", (*job)->state, "a job that is not started yet");
  }
  return job;
}

void JobStore::release_inputs(Job& job) {
  job.inputs = JobInputs{job.inputs.spec, {}, {}};
  reserved_bytes_ -= std::exchange(job.reserved_bytes, 0);
}

// Makes room for a new job: the oldest one that has ended, else one that nobody ever started.
bool JobStore::evict_one() {
  const auto idle_since = Clock::now() - std::chrono::seconds(limits_.idle_job_s);
  auto best = jobs_.end();
  const auto rank = [](const Job& job) {
    return std::pair(has_ended(job.state) ? 0 : 1, job.number);
  };
  for (auto it = jobs_.begin(); it != jobs_.end(); ++it) {
    const Job& job = *it->second;
    const bool idle = job.state == JobState::kCreated && job.touched < idle_since;
    if (!has_ended(job.state) && !idle) continue;
    if (best == jobs_.end() || rank(job) < rank(*best->second)) best = it;
  }
  if (best == jobs_.end()) return false;
  release_inputs(*best->second);
  jobs_.erase(best);
  return true;
}

Result<std::string> JobStore::create(JobSpec spec) {
  const std::lock_guard lock(mutex_);
  if (jobs_.size() >= limits_.jobs && !evict_one()) {
    return Error{ErrorCode::kOutOfMemory,
                 "too many jobs",
                 "",
                 "at most " + std::to_string(limits_.jobs) + " that have not ended",
                 "",
                 "wait until one of them ends"};
  }
  char id[17];
  do {
    std::snprintf(id, sizeof(id), "%016llx", static_cast<unsigned long long>(random_u64(random_)));
  } while (jobs_.contains(id));
  auto job = std::make_shared<Job>();
  job->number = created_++;
  job->inputs.spec = std::move(spec);
  jobs_.emplace(id, std::move(job));
  return std::string(id);
}

Result<JobStore::Room> JobStore::make_room(const std::string& id, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (auto job = find_open(id); !job) return job.error();
  if (bytes > limits_.upload_bytes - reserved_bytes_) {
    return Error{ErrorCode::kOutOfMemory,
                 "no room for this upload",
                 "",
                 "at most " + std::to_string(limits_.upload_bytes - reserved_bytes_) +
                     " more bytes in all jobs together",
                 std::to_string(bytes),
                 "wait until other jobs end, or use a smaller data set"};
  }
  reserved_bytes_ += bytes;
  return Room(*this, bytes);
}

Status JobStore::put_model(const std::string& id, std::vector<std::byte> bytes, Room room) {
  const std::lock_guard lock(mutex_);
  TEMPO_ASSERT(room.bytes_ == bytes.size());
  auto found = find_open(id);
  // The room takes the lock itself when it is given back: after this function.
  if (!found) return found.error();
  Job& job = **found;
  const std::uint64_t before = job.inputs.model.size();
  job.inputs.model = std::move(bytes);
  job.reserved_bytes += room.bytes_ - before;
  reserved_bytes_ -= before;
  room.store_ = nullptr;
  return {};
}

Status JobStore::put_data(const std::string& id, NamedFile file, Room room) {
  const std::lock_guard lock(mutex_);
  TEMPO_ASSERT(room.bytes_ == file.bytes.size());
  auto found = find_open(id);
  if (!found) return found.error();
  Job& job = **found;
  auto& data = job.inputs.data;
  const auto same = std::find_if(data.begin(), data.end(),
                                 [&](const NamedFile& other) { return other.name == file.name; });
  std::uint64_t before = 0;
  if (same == data.end()) {
    data.push_back(std::move(file));
  } else {
    before = same->bytes.size();
    same->bytes = std::move(file.bytes);
  }
  job.reserved_bytes += room.bytes_ - before;
  reserved_bytes_ -= before;
  room.store_ = nullptr;
  return {};
}

Status JobStore::start(const std::string& id) {
  const std::lock_guard lock(mutex_);
  auto job = find_open(id);
  if (!job) return job.error();
  if (closing_) return Error{ErrorCode::kInterrupted, "the enclave is ending", "", "", "", ""};
  if ((*job)->inputs.model.empty()) {
    return Error{
        ErrorCode::kUsage, "the job has no model", "", "PUT /v1/jobs/{id}/model first", "", ""};
  }
  (*job)->state = JobState::kQueued;
  queue_.push_back(*job);
  changed_.notify_all();
  return {};
}

Status JobStore::stop(const std::string& id) {
  const std::lock_guard lock(mutex_);
  auto found = find(id);
  if (!found) return found.error();
  Job& job = **found;
  job.stop = true;
  if (job.state == JobState::kCreated || job.state == JobState::kQueued) {
    std::erase(queue_, *found);
    end_unrun(job);
  }
  return {};
}

void JobStore::end_unrun(Job& job) {
  job.state = JobState::kStopped;
  job.error = Error{ErrorCode::kInterrupted, "stopped before it ran", "", "", "", ""};
  job.outputs = std::make_shared<JobOutputs>();
  release_inputs(job);
  changed_.notify_all();
}

Result<JobView> JobStore::view(const std::string& id) {
  const std::lock_guard lock(mutex_);
  auto job = find(id);
  if (!job) return job.error();
  return (*job)->view();
}

Result<std::shared_ptr<const JobOutputs>> JobStore::outputs(const std::string& id) {
  const std::lock_guard lock(mutex_);
  auto job = find(id);
  if (!job) return job.error();
  if (!has_ended((*job)->state)) {
    return wrong_state("the job has not ended", (*job)->state, "done, stopped or failed");
  }
  return (*job)->outputs;
}

Result<JobEvents> JobStore::wait_events(const std::string& id, std::uint64_t from,
                                        std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  auto found = find(id);
  if (!found) return found.error();
  const JobPtr job = *found;  // stays, even when it has to make room
  const auto end = [&] { return job->first_line + job->lines.size(); };
  changed_.wait_for(lock, wait, [&] { return end() > from || has_ended(job->state); });
  JobEvents events;
  // Lines that a slow reader missed are gone; a number from the future starts at the end.
  const std::uint64_t begin = std::clamp(from, job->first_line, end());
  for (std::uint64_t i = begin; i < end(); ++i)
    events.lines.push_back(job->lines[i - job->first_line]);
  events.next = end();
  events.ended = has_ended(job->state);
  events.view = job->view();
  return events;
}

bool JobStore::shut_down(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  closing_ = true;
  for (const JobPtr& job : queue_) end_unrun(*job);
  queue_.clear();
  if (running_) running_->stop = true;
  changed_.notify_all();
  return changed_.wait_for(lock, wait, [&] { return running_ == nullptr; });
}

void JobStore::run_jobs() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closing_ || !queue_.empty(); });
    if (closing_) return;
    const JobPtr job = queue_.front();
    queue_.pop_front();
    running_ = job;
    job->state = JobState::kRunning;
    changed_.notify_all();
    lock.unlock();
    run_one(job);
    lock.lock();
    running_ = nullptr;
    changed_.notify_all();
  }
}

void JobStore::run_one(const JobPtr& job) {
  const auto on_progress = [&](const Progress& progress) {
    const std::lock_guard lock(mutex_);
    job->lines.push_back(progress);
    if (job->lines.size() > limits_.events) {
      job->lines.pop_front();
      ++job->first_line;
    }
    changed_.notify_all();
  };
  auto outputs = std::make_shared<JobOutputs>();
  Status status;
  try {
    status = runner_.run(std::move(job->inputs), job->stop, on_progress, *outputs);
  } catch (const std::bad_alloc&) {
    status =
        Error{ErrorCode::kOutOfMemory,          "the enclave's memory does not suffice", "", "", "",
              "use a smaller batch or data set"};
  } catch (const std::exception& e) {
    status = Error{ErrorCode::kInternal, e.what(), "", "", "", "please report this"};
  }
  const std::lock_guard lock(mutex_);
  job->outputs = std::move(outputs);
  release_inputs(*job);
  if (status.ok()) {
    job->state = JobState::kDone;
  } else {
    job->error = status.error();
    job->state =
        status.error().code == ErrorCode::kInterrupted ? JobState::kStopped : JobState::kFailed;
  }
  changed_.notify_all();
}

}  // namespace tempo
