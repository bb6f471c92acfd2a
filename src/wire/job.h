// File: wire/job.h
// A job as the client describes it to the enclave (JSON over the job API, docs/openapi.yaml).
// Thread safety: plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace tempo {

enum class JobKind { kTrain, kInfer, kPlan };
enum class OffloadPolicy { kAuto, kAll, kNone };
enum class TamperPolicy { kQuarantine, kAbort };
enum class CheckKind { kUniform, kGaussian, kBinary };
enum class ScheduleKind { kConstant, kStep, kCosine };
enum class ExportForm { kInference, kTraining };
enum class OptimizerKind { kSgd, kAdam, kAdamW };
enum class UpdateMode { kSync, kAsync };
enum class LossKind { kCrossEntropy, kMse, kBce };
// What is cut of linear operators that several workers share.
enum class ParallelismChoice { kAuto, kData, kOutFeatures, kInFeatures };

// A file that belongs to a job, as the client uploaded it: untrusted bytes under a name from
// data_file_names().
struct NamedFile {
  std::string name;
  std::vector<std::byte> bytes;
};

struct ScheduleSpec {
  ScheduleKind kind = ScheduleKind::kConstant;
  double warmup_epochs = 0;  // linear from 0
  int step_epochs = 30;      // kStep: multiply by step_gamma every so many epochs
  double step_gamma = 0.1;
  double final_fraction = 0;  // kCosine: ends at this fraction of the base rate
};

struct OptimizerSpec {
  OptimizerKind kind = OptimizerKind::kSgd;
  double momentum = 0.9;  // kSgd
  double beta1 = 0.9;     // kAdam, kAdamW
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
};

// Patterns are globs (* and ?) on the names of parameters and of the nodes that read them.
struct FreezeSpec {
  std::vector<std::string> freeze;      // not trained
  std::vector<std::string> train_only;  // the only ones that are; empty: all
  bool statistics = false;  // BatchNormalizations whose scale and bias are frozen keep theirs
};

// What the checks of results promise over the whole job.
struct IntegritySpec {
  double t = 1e-6;  // the chance that any wrong result passes
  double e = 0.01;  // how wrong: the error over the root mean square of the result
};

// "in-features" for all operators, or "fc1=in-features" for one.
struct ParallelismRule {
  std::string op;  // name of an operator or of a layer of it; empty: all
  ParallelismChoice choice = ParallelismChoice::kAuto;
};

struct DataSpec {
  std::string format;            // "fashion-mnist", "cifar10", "npy"
  std::vector<float> mean;       // per channel, of values in 0..1 (uint8) or as stored (float32);
  std::vector<float> deviation;  // both empty: computed from the training set
  bool random_crop = false;      // pad 4, crop back
  bool random_flip = false;      // left to right
};

struct JobSpec {
  JobKind kind = JobKind::kTrain;
  bool inference = false;  // kPlan: of predictions, not of training
  // kPlan: bytes a second, each way, between the enclave's host and all workers: predict how long a
  // step takes. 0: do not.
  double link_bytes_per_s = 0;
  std::string scheme = "tempo";  // local, plain, tempo
  OffloadPolicy offload = OffloadPolicy::kAuto;
  std::vector<std::string> parallelism;  // as parse_parallelism_rule() reads them
  TamperPolicy on_tamper = TamperPolicy::kQuarantine;
  DataSpec data;
  std::int64_t batch = 128;
  std::int64_t accumulate = 1;  // batches in a step
  std::int64_t epochs = 1;
  std::int64_t steps = 0;  // 0: no limit besides epochs
  LossKind loss = LossKind::kCrossEntropy;
  double label_smoothing = 0;  // kCrossEntropy
  OptimizerSpec optimizer;
  double learning_rate = 0.05;
  double clip_norm = 0;                   // of the whole gradient; 0: not clipped
  UpdateMode update = UpdateMode::kSync;  // kAsync: the first layer's may come a step late
  FreezeSpec frozen;
  ScheduleSpec schedule;
  std::uint64_t seed = 0;
  int threads = 0;  // 0: as many as there are cores
  // Obfuscation keys: coefficients uniform in {1..key_range}, or log-uniform reals in
  // [1, key_range].
  std::uint32_t key_range = 1024;
  bool key_real = false;
  // Predictions only: the keys of the weights live for the whole job. Not secure.
  bool insecure_key_reuse = false;
  IntegritySpec integrity;
  CheckKind check = CheckKind::kUniform;  // of check vectors; kBinary: the paper's (Theorem V.2)
  std::uint64_t tee_memory_bytes = 0;     // of the enclave; 0: no limit of its own
  // Of the trained model: what training alone has is left out, or as in the file that came.
  ExportForm export_form = ExportForm::kInference;
};

// Every name that a NamedFile may have.
std::span<const std::string_view> data_file_names();
inline constexpr std::size_t kMaxModelInputs = 4;  // a file each, of npy data
// The data formats that DataSpec::format may name.
std::span<const std::string_view> data_formats();

inline constexpr std::size_t kMaxJobJsonBytes = std::size_t{64} * 1024;

// More patterns or rules, and longer ones, are refused.
inline constexpr std::size_t kMaxPatterns = 64;
inline constexpr std::size_t kMaxPatternBytes = 256;

// One JSON object whose keys are the members above, those of `optimizer` and `frozen` among them;
// enums by the names below.
std::string job_to_json(const JobSpec& spec);
// Comes from outside. Keys that are left out keep their defaults; unknown keys, other types and
// values out of range are refused. Error kUsage, `where` = the key ("schedule.kind").
Result<JobSpec> job_from_json(std::string_view text);
// Whether it is about predictions: kInfer, or the plan of it.
bool predicts(const JobSpec& spec);
// Ranges and combinations, as job_from_json() checks them (scheme: only that it looks like a name).
Status check_job(const JobSpec& spec);

std::string_view job_kind_name(JobKind kind);                // train, infer, plan
std::string_view offload_policy_name(OffloadPolicy policy);  // auto, all, none
std::string_view tamper_policy_name(TamperPolicy policy);    // quarantine, abort
std::string_view check_kind_name(CheckKind kind);            // uniform, gaussian, binary
std::string_view schedule_kind_name(ScheduleKind kind);      // constant, step, cosine
std::string_view export_form_name(ExportForm form);          // inference, training
std::string_view optimizer_kind_name(OptimizerKind kind);    // sgd, adam, adamw
std::string_view loss_kind_name(LossKind kind);              // cross-entropy, mse, bce
std::string_view update_mode_name(UpdateMode mode);          // sync, async
// Error kUsage lists the names.
Result<JobKind> parse_job_kind(std::string_view name);
Result<OffloadPolicy> parse_offload_policy(std::string_view name);
Result<TamperPolicy> parse_tamper_policy(std::string_view name);
Result<CheckKind> parse_check_kind(std::string_view name);
Result<ScheduleKind> parse_schedule_kind(std::string_view name);
Result<ExportForm> parse_export_form(std::string_view name);
Result<OptimizerKind> parse_optimizer_kind(std::string_view name);
Result<LossKind> parse_loss_kind(std::string_view name);
Result<UpdateMode> parse_update_mode(std::string_view name);
Result<ParallelismRule> parse_parallelism_rule(std::string_view text);

}  // namespace tempo
