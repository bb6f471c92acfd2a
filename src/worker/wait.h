// File: worker/wait.h
// poll(2) to the nanosecond: answers of a device that only plays a part (worker/device.h) are due
// sooner than a millisecond.
#pragma once

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <optional>
#include <span>

namespace tempo {

// Sleeps until something happens, at most that long (nothing: for ever). Fills in `revents`, all 0
// when a signal came first.
inline void wait_for(std::span<pollfd> entries, std::optional<std::chrono::nanoseconds> timeout) {
  constexpr std::int64_t kNs = 1000000000;
  const std::int64_t ns = timeout ? std::max<std::int64_t>(timeout->count(), 0) : 0;
  const timespec limit{ns / kNs, ns % kNs};
  if (::ppoll(entries.data(), entries.size(), timeout ? &limit : nullptr, nullptr) >= 0) return;
  for (pollfd& entry : entries) entry.revents = 0;
}

}  // namespace tempo
