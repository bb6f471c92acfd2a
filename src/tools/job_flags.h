// File: tools/job_flags.h
// The flags that train, infer and plan share, and the request that they make.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "tools/run_job.h"
#include "wire/tls_files.h"

namespace CLI {
class App;
}

namespace tempo {

class JobFlags {
 public:
  explicit JobFlags(JobKind kind) { request_.spec.kind = kind; }

  // Model, data, scheme, workers, checks; for kTrain and kPlan also how it is trained.
  void add_to(CLI::App& command);
  // After parsing. Error kUsage for flags that are missing or make no sense together.
  Result<JobRequest> request() const;

 private:
  void add_data_flags(CLI::App& command);
  void add_training_flags(CLI::App& command);
  void add_update_flags(CLI::App& command);
  void add_freeze_flags(CLI::App& command);
  void add_protection_flags(CLI::App& command);
  void add_machine_flags(CLI::App& command);
  Status fill_spec(JobSpec& spec) const;

  JobRequest request_;
  std::string job_file_;
  std::string optimizer_ = "sgd";
  std::string loss_ = "cross-entropy";
  std::string update_ = "sync";
  std::string schedule_ = "constant";
  std::string offload_ = "auto";
  std::string on_tamper_ = "continue";
  std::string workers_ = "local:2";
  TlsFiles worker_tls_;
  std::string export_form_ = "inference";
  std::string tee_memory_ = "0";
  std::vector<std::string> augment_;
  std::vector<float> mean_;
  std::vector<float> deviation_;
};

struct WorkersFlag {
  int local = 0;                    // to be started here
  std::vector<std::string> others;  // for the off-loader
};
// "local:N", "tcp://HOST:PORT", "unix:PATH" and "file:PATH", with commas between them. Error
// kUsage.
Result<WorkersFlag> parse_workers(const std::string& text);

}  // namespace tempo
