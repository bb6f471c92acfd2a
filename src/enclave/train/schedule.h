// File: enclave/train/schedule.h
// The learning rate of a step.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "wire/job.h"

namespace tempo {

// Error kUsage: a value that makes no sense (negative warm-up, gamma or fraction, step_epochs < 1).
Status check_schedule(const ScheduleSpec& spec);

// With W = warmup_epochs * steps_per_epoch (rounded up), step s counting from 0 over all epochs:
//   s < W      base * (s + 1) / W                       linear from 0, times the step decay below
//   constant   base
//   step       base * gamma ^ floor(epoch / step_epochs)
//   cosine     base * (f + (1 - f) * (1 + cos(pi * (s - W) / (T - W))) / 2)
// T = epochs * steps_per_epoch, also when the job stops before it.
class Schedule {
 public:
  Schedule(const ScheduleSpec& spec, double base_rate, std::int64_t steps_per_epoch,
           std::int64_t epochs);
  double rate(std::int64_t step) const;

 private:
  ScheduleSpec spec_;
  double base_rate_;
  std::int64_t steps_per_epoch_;
  std::int64_t warmup_steps_;
  std::int64_t total_steps_;
};

}  // namespace tempo
