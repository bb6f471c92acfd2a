// File: client/interrupt.h
// SIGINT, SIGTERM and SIGHUP as an event that waits can see, and a count.
// Thread safety: all members, from any thread. At most one object at a time.
#pragma once

#include <atomic>

#include "wire/event.h"

namespace tempo {

class Interrupt {
 public:
  Interrupt();   // takes the signals over
  ~Interrupt();  // gives them back
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  int fd() const { return event_.fd(); }  // readable from a signal on, until clear()
  void clear() { event_.clear(); }
  int count() const { return count_; }  // signals so far

 private:
  static void on_signal(int signal);

  Event event_;
  std::atomic<int> count_ = 0;
};

}  // namespace tempo
