#include "tools/job_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <sstream>
#include <string_view>
#include <utility>

#include "enclave/schemes/scheme.h"
#include "tools/daemon.h"
#include "tools/tls_flags.h"
#include "wire/worker_address.h"

namespace tempo {
namespace {

constexpr int kMaxLocalWorkers = 64;

Error missing(const char* flag, const char* what) {
  return {ErrorCode::kUsage,
          std::string("no ") + what,
          flag,
          "",
          "",
          "give it on the command line or in the job file"};
}

std::string scheme_help() {
  std::string help = "how operands are protected:";
  for (const Scheme scheme : {Scheme::kTempo, Scheme::kPlain, Scheme::kLocal}) {
    help += "\n" + std::string(scheme_name(scheme)) + ": " + std::string(scheme_statement(scheme));
  }
  return help;
}

}  // namespace

Result<WorkersFlag> parse_workers(const std::string& text) {
  constexpr std::string_view kLocal = "local:";
  constexpr std::string_view kFile = "file:";
  WorkersFlag workers;
  std::istringstream entries(text + ",");
  for (std::string entry; std::getline(entries, entry, ',');) {
    int count = -1;
    if (entry.starts_with(kLocal)) {
      const char* const end = entry.data() + entry.size();
      const auto [rest, failure] = std::from_chars(entry.data() + kLocal.size(), end, count);
      if (failure != std::errc() || rest != end) count = -1;
    } else if ((entry.starts_with(kFile) && entry.size() > kFile.size()) ||
               parse_worker_address(entry)) {
      workers.others.push_back(entry);
      continue;
    }
    if (count < 0 || workers.local + count > kMaxLocalWorkers) {
      return Error{ErrorCode::kUsage,
                   "not a list of workers",
                   "--workers",
                   "local:N with N from 0 to " + std::to_string(kMaxLocalWorkers) +
                       ", tcp://HOST:PORT, unix:PATH or file:PATH, with commas between them",
                   entry,
                   ""};
    }
    workers.local += count;
  }
  return workers;
}

Result<double> parse_bandwidth(const std::string& text) {
  constexpr std::array<std::pair<std::string_view, double>, 4> kUnits = {
      {{"MBps", 1e6}, {"GBps", 1e9}, {"Mbit", 1e6 / 8}, {"Gbit", 1e9 / 8}}};
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, failure] = std::from_chars(text.data(), end, value);
  const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  for (const auto& [name, bytes] : kUnits) {
    if (failure == std::errc() && unit == name && std::isfinite(value) && value > 0) {
      return value * bytes;
    }
  }
  return Error{ErrorCode::kUsage,
               "not a bandwidth",
               "--link",
               "a number above 0 with MBps, GBps, Mbit or Gbit, such as 100MBps",
               text,
               ""};
}

Result<IntegritySpec> parse_integrity(std::string_view text) {
  IntegritySpec integrity;
  double* t = &integrity.t;  // null once they were given
  double* e = &integrity.e;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view entry = text.substr(begin, end - begin);
    begin = end + 1;
    double* value = nullptr;
    if (entry.starts_with("t=")) value = std::exchange(t, nullptr);
    if (entry.starts_with("e=")) value = std::exchange(e, nullptr);
    const char* const last = entry.data() + entry.size();
    if (value != nullptr) {
      const auto [rest, failure] = std::from_chars(entry.data() + 2, last, *value);
      if (failure == std::errc() && rest == last) continue;
    }
    return Error{
        ErrorCode::kUsage,
        "not an integrity goal",
        "--integrity",
        "t=T,e=E, each once at most",
        std::string(entry.substr(0, 64)),
        "such as t=1e-6,e=0.02: the chance that any wrong result of the job passes, and how "
        "wrong, over the result's rms"};
  }
  return integrity;
}

void JobFlags::add_to(CLI::App& command) {
  command.add_option("--job", job_file_, "read flags from a TOML file; flags override it");
  command.add_option("--model", request_.model_path, "the model, an ONNX file");
  add_data_flags(command);
  if (request_.spec.kind == JobKind::kPlan) {
    command.add_flag("--inference", request_.spec.inference, "plan predictions, not training");
    command.add_option(
        "--link", link_,
        "bandwidth to all workers, each way, such as 100MBps or 10Gbit: measure this "
        "machine for some seconds, and predict how long a step takes");
  }
  if (request_.spec.kind != JobKind::kInfer) add_training_flags(command);
  add_protection_flags(command);
  add_machine_flags(command);
}

void JobFlags::add_data_flags(CLI::App& command) {
  JobSpec& spec = request_.spec;
  command.add_option("--data", request_.data,
                     "fashion-mnist[:DIR], cifar10:DIR or npy:X.npy,Y.npy[,XTEST.npy,YTEST.npy]");
  command
      .add_option(
          "--mean", mean_,
          "of the values by channel, a,b,...; absent: what the model was trained with, or that "
          "of the data")
      ->delimiter(',');
  command.add_option("--std", deviation_, "deviation of the values by channel; with --mean")
      ->delimiter(',');
  command.add_option("--batch", spec.batch, "samples in a batch")->capture_default_str();
}

// A plan knows those that decide how long the job is, what it computes and how much memory it
// takes.
void JobFlags::add_training_flags(CLI::App& command) {
  JobSpec& spec = request_.spec;
  command.add_option("--epochs", spec.epochs, "times through the data")->capture_default_str();
  command.add_option("--steps", spec.steps, "stop after so many updates; 0: do not")
      ->capture_default_str();
  command.add_option("--accumulate", spec.accumulate, "batches in a step, which is one update")
      ->capture_default_str();
  command.add_option("--seed", spec.seed, "of shuffling, augmentation and dropout")
      ->capture_default_str();
  command.add_option("--optimizer", optimizer_, "how weights are updated")
      ->check(CLI::IsMember({"sgd", "adam", "adamw"}))
      ->capture_default_str();
  command.add_option("--momentum", spec.optimizer.momentum, "of sgd")->capture_default_str();
  command
      .add_option("--update", update_,
                  "sync: as plain training; async: that of the first layer a step late when "
                  "workers do it, so that nobody waits for its gradient")
      ->check(CLI::IsMember({"sync", "async"}))
      ->capture_default_str();
  add_freeze_flags(command);
  if (spec.kind == JobKind::kTrain) add_update_flags(command);
}

void JobFlags::add_freeze_flags(CLI::App& command) {
  FreezeSpec& frozen = request_.spec.frozen;
  constexpr int kMax = static_cast<int>(kMaxPatterns);
  command
      .add_option(
          "--freeze", frozen.freeze,
          "do not train the parameters (or those of the nodes) that the pattern names, with "
          "* and ?; may be repeated")
      ->expected(1, kMax);
  command
      .add_option("--train-only", frozen.train_only,
                  "train only what the pattern names; may be repeated")
      ->expected(1, kMax);
  command.add_flag("--freeze-statistics", frozen.statistics,
                   "frozen BatchNormalizations keep their running statistics, and use them");
}

void JobFlags::add_update_flags(CLI::App& command) {
  JobSpec& spec = request_.spec;
  ScheduleSpec& schedule = spec.schedule;
  command.add_option("--augment", augment_, "crop (pad 4, crop back), flip (left to right)")
      ->delimiter(',')
      ->check(CLI::IsMember({"crop", "flip"}));
  command
      .add_option("--loss", loss_,
                  "cross-entropy of classes, mse of values, bce: binary cross-entropy with logits")
      ->check(CLI::IsMember({"cross-entropy", "mse", "bce"}))
      ->capture_default_str();
  command
      .add_option("--label-smoothing", spec.label_smoothing,
                  "cross-entropy: the share that goes to all classes alike")
      ->capture_default_str();
  command.add_option("--lr", spec.learning_rate, "learning rate")->capture_default_str();
  command.add_option("--beta1", spec.optimizer.beta1, "adam, adamw: of the gradient's mean")
      ->capture_default_str();
  command.add_option("--beta2", spec.optimizer.beta2, "adam, adamw: of its square's mean")
      ->capture_default_str();
  command.add_option("--epsilon", spec.optimizer.epsilon, "adam, adamw: added to the divisor")
      ->capture_default_str();
  command.add_option("--weight-decay", spec.optimizer.weight_decay, "of the optimizer")
      ->capture_default_str();
  command
      .add_option("--clip-norm", spec.clip_norm,
                  "largest norm of the gradients of a step together; 0: any")
      ->capture_default_str();
  command.add_option("--schedule", schedule_, "of the learning rate")
      ->check(CLI::IsMember({"constant", "step", "cosine"}))
      ->capture_default_str();
  command.add_option("--warmup-epochs", schedule.warmup_epochs, "linear increase from 0")
      ->capture_default_str();
  command.add_option("--step-epochs", schedule.step_epochs, "step: multiply every so many epochs")
      ->capture_default_str();
  command.add_option("--step-gamma", schedule.step_gamma, "step: by this")->capture_default_str();
  command
      .add_option("--final-fraction", schedule.final_fraction,
                  "cosine: end at this fraction of the rate")
      ->capture_default_str();
  command
      .add_option("--export-form", export_form_,
                  "of the trained model: inference, or training as in the model that came")
      ->check(CLI::IsMember({"inference", "training"}))
      ->capture_default_str();
}

void JobFlags::add_protection_flags(CLI::App& command) {
  JobSpec& spec = request_.spec;
  command.add_option("--scheme", spec.scheme, scheme_help())->capture_default_str();
  command
      .add_option("--offload", offload_,
                  "which linear operators workers do: auto (where it pays), all, none")
      ->check(CLI::IsMember({"auto", "all", "none"}))
      ->capture_default_str();
  command
      .add_option("--parallelism", spec.parallelism,
                  "what workers share of an operator: auto, data (positions), out-features or "
                  "in-features; OPERATOR=... for one alone; may be repeated")
      ->expected(1, static_cast<int>(kMaxPatterns));
  command
      .add_option("--integrity", integrity_,
                  "t=T,e=E: a result that is wrong by E of its rms passes anywhere in the job with "
                  "a chance below T")
      ->capture_default_str();
  command
      .add_option("--check", check_, "vectors that results are checked with; binary: the paper's")
      ->check(CLI::IsMember({"uniform", "gaussian", "binary"}))
      ->capture_default_str();
  command
      .add_option("--on-tamper", on_tamper_,
                  "after a wrong result: quarantine the worker and do the work elsewhere, or abort")
      ->check(CLI::IsMember({"quarantine", "abort"}))
      ->capture_default_str();
  command.add_option("--key-range", spec.key_range, "K: coefficients are drawn from 1 to K")
      ->capture_default_str();
  command.add_flag("--key-real", spec.key_real, "log-uniform reals instead of whole numbers");
  if (spec.kind != JobKind::kTrain) {
    command.add_flag("--insecure-key-reuse", spec.insecure_key_reuse,
                     "predictions: keep the weights' keys for the whole job; faster, and gives "
                     "model and inputs away");
  }
}

void JobFlags::add_machine_flags(CLI::App& command) {
  LocalSystemOptions& local = request_.local;
  command.add_option("--threads", request_.spec.threads, "of the enclave; 0: one a core")
      ->capture_default_str();
  command
      .add_option("--tee-memory", tee_memory_,
                  "of the enclave, in bytes or with K, M, G; 0: what is free")
      ->capture_default_str();
  command.add_option("--master", request_.master,
                     "use a running enclave, unix:PATH, instead of starting one here");
  command
      .add_option(
          "--workers", workers_,
          "local:N starts N worker processes here; tcp://HOST:PORT, unix:PATH and file:PATH "
          "(one address a line, watched) are running ones; with commas between them")
      ->capture_default_str();
  command.add_option("--worker-threads", local.worker_threads, "of each; 0: a fair share of cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command
      .add_option("--worker-memory", local.worker_memory,
                  "limit of each, in bytes or with K, M, G; auto: half of what is free")
      ->capture_default_str();
  add_tls_flags(command, worker_tls_, "--worker-tls");
  command.add_flag("--verbose", local.verbose, "show what the started programs log");
  // CLI11 makes a list of texts of a repeated flag; each is one program.
  command
      .add_option("--worker-program", local.worker_programs,
                  "for tests: a program, with arguments, in place of the next tempo-worker")
      ->expected(1, kMaxLocalWorkers)
      ->group("For tests");
  command
      .add_option("--enclave-program", local.enclave_program,
                  "for tests: a program, with arguments, in place of tempo-enclave")
      ->group("For tests");
  command
      .add_option("--offloader-program", local.offloader_program,
                  "for tests: a program, with arguments, in place of tempo-offloader")
      ->group("For tests");
}

Status JobFlags::fill_spec(JobSpec& spec) const {
  const auto schedule = parse_schedule_kind(schedule_);
  if (!schedule) return schedule.error();
  spec.schedule.kind = *schedule;
  const auto optimizer = parse_optimizer_kind(optimizer_);
  if (!optimizer) return optimizer.error();
  spec.optimizer.kind = *optimizer;
  const auto loss = parse_loss_kind(loss_);
  if (!loss) return loss.error();
  spec.loss = *loss;
  const auto update = parse_update_mode(update_);
  if (!update) return update.error();
  spec.update = *update;
  const auto offload = parse_offload_policy(offload_);
  if (!offload) return offload.error();
  spec.offload = *offload;
  const auto on_tamper = parse_tamper_policy(on_tamper_);
  if (!on_tamper) return on_tamper.error();
  spec.on_tamper = *on_tamper;
  const auto integrity = parse_integrity(integrity_);
  if (!integrity) return integrity.error();
  spec.integrity = *integrity;
  const auto check = parse_check_kind(check_);
  if (!check) return check.error();
  spec.check = *check;
  const auto export_form = parse_export_form(export_form_);
  if (!export_form) return export_form.error();
  spec.export_form = *export_form;
  const auto memory = parse_bytes(tee_memory_);
  if (!memory) return memory.error();
  spec.tee_memory_bytes = *memory;
  if (!link_.empty()) {
    const auto bandwidth = parse_bandwidth(link_);
    if (!bandwidth) return bandwidth.error();
    spec.link_bytes_per_s = *bandwidth;
  }
  spec.data.mean = mean_;
  spec.data.deviation = deviation_;
  for (const std::string& kind : augment_) {
    (kind == "crop" ? spec.data.random_crop : spec.data.random_flip) = true;
  }
  if (const auto scheme = parse_scheme(spec.scheme); !scheme) return scheme.error();
  return {};
}

Result<JobRequest> JobFlags::request() const {
  JobRequest request = request_;
  JobSpec& spec = request.spec;
  TEMPO_RETURN_IF_ERROR(fill_spec(spec));
  if (request.model_path.empty()) return missing("--model", "model");
  if (request.data.empty() && spec.kind != JobKind::kPlan) return missing("--data", "data set");
  const auto workers = parse_workers(workers_);
  if (!workers) return workers.error();
  if (request.local.worker_memory != "auto") {
    if (const auto bytes = parse_bytes(request.local.worker_memory); !bytes) return bytes.error();
  }
  const bool offloads_any =
      *parse_scheme(spec.scheme) != Scheme::kLocal && spec.offload != OffloadPolicy::kNone;
  if (offloads_any && workers->local == 0 && workers->others.empty() && request.master.empty()) {
    return Error{ErrorCode::kNoWorker,
                 "no worker to offload to",
                 "--workers",
                 "at least one, such as local:1, for scheme " + spec.scheme,
                 workers_,
                 "add workers, or use --scheme local or --offload none"};
  }
  if (offloads_any) {
    request.local.workers = workers->local;
    request.local.other_workers = workers->others;
    if (worker_tls_.enabled()) {
      request.local.offloader_flags = {"--tls-cert", worker_tls_.certificate,
                                       "--tls-key",  worker_tls_.key,
                                       "--tls-ca",   worker_tls_.ca};
    }
  }
  request.local.enclave_threads = spec.threads;
  return request;
}

}  // namespace tempo
