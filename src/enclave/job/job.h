// File: enclave/job/job.h
// Runs jobs: from ONNX bytes, data files and a spec to a trained model and a report.
#pragma once

#include <memory>

#include "enclave/job/engines.h"
#include "enclave/server/job_runner.h"

namespace tempo {

// The off-loader is attached to once, by the first job that offloads, and kept. `hooks` must
// outlive the runner.
std::unique_ptr<JobRunner> make_job_runner(const EnclaveOptions& options,
                                           const EnclaveHooks& hooks);

}  // namespace tempo
