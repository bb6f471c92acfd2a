// File: wire/job.h
// A job as the client describes it to the enclave (JSON over the job API, docs/reference.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace tempo {

enum class JobKind { kTrain, kInfer, kPlan };
enum class OffloadPolicy { kAuto, kAll, kNone };
enum class TamperPolicy { kContinue, kAbort };
enum class ScheduleKind { kConstant, kStep, kCosine };

// A file that belongs to a job, as the client uploaded it: untrusted bytes under a name from
// data_file_names().
struct NamedFile {
  std::string name;
  std::vector<std::byte> bytes;
};

struct ScheduleSpec {
  ScheduleKind kind = ScheduleKind::kConstant;
  double warmup_epochs = 0;   // linear from 0
  int step_epochs = 30;       // kStep: multiply by step_gamma every so many epochs
  double step_gamma = 0.1;
  double final_fraction = 0;  // kCosine: ends at this fraction of the base rate
};

struct DataSpec {
  std::string format;         // "fashion-mnist", "cifar10", "npy"
  std::vector<float> mean;    // per channel, of values in 0..1 (uint8) or as stored (float32);
  std::vector<float> deviation;  // both empty: computed from the training set
  bool random_crop = false;   // pad 4, crop back
  bool random_flip = false;   // left to right
};

struct JobSpec {
  JobKind kind = JobKind::kTrain;
  std::string scheme = "tempo";       // local, plain, tempo
  OffloadPolicy offload = OffloadPolicy::kAuto;
  TamperPolicy on_tamper = TamperPolicy::kContinue;
  DataSpec data;
  std::int64_t batch = 128;
  std::int64_t epochs = 1;
  std::int64_t steps = 0;             // 0: no limit besides epochs
  double learning_rate = 0.05;
  double momentum = 0.9;
  double weight_decay = 0;
  ScheduleSpec schedule;
  std::uint64_t seed = 0;
  int threads = 0;                    // 0: as many as there are cores
  // Obfuscation keys: coefficients uniform in {1..key_range}, or log-uniform reals in
  // [1, key_range].
  std::uint32_t key_range = 1024;
  bool key_real = false;
  // Soundness: the chance t that any result with an error of `tamper_size` (in units of the
  // result's rms) passes in the whole job.
  double soundness_t = 1e-6;
  double tamper_size = 0.01;
  bool binary_checks = false;         // the paper's {0,1} vectors (Theorem V.2)
  std::uint64_t memory_limit_bytes = 0;  // of the enclave; 0: no limit of its own
};

}  // namespace tempo
