// File: tests/simulation/history.h
// The clock of a simulation, and what happened when. Nothing in a run depends on the real clock.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <string>
#include <vector>

namespace tempo {

class History {
 public:
  using Clock = std::chrono::steady_clock;

  Clock::time_point now() const { return now_; }
  double now_ms() const {
    return std::chrono::duration<double, std::milli>(now_.time_since_epoch()).count();
  }
  void advance_to(Clock::time_point time) { now_ = std::max(now_, time); }

  [[gnu::format(printf, 2, 3)]] void note(const char* format, ...) {
    char text[256];
    int length = std::snprintf(text, sizeof(text), "%14.3f ms  ", now_ms());
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text + length, sizeof(text) - static_cast<std::size_t>(length), format,
                   arguments);
    va_end(arguments);
    lines_.emplace_back(text);
  }
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  Clock::time_point now_{std::chrono::hours(1)};  // of what a clock may say, nothing special
  std::vector<std::string> lines_;
};

}  // namespace tempo
