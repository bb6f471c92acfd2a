// File: tools/job_flags.h
// The flags that train, infer and plan share, and the request that they make.
#pragma once

#include <string>
#include <string_view>
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
  std::string integrity_ = "t=1e-6,e=0.01";
  std::string check_ = "uniform";
  std::string on_tamper_ = "quarantine";
  std::string workers_ = "local:2";
  TlsFiles worker_tls_;
  std::string export_form_ = "inference";
  std::string tee_memory_ = "0";
  std::string link_;
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

// "100MBps", "1.25GBps", "800Mbit", "10Gbit" to bytes a second; powers of 1000. Error kUsage.
Result<double> parse_bandwidth(const std::string& text);

// "t=1e-6,e=0.02" in any order; what is left out keeps its default. Ranges are for check_job().
// Error kUsage.
Result<IntegritySpec> parse_integrity(std::string_view text);

}  // namespace tempo
