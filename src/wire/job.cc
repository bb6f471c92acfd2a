#include "wire/job.h"

#include <array>
#include <cstdio>

namespace tempo {
namespace {

constexpr std::array<std::string_view, 20> kDataFileNames = {
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
    "x.npy",
    "y.npy",
    "x_test.npy",
    "y_test.npy",
    "x2.npy",
    "x2_test.npy",
    "x3.npy",
    "x3_test.npy",
    "x4.npy",
    "x4_test.npy",
};

constexpr std::array<std::string_view, 3> kDataFormats = {"fashion-mnist", "cifar10", "npy"};

template <class Enum>
struct Named {
  Enum value;
  std::string_view name;
};

constexpr std::array<Named<JobKind>, 3> kJobKinds = {{
    {JobKind::kTrain, "train"},
    {JobKind::kInfer, "infer"},
    {JobKind::kPlan, "plan"},
}};
constexpr std::array<Named<OffloadPolicy>, 3> kOffloadPolicies = {{
    {OffloadPolicy::kAuto, "auto"},
    {OffloadPolicy::kAll, "all"},
    {OffloadPolicy::kNone, "none"},
}};
constexpr std::array<Named<TamperPolicy>, 2> kTamperPolicies = {{
    {TamperPolicy::kQuarantine, "quarantine"},
    {TamperPolicy::kAbort, "abort"},
}};
constexpr std::array<Named<CheckKind>, 3> kCheckKinds = {{
    {CheckKind::kUniform, "uniform"},
    {CheckKind::kGaussian, "gaussian"},
    {CheckKind::kBinary, "binary"},
}};
constexpr std::array<Named<ScheduleKind>, 3> kScheduleKinds = {{
    {ScheduleKind::kConstant, "constant"},
    {ScheduleKind::kStep, "step"},
    {ScheduleKind::kCosine, "cosine"},
}};
constexpr std::array<Named<ExportForm>, 2> kExportForms = {{
    {ExportForm::kInference, "inference"},
    {ExportForm::kTraining, "training"},
}};
constexpr std::array<Named<OptimizerKind>, 3> kOptimizerKinds = {{
    {OptimizerKind::kSgd, "sgd"},
    {OptimizerKind::kAdam, "adam"},
    {OptimizerKind::kAdamW, "adamw"},
}};
constexpr std::array<Named<LossKind>, 3> kLossKinds = {{
    {LossKind::kCrossEntropy, "cross-entropy"},
    {LossKind::kMse, "mse"},
    {LossKind::kBce, "bce"},
}};
constexpr std::array<Named<UpdateMode>, 2> kUpdateModes = {{
    {UpdateMode::kSync, "sync"},
    {UpdateMode::kAsync, "async"},
}};

constexpr std::array<Named<ParallelismChoice>, 4> kParallelismChoices = {{
    {ParallelismChoice::kAuto, "auto"},
    {ParallelismChoice::kData, "data"},
    {ParallelismChoice::kOutFeatures, "out-features"},
    {ParallelismChoice::kInFeatures, "in-features"},
}};

template <class Enum, std::size_t N>
std::string_view name_of(const std::array<Named<Enum>, N>& table, Enum value) {
  for (const auto& entry : table) {
    if (entry.value == value) return entry.name;
  }
  return table.front().name;
}

template <class Enum, std::size_t N>
Result<Enum> value_of(const std::array<Named<Enum>, N>& table, const char* where,
                      std::string_view name) {
  std::string known;
  for (const auto& entry : table) {
    if (entry.name == name) return entry.value;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  return Error{ErrorCode::kUsage,
               "unknown value",
               where,
               "one of " + known,
               std::string(name.substr(0, 64)),
               ""};
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

Status out_of_range(const char* where, std::string expected, std::string got) {
  return Error{ErrorCode::kUsage,   "value out of range", where,
               std::move(expected), std::move(got),       ""};
}

Status check_integer(const char* where, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return {};
  return out_of_range(where, std::to_string(low) + " to " + std::to_string(high),
                      std::to_string(value));
}

// Refuses NaN as well.
Status check_real(const char* where, double value, double low, double high) {
  if (value >= low && value <= high) return {};
  return out_of_range(where, number_text(low) + " to " + number_text(high), number_text(value));
}

Status check_data(const DataSpec& data, JobKind kind) {
  bool known = data.format.empty() && kind == JobKind::kPlan;
  std::string names;
  for (const std::string_view format : kDataFormats) {
    known = known || data.format == format;
    names += (names.empty() ? "" : ", ") + std::string(format);
  }
  if (!known) {
    return Error{ErrorCode::kUsage, "unknown data format",     "data.format",
                 "one of " + names, data.format.substr(0, 64), ""};
  }
  constexpr std::size_t kMaxChannels = 4096;
  if (data.mean.size() != data.deviation.size() || data.mean.size() > kMaxChannels) {
    return out_of_range(
        "data.mean", "as many means as deviations, at most 4096",
        std::to_string(data.mean.size()) + " and " + std::to_string(data.deviation.size()));
  }
  for (const float mean : data.mean) {
    TEMPO_RETURN_IF_ERROR(check_real("data.mean", mean, -1e6, 1e6));
  }
  for (const float deviation : data.deviation) {
    TEMPO_RETURN_IF_ERROR(check_real("data.deviation", deviation, 1e-12, 1e6));
  }
  return {};
}

Status check_scheme_text(const std::string& scheme) {
  bool fits = !scheme.empty() && scheme.size() <= 32;
  for (const char c : scheme) fits = fits && c >= 'a' && c <= 'z';
  if (fits) return {};
  return Error{ErrorCode::kUsage,       "not the name of a scheme", "scheme",
               "local, plain or tempo", scheme.substr(0, 64),       ""};
}

Status check_schedule(const ScheduleSpec& schedule) {
  TEMPO_RETURN_IF_ERROR(check_real("schedule.warmup_epochs", schedule.warmup_epochs, 0, 1e6));
  TEMPO_RETURN_IF_ERROR(check_integer("schedule.step_epochs", schedule.step_epochs, 1, 1'000'000));
  TEMPO_RETURN_IF_ERROR(check_real("schedule.step_gamma", schedule.step_gamma, 1e-12, 1));
  return check_real("schedule.final_fraction", schedule.final_fraction, 0, 1);
}

Status check_optimizer(const OptimizerSpec& optimizer) {
  constexpr double kBelowOne = 1 - 1e-9;  // a beta of 1 would divide by zero
  TEMPO_RETURN_IF_ERROR(check_real("momentum", optimizer.momentum, 0, 1));
  TEMPO_RETURN_IF_ERROR(check_real("beta1", optimizer.beta1, 0, kBelowOne));
  TEMPO_RETURN_IF_ERROR(check_real("beta2", optimizer.beta2, 0, kBelowOne));
  TEMPO_RETURN_IF_ERROR(check_real("epsilon", optimizer.epsilon, 1e-30, 1));
  return check_real("weight_decay", optimizer.weight_decay, 0, 1e3);
}

Status check_integrity(const IntegritySpec& integrity) {
  TEMPO_RETURN_IF_ERROR(check_real("integrity.t", integrity.t, 1e-30, 0.5));
  return check_real("integrity.e", integrity.e, 1e-6, 1e6);
}

Status check_loss(const JobSpec& spec) {
  TEMPO_RETURN_IF_ERROR(check_real("label_smoothing", spec.label_smoothing, 0, 1));
  if (spec.label_smoothing == 0 || spec.loss == LossKind::kCrossEntropy) return {};
  return Error{ErrorCode::kUsage,
               "only cross-entropy knows label smoothing",
               "label_smoothing",
               "0",
               number_text(spec.label_smoothing),
               ""};
}

Status check_link(const JobSpec& spec) {
  TEMPO_RETURN_IF_ERROR(check_real("link_bytes_per_s", spec.link_bytes_per_s, 0, 1e15));
  if (spec.link_bytes_per_s == 0 || spec.kind == JobKind::kPlan) return {};
  return Error{ErrorCode::kUsage,
               "only a plan predicts step times",
               "link_bytes_per_s",
               "0",
               number_text(spec.link_bytes_per_s),
               ""};
}

// An update that waits for all gradients of a step cannot leave one for the next.
Status check_update(const JobSpec& spec) {
  if (spec.update == UpdateMode::kSync || (spec.clip_norm == 0 && spec.accumulate == 1)) return {};
  const bool clips = spec.clip_norm != 0;
  return Error{ErrorCode::kUsage,
               "a late update goes with neither clipping nor several batches in a step",
               "update",
               "sync",
               std::string("async, and ") + (clips ? "clip_norm" : "accumulate") + " " +
                   (clips ? number_text(spec.clip_norm) : std::to_string(spec.accumulate)),
               "leave out one of them"};
}

// In training, two steps under the same keys give the model away outright.
Status check_key_reuse(const JobSpec& spec) {
  if (!spec.insecure_key_reuse || predicts(spec)) return {};
  return Error{ErrorCode::kUsage,
               "training draws new keys for every batch",
               "insecure_key_reuse",
               "false",
               "true",
               "only predictions may reuse keys"};
}

Status check_patterns(const char* where, const std::vector<std::string>& patterns) {
  if (patterns.size() > kMaxPatterns) {
    return out_of_range(where, "at most " + std::to_string(kMaxPatterns) + " patterns",
                        std::to_string(patterns.size()));
  }
  for (const std::string& pattern : patterns) {
    if (!pattern.empty() && pattern.size() <= kMaxPatternBytes) continue;
    return out_of_range(where, "1 to " + std::to_string(kMaxPatternBytes) + " bytes a pattern",
                        std::to_string(pattern.size()));
  }
  return {};
}

Status check_parallelism(const std::vector<std::string>& rules) {
  if (rules.size() > kMaxPatterns) {
    return out_of_range("parallelism", "at most " + std::to_string(kMaxPatterns) + " rules",
                        std::to_string(rules.size()));
  }
  for (const std::string& rule : rules) {
    if (const auto parsed = parse_parallelism_rule(rule); !parsed.ok()) return parsed.error();
  }
  return {};
}

}  // namespace

std::span<const std::string_view> data_file_names() {
  return kDataFileNames;
}
std::span<const std::string_view> data_formats() {
  return kDataFormats;
}

bool predicts(const JobSpec& spec) {
  return spec.kind == JobKind::kInfer || (spec.kind == JobKind::kPlan && spec.inference);
}

std::string_view job_kind_name(JobKind kind) {
  return name_of(kJobKinds, kind);
}
std::string_view offload_policy_name(OffloadPolicy policy) {
  return name_of(kOffloadPolicies, policy);
}
std::string_view tamper_policy_name(TamperPolicy policy) {
  return name_of(kTamperPolicies, policy);
}
std::string_view check_kind_name(CheckKind kind) {
  return name_of(kCheckKinds, kind);
}
std::string_view schedule_kind_name(ScheduleKind kind) {
  return name_of(kScheduleKinds, kind);
}
std::string_view export_form_name(ExportForm form) {
  return name_of(kExportForms, form);
}
std::string_view optimizer_kind_name(OptimizerKind kind) {
  return name_of(kOptimizerKinds, kind);
}
std::string_view loss_kind_name(LossKind kind) {
  return name_of(kLossKinds, kind);
}
std::string_view update_mode_name(UpdateMode mode) {
  return name_of(kUpdateModes, mode);
}

Result<JobKind> parse_job_kind(std::string_view name) {
  return value_of(kJobKinds, "kind", name);
}
Result<OffloadPolicy> parse_offload_policy(std::string_view name) {
  return value_of(kOffloadPolicies, "offload", name);
}
Result<TamperPolicy> parse_tamper_policy(std::string_view name) {
  return value_of(kTamperPolicies, "on_tamper", name);
}
Result<CheckKind> parse_check_kind(std::string_view name) {
  return value_of(kCheckKinds, "check", name);
}
Result<ScheduleKind> parse_schedule_kind(std::string_view name) {
  return value_of(kScheduleKinds, "schedule.kind", name);
}
Result<ExportForm> parse_export_form(std::string_view name) {
  return value_of(kExportForms, "export_form", name);
}
Result<OptimizerKind> parse_optimizer_kind(std::string_view name) {
  return value_of(kOptimizerKinds, "optimizer", name);
}
Result<LossKind> parse_loss_kind(std::string_view name) {
  return value_of(kLossKinds, "loss", name);
}
Result<UpdateMode> parse_update_mode(std::string_view name) {
  return value_of(kUpdateModes, "update", name);
}

// A name may contain "="; a choice does not.
Result<ParallelismRule> parse_parallelism_rule(std::string_view text) {
  ParallelismRule rule;
  const std::size_t equals = text.rfind('=');
  if (equals != std::string_view::npos) {
    rule.op = text.substr(0, equals);
    if (rule.op.empty() || rule.op.size() > kMaxPatternBytes) {
      return out_of_range("parallelism",
                          "the name of an operator, 1 to " + std::to_string(kMaxPatternBytes) +
                              " bytes, before the \"=\"",
                          std::to_string(rule.op.size()))
          .error();
    }
    text.remove_prefix(equals + 1);
  }
  const auto choice = value_of(kParallelismChoices, "parallelism", text);
  if (!choice.ok()) return choice.error();
  rule.choice = *choice;
  return rule;
}

Status check_job(const JobSpec& spec) {
  TEMPO_RETURN_IF_ERROR(check_scheme_text(spec.scheme));
  TEMPO_RETURN_IF_ERROR(check_parallelism(spec.parallelism));
  TEMPO_RETURN_IF_ERROR(check_data(spec.data, spec.kind));
  TEMPO_RETURN_IF_ERROR(check_schedule(spec.schedule));
  TEMPO_RETURN_IF_ERROR(check_optimizer(spec.optimizer));
  TEMPO_RETURN_IF_ERROR(check_loss(spec));
  TEMPO_RETURN_IF_ERROR(check_link(spec));
  TEMPO_RETURN_IF_ERROR(check_integer("batch", spec.batch, 1, 65'536));
  TEMPO_RETURN_IF_ERROR(check_integer("accumulate", spec.accumulate, 1, 65'536));
  TEMPO_RETURN_IF_ERROR(check_integer("epochs", spec.epochs, 0, 1'000'000));
  TEMPO_RETURN_IF_ERROR(check_integer("steps", spec.steps, 0, 1'000'000'000));
  TEMPO_RETURN_IF_ERROR(check_real("learning_rate", spec.learning_rate, 0, 1e6));
  TEMPO_RETURN_IF_ERROR(check_real("clip_norm", spec.clip_norm, 0, 1e6));
  TEMPO_RETURN_IF_ERROR(check_update(spec));
  TEMPO_RETURN_IF_ERROR(check_patterns("freeze", spec.frozen.freeze));
  TEMPO_RETURN_IF_ERROR(check_patterns("train_only", spec.frozen.train_only));
  TEMPO_RETURN_IF_ERROR(check_integer("threads", spec.threads, 0, 1024));
  // Above 2^24 an integer coefficient is no longer exact in single precision.
  TEMPO_RETURN_IF_ERROR(check_integer("key_range", spec.key_range, 1, 1 << 24));
  TEMPO_RETURN_IF_ERROR(check_key_reuse(spec));
  return check_integrity(spec.integrity);
}

}  // namespace tempo
