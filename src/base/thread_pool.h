// File: base/thread_pool.h
// A pool that sleeps when there is nothing to do. Work is cut into chunks whose bounds depend on
// `count` and `grain` alone, never on the number of threads, so that a reduction that keeps one
// accumulator a chunk gives the same bits with any number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace tempo {

class ThreadPool {
 public:
  // threads >= 1; the calling thread counts as one of them. Fewer when the system refuses more.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls body(begin, end) over [0, count) in chunks of at most `grain` items and returns when all
  // are done. Not reentrant: body must not call parallel_for on the same pool. One caller at a
  // time. When body throws, the other chunks are still done, and then the first exception is
  // thrown here.
  void parallel_for(std::int64_t count, std::int64_t grain,
                    const std::function<void(std::int64_t begin, std::int64_t end)>& body);

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace tempo
