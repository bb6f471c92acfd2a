#include "enclave/train/run_length.h"

#include <algorithm>

namespace tempo {

RunLength run_length(const JobSpec& spec, std::int64_t samples) {
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  RunLength length;
  length.step_samples = spec.batch * spec.accumulate;
  if (samples == 0) samples = length.step_samples;
  const std::int64_t epochs = std::max<std::int64_t>(spec.epochs, 1);
  length.steps_per_epoch = ceil_div(samples, length.step_samples);
  length.steps = length.steps_per_epoch * epochs;
  if (spec.steps > 0) length.steps = std::min(length.steps, spec.steps);
  // The steps of an epoch that is not finished are whole ones.
  length.batches = length.steps / length.steps_per_epoch * ceil_div(samples, spec.batch) +
                   length.steps % length.steps_per_epoch * spec.accumulate;
  length.has_full_batches = samples >= spec.batch;
  const bool ends_an_epoch = length.steps >= length.steps_per_epoch;
  length.rest = ends_an_epoch ? samples % spec.batch : 0;
  return length;
}

}  // namespace tempo
