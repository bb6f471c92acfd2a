// File: worker/serving.h
// Who is served: one off-loader at a time, whichever way it came. Thread safety: all members.
#pragma once

#include <atomic>

namespace tempo {

class Serving {
 public:
  // False: another one is served.
  bool claim() { return !claimed_.exchange(true); }
  void release() { claimed_ = false; }
  bool claimed() const { return claimed_; }

 private:
  std::atomic<bool> claimed_ = false;
};

}  // namespace tempo
