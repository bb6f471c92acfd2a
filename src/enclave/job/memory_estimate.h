// File: enclave/job/memory_estimate.h
// The enclave's peak memory, known before a job starts. Counted is what a TEE has to hold: not the
// ring, which is shared with the off-loader and lies outside.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "enclave/graph/graph.h"
#include "enclave/job/engines.h"
#include "enclave/train/run_length.h"
#include "wire/job.h"

namespace tempo {

// Bytes of enclave memory by what they are for. Their sum is the peak.
struct MemoryEstimate {
  std::uint64_t activations = 0;  // arenas of all executors
  std::uint64_t parameters = 0;   // weights, gradients, late ones twice
  std::uint64_t optimizer = 0;    // the optimiser's state
  std::uint64_t engine = 0;       // keys and check sums
  std::uint64_t scratch = 0;      // of linear operators inside
  std::uint64_t data = 0;         // samples and predictions; 0 when planning without data
  std::uint64_t model_file = 0;   // what reading or writing the model takes above a step
  std::uint64_t program = 0;      // code, libraries, threads
  std::uint64_t total() const {
    return activations + parameters + optimizer + engine + scratch + data + model_file + program;
  }
};

// What the estimate has to know besides graph and spec.
struct JobSizes {
  RunLength length;               // of training
  std::int64_t test_samples = 0;  // those to predict, for JobKind::kInfer
  std::uint64_t model_bytes = 0;  // of the ONNX file
  std::uint64_t data_bytes = 0;   // of samples and labels
  // Of this process with graph and data (ProcessFigures::resident_bytes); 0: unknown.
  std::uint64_t resident_bytes = 0;
};

// Errors: those of make_step_plan and of the planner.
Result<MemoryEstimate> estimate_memory(const Graph& graph, const JobSpec& spec,
                                       const JobEngines& engines, const JobSizes& sizes);

}  // namespace tempo
