#include "base/thread_pool.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace tempo {

struct ThreadPool::Shared {
  std::mutex mutex;
  std::condition_variable work_arrived;
  std::condition_variable work_done;
  const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
  std::int64_t count = 0;
  std::int64_t grain = 1;
  std::int64_t next = 0;     // first item that nobody has taken
  std::int64_t pending = 0;  // chunks taken or waiting, not finished
  bool stopping = false;
  std::exception_ptr failure;  // the first one of this loop
  std::vector<std::thread> threads;

  // Takes and runs chunks until none is left. Called with the lock held; returns with it held.
  void drain(std::unique_lock<std::mutex>& lock) {
    while (body != nullptr && next < count) {
      const auto* current = body;
      const std::int64_t begin = next;
      const std::int64_t end = std::min(count, begin + grain);
      next = end;
      lock.unlock();
      std::exception_ptr thrown;
      try {
        (*current)(begin, end);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      if (thrown && !failure) failure = thrown;
      if (--pending == 0) work_done.notify_all();
    }
  }
};

ThreadPool::ThreadPool(int threads) : shared_(std::make_unique<Shared>()) {
  TEMPO_ASSERT(threads >= 1);
  const auto serve = [shared = shared_.get()] {
    std::unique_lock lock(shared->mutex);
    while (true) {
      shared->work_arrived.wait(lock, [shared] {
        return shared->stopping || (shared->body != nullptr && shared->next < shared->count);
      });
      if (shared->stopping) return;
      shared->drain(lock);
    }
  };
  shared_->threads.reserve(static_cast<std::size_t>(threads));
  try {
    for (int i = 1; i < threads; ++i) shared_->threads.emplace_back(serve);
  } catch (const std::system_error&) {
    // A limit on threads. Those that there are do the work.
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(shared_->mutex);
    shared_->stopping = true;
  }
  shared_->work_arrived.notify_all();
  for (auto& thread : shared_->threads) thread.join();
}

int ThreadPool::threads() const {
  return static_cast<int>(shared_->threads.size()) + 1;
}

void ThreadPool::parallel_for(std::int64_t count, std::int64_t grain,
                              const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(grain, 1);
  const std::int64_t chunks = (count + grain - 1) / grain;
  if (chunks == 1 || shared_->threads.empty()) {
    for (std::int64_t begin = 0; begin < count; begin += grain) {
      body(begin, std::min(count, begin + grain));
    }
    return;
  }
  std::unique_lock lock(shared_->mutex);
  TEMPO_ASSERT(shared_->body == nullptr);
  shared_->body = &body;
  shared_->count = count;
  shared_->grain = grain;
  shared_->next = 0;
  shared_->pending = chunks;
  shared_->work_arrived.notify_all();
  shared_->drain(lock);
  shared_->work_done.wait(lock, [this] { return shared_->pending == 0; });
  shared_->body = nullptr;
  if (shared_->failure) std::rethrow_exception(std::exchange(shared_->failure, nullptr));
}

}  // namespace tempo
