#include "enclave/train/run_length.h"

#include <gtest/gtest.h>

namespace tempo {
namespace {

JobSpec spec_of(std::int64_t batch, std::int64_t accumulate, std::int64_t epochs,
                std::int64_t steps) {
  JobSpec spec;
  spec.batch = batch;
  spec.accumulate = accumulate;
  spec.epochs = epochs;
  spec.steps = steps;
  return spec;
}

// Counts what the loop of an epoch would do, one sample at a time.
RunLength counted(const JobSpec& spec, std::int64_t samples) {
  RunLength length;
  bool limited = false;
  for (std::int64_t e = 0; e < spec.epochs && !limited; ++e) {
    std::int64_t in_step = 0;
    for (std::int64_t s = 0; s < samples && !limited; ++s) {
      const std::int64_t left = samples - s + in_step % spec.batch;
      if (in_step % spec.batch == 0) {
        ++length.batches;
        if (left < spec.batch) length.rest = left;
        if (left >= spec.batch) length.has_full_batches = true;
      }
      ++in_step;
      if (in_step < spec.batch * spec.accumulate && s + 1 < samples) continue;
      in_step = 0;
      ++length.steps;
      limited = length.steps == spec.steps;
    }
  }
  return length;
}

TEST(RunLength, CountsStepsBatchesAndTheRest) {
  for (const std::int64_t samples : {1, 5, 8, 23, 24, 25}) {
    for (const std::int64_t accumulate : {1, 2, 3}) {
      for (const std::int64_t limit : {0, 1, 2, 3, 7, 100}) {
        const JobSpec spec = spec_of(4, accumulate, 3, limit);
        const RunLength want = counted(spec, samples);
        const RunLength got = run_length(spec, samples);
        SCOPED_TRACE(std::to_string(samples) + " samples, " + std::to_string(accumulate) +
                     " batches a step, limit " + std::to_string(limit));
        EXPECT_EQ(got.steps, want.steps);
        EXPECT_EQ(got.batches, want.batches);
        EXPECT_EQ(got.rest, want.rest);
        EXPECT_EQ(got.has_full_batches, want.has_full_batches);
        EXPECT_EQ(got.step_samples, 4 * accumulate);
      }
    }
  }
}

TEST(RunLength, OfAPlanWithoutData) {
  const RunLength length = run_length(spec_of(32, 4, 3, 0), 0);
  EXPECT_EQ(length.steps, 3);
  EXPECT_EQ(length.batches, 12);
  EXPECT_TRUE(length.has_full_batches);
  EXPECT_EQ(length.rest, 0);
}

}  // namespace
}  // namespace tempo
