// File: worker/serving.h
// Who is served: one off-loader at a time, whichever way it came; and how much may be logged of
// those who come and of what they do. Thread safety: all members.
#pragma once

#include <atomic>

#include "base/log_limit.h"

namespace tempo {

class Serving {
 public:
  // False: another one is served.
  bool claim() { return !claimed_.exchange(true); }
  void release() { claimed_ = false; }
  bool claimed() const { return claimed_; }
  // One cannot silence what is said of the other.
  LogLimit& strangers_log() { return strangers_log_; }
  LogLimit& served_log() { return served_log_; }

 private:
  std::atomic<bool> claimed_ = false;
  LogLimit strangers_log_;
  LogLimit served_log_;
};

}  // namespace tempo
