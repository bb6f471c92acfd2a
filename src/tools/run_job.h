// File: tools/run_job.h
// One job from files to files: a Tempo of its own (or a running one), upload, progress, download.
#pragma once

#include <optional>
#include <string>

#include "base/error.h"
#include "client/local_system.h"
#include "wire/job.h"

namespace tempo {

struct JobRequest {
  JobSpec spec;
  std::string model_path;
  std::string data;          // SPEC of client/data_files.h; may be empty for kPlan
  std::string model_output;  // where outputs go; empty: not wanted
  std::string predictions_output;
  std::string report_output;
  std::string master;  // unix:PATH of a running enclave's API; empty: start one
  LocalSystemOptions local;
};

struct JobResult {
  // kInterrupted when the user stopped it: the outputs so far are there.
  Status status;
  std::optional<std::string> report_json;
  std::optional<std::string> predictions_npy;
  std::optional<std::string> plan_text;
  std::optional<std::string> plan_json;
};

// Checks spec, inputs and output paths before anything starts; shows progress on stderr; writes the
// output files. SIGINT, SIGTERM and SIGHUP stop the job and keep what there is; a second one ends
// everything at once. An error means that there is no result; a report may have been written.
Result<JobResult> run_job(const JobRequest& request);

}  // namespace tempo
