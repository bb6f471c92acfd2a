// File: enclave/train/run_length.h
// How a training run is cut: an epoch into steps, a step into batches, each of which an executor
// runs once. The last step of an epoch may have fewer batches, the last batch fewer samples.
// Thread safety: pure functions.
#pragma once

#include <cstdint>

#include "wire/job.h"

namespace tempo {

struct RunLength {
  std::int64_t step_samples = 0;  // of a whole step
  std::int64_t steps_per_epoch = 0;
  std::int64_t steps = 0;    // of the run: the limit of steps counts
  std::int64_t batches = 0;  // of the run
  bool has_full_batches = false;
  std::int64_t rest = 0;  // samples of a smaller batch at the end of an epoch; 0: there is none
};

// Without samples, an epoch counts as one whole step: enough for a plan.
// Preconditions: the ranges of check_job(), samples < 2^31.
RunLength run_length(const JobSpec& spec, std::int64_t samples);

}  // namespace tempo
