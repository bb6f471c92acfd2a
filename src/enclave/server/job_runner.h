// File: enclave/server/job_runner.h
// What the job API runs: one job at a time, from a spec and the client's files to a trained model,
// a report, predictions or a plan. enclave/job implements it.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "wire/job.h"
#include "wire/progress.h"

namespace tempo {

struct JobInputs {
  JobSpec spec;
  std::vector<std::byte> model;  // ONNX; untrusted bytes
  std::vector<NamedFile> data;   // names from data_file_names(), each at most once
};

// Empty where a job has no such thing.
struct JobOutputs {
  std::string report_json;
  std::vector<std::byte> model;            // ONNX, trained
  std::vector<std::byte> predictions_npy;  // kInfer
  std::string plan_text;
  std::string plan_json;
};

class JobRunner {
 public:
  virtual ~JobRunner() = default;

  // Takes the inputs over, so that no second copy of a data set has to exist. Returns soon after
  // `stop` becomes true, with kInterrupted and the outputs so far (the model included). `outputs`
  // may be filled in part after any error (the report of a job that met a cheating worker).
  // on_progress is cheap and may be called from any one thread at a time. May throw bad_alloc.
  virtual Status run(JobInputs inputs, std::atomic<bool>& stop,
                     const std::function<void(const Progress&)>& on_progress,
                     JobOutputs& outputs) = 0;
};

// From the command line of tempo-enclave.
struct EnclaveOptions {
  std::string offloader_path;  // Unix socket of the off-loader; empty: no workers
  int threads = 0;             // where a job does not say; 0: as many as there are cores
};

// Makes the runner of a process; enclave/job has the product's, the lab program another.
using JobRunnerFactory = std::function<std::unique_ptr<JobRunner>(const EnclaveOptions&)>;

}  // namespace tempo
