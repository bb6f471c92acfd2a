// File: enclave/server/job_store.h
// The jobs of one enclave: their inputs until they run, their progress and outputs afterwards, and
// the one thread that runs them, one after the other, in the order in which they were started.
// Thread safety: all members, from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "enclave/server/job_runner.h"
#include "enclave/server/limits.h"

namespace tempo {

enum class JobState {
  kCreated,  // takes uploads
  kQueued,
  kRunning,
  kDone,
  kStopped,  // at the client's wish; outputs so far are there
  kFailed,   // outputs may be there in part
};
std::string_view job_state_name(JobState state);
inline bool has_ended(JobState state) {
  return state >= JobState::kDone;
}

struct JobView {
  JobState state = JobState::kCreated;
  std::optional<Error> error;  // kFailed, kStopped
  std::optional<Progress> last;
};

struct JobEvents {
  std::vector<Progress> lines;  // oldest first
  std::uint64_t next = 0;       // where to go on
  bool ended = false;           // nothing comes after these
  JobView view;
};

class JobStore {
 public:
  // `runner` outlives the store.
  JobStore(JobRunner& runner, const ApiLimits& limits);
  ~JobStore();
  JobStore(const JobStore&) = delete;
  JobStore& operator=(const JobStore&) = delete;

  // Errors of everything below: kNotFound for an unknown id; kUsage when the job is in a state that
  // does not allow it.

  // The new job's id, which cannot be guessed. kOutOfMemory when there are too many jobs.
  Result<std::string> create(JobSpec spec);

  // Room for an upload, given back with it or handed over to the job. Never outlives the store.
  class Room {
   public:
    Room(Room&& other) noexcept;
    Room& operator=(Room&&) = delete;
    ~Room();

   private:
    friend class JobStore;
    Room(JobStore& store, std::uint64_t bytes) : store_(&store), bytes_(bytes) {}
    JobStore* store_;
    std::uint64_t bytes_;
  };
  // Before an upload is read. kOutOfMemory when all uploads together would be too many bytes.
  Result<Room> make_room(const std::string& id, std::uint64_t bytes);
  // Replace what was uploaded before under this name. bytes.size() is what the room was made for.
  Status put_model(const std::string& id, std::vector<std::byte> bytes, Room room);
  Status put_data(const std::string& id, NamedFile file, Room room);

  Status start(const std::string& id);
  // A running job ends soon; one that has ended stays as it is.
  Status stop(const std::string& id);

  Result<JobView> view(const std::string& id);
  // kUsage while the job has not ended.
  Result<std::shared_ptr<const JobOutputs>> outputs(const std::string& id);
  // Waits until there is a line from number `from` on, the job ends, or `wait` is over.
  Result<JobEvents> wait_events(const std::string& id, std::uint64_t from,
                                std::chrono::milliseconds wait);

  // Stops what is queued or runs and waits for it; false when it still runs after `wait`. No job
  // starts again.
  bool shut_down(std::chrono::milliseconds wait);

 private:
  struct Job;
  using JobPtr = std::shared_ptr<Job>;

  Result<JobPtr> find(const std::string& id);
  Result<JobPtr> find_open(const std::string& id);
  bool evict_one();
  void end_unrun(Job& job);
  void release_inputs(Job& job);
  void run_jobs();
  void run_one(const JobPtr& job);

  JobRunner& runner_;
  const ApiLimits limits_;
  std::mutex mutex_;
  std::condition_variable changed_;
  SystemRandom random_;
  std::map<std::string, JobPtr> jobs_;
  std::deque<JobPtr> queue_;
  JobPtr running_;
  std::uint64_t reserved_bytes_ = 0;
  std::uint64_t created_ = 0;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace tempo
