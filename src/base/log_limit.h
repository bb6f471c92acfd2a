// File: base/log_limit.h
// How many lines something that strangers can repeat at will may write into a log: a burst, then
// one every few seconds, which tells how many were left out.
// Thread safety: any threads at the same time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

namespace tempo {

class LogLimit {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::int64_t kBurst = 20;
  static constexpr std::chrono::seconds kInterval{5};

  // now: what time it is; tests have one of their own.
  explicit LogLimit(std::function<Clock::time_point()> now = Clock::now)
      : now_(std::move(now)), counted_(now_()) {}

  // What to append to the line that is due: nothing, or how many were left out before it. No value:
  // leave the line out.
  std::optional<std::string> admit() {
    const std::lock_guard lock(mutex_);
    const std::int64_t more = (now_() - counted_) / kInterval;
    counted_ += more * kInterval;
    saved_ = std::min(kBurst, saved_ + more);
    if (saved_ == 0) {
      ++left_out_;
      return std::nullopt;
    }
    --saved_;
    const std::uint64_t count = std::exchange(left_out_, 0);
    if (count == 0) return "";
    return " (and " + std::to_string(count) + " lines like it before)";
  }

 private:
  std::mutex mutex_;
  const std::function<Clock::time_point()> now_;
  Clock::time_point counted_;    // what was saved up until then is in saved_
  std::int64_t saved_ = kBurst;  // lines that may be written at once
  std::uint64_t left_out_ = 0;
};

}  // namespace tempo
