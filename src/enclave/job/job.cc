#include "enclave/job/job.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "enclave/graph/onnx.h"
#include "enclave/job/memory_estimate.h"
#include "enclave/job/plan_report.h"
#include "enclave/job/step_costs.h"
#include "enclave/offload/ring_link.h"
#include "enclave/train/freeze.h"
#include "enclave/train/inference.h"
#include "enclave/train/load.h"
#include "enclave/train/normalisation.h"
#include "enclave/train/npy.h"
#include "enclave/train/optimizer.h"
#include "enclave/train/report.h"
#include "enclave/train/run_length.h"
#include "enclave/train/trainer.h"

namespace tempo {
namespace {

std::uint64_t available_memory() {
  std::ifstream info("/proc/meminfo");
  std::string key;
  std::uint64_t kib = 0;
  std::string unit;
  while (info >> key >> kib) {
    std::getline(info, unit);
    if (key == "MemAvailable:") return kib << 10;
  }
  return 0;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return b <= 0 ? 0 : (a + b - 1) / b;
}

std::uint64_t bytes_of(const std::vector<NamedFile>& files) {
  std::uint64_t bytes = 0;
  for (const NamedFile& file : files) bytes += file.bytes.size();
  return bytes;
}

class Runner final : public JobRunner {
 public:
  Runner(const EnclaveOptions& options, const EnclaveHooks& hooks)
      : options_(options), hooks_(hooks) {}

  Status run(JobInputs inputs, std::atomic<bool>& stop,
             const std::function<void(const Progress&)>& on_progress, JobOutputs& outputs) override;

 private:
  struct Job;

  Result<WorkerLink*> link(const JobSpec& spec, Scheme scheme);
  // Of full batches, of whichever kind the job is about.
  static ExecutorOptions main_options(const Job& job);
  static Result<Plan> main_plan(const Job& job);
  Status make_plan_report(Job& job, JobOutputs& outputs);
  Status refuse_if_too_large(const Job& job);
  Status train(Job& job, std::atomic<bool>& stop,
               const std::function<void(const Progress&)>& on_progress, JobOutputs& outputs);
  Status predict(Job& job, std::atomic<bool>& stop,
                 const std::function<void(const Progress&)>& on_progress, JobOutputs& outputs);

  const EnclaveOptions options_;
  const EnclaveHooks& hooks_;
  std::unique_ptr<RingLink> link_;
};

// Everything that lives as long as one job.
struct Runner::Job {
  JobSpec spec;
  Scheme scheme = Scheme::kLocal;
  OnnxModel model;
  Datasets data;
  std::uint64_t data_bytes = 0;
  ThreadPool pool;
  TimeLedger ledger;
  RunLength length;  // of training
  std::int64_t inference_batches = 0;
  std::int64_t frozen = 0;  // values
  MemoryEstimate memory;
  Report report;
  std::optional<JobEngines> engines;

  explicit Job(JobSpec job_spec, int threads) : spec(std::move(job_spec)), pool(threads) {}
};

// Never more than there are cores, whatever a job asks for.
int thread_count(const JobSpec& spec, const EnclaveOptions& options) {
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int wanted = spec.threads > 0 ? spec.threads : options.threads;
  return wanted > 0 ? std::min(wanted, cores) : cores;
}

Result<WorkerLink*> Runner::link(const JobSpec& spec, Scheme scheme) {
  if (!offloads(scheme) || spec.offload == OffloadPolicy::kNone) return nullptr;
  if (options_.offloader_path.empty()) {
    return Error{ErrorCode::kNoWorker,
                 "this enclave was started without an off-loader",
                 "--offloader",
                 "a Unix socket",
                 "nothing",
                 "start it with --offloader, or use --scheme local"};
  }
  if (link_ != nullptr && link_->is_broken()) link_.reset();
  if (link_ == nullptr) {
    auto attached = RingLink::attach(options_.offloader_path, RingGeometry{});
    if (!attached.ok()) return attached.error();
    link_ = std::move(attached).value();
  }
  return link_.get();
}

Status Runner::refuse_if_too_large(const Job& job) {
  const std::uint64_t needed = job.memory.total();
  std::uint64_t available = available_memory();
  if (available != 0) available += measure_process().resident_bytes;  // part of what is needed
  std::uint64_t limit = job.spec.tee_memory_bytes;
  if (limit == 0 || (available != 0 && available < limit)) limit = available;
  if (limit == 0 || needed <= limit) return {};
  return Error{ErrorCode::kOutOfMemory,
               "the job does not fit into the enclave's memory",
               "",
               std::to_string(needed >> 20) + " MiB",
               std::to_string(limit >> 20) + " MiB",
               "use a smaller --batch"};
}

Progress to_progress(const TrainProgress& p) {
  Progress out;
  out.phase = p.phase == TrainProgress::Phase::kTraining ? "training" : "evaluating";
  out.epoch = p.epoch;
  out.epochs = p.epochs;
  out.step = p.step;
  out.steps = p.total_steps;
  out.loss = p.loss;
  if (p.test) {
    constexpr double kNone = -1;
    out.accuracy = p.test->accuracy.value_or(kNone);
    out.top5_accuracy = p.test->top5_accuracy.value_or(kNone);
    out.mean_absolute_error = p.test->mean_absolute_error.value_or(kNone);
  }
  out.images_per_second = p.images_per_second;
  out.eta_s = p.eta_s;
  out.checks_done = p.checks.done;
  out.checks_failed = p.checks.failed;
  return out;
}

std::string describe(const EngineEvent& event) {
  const std::string who =
      event.worker < 0 ? "the off-loader" : "worker " + std::to_string(event.worker);
  const char* what = " is lost";
  if (event.kind == EngineEvent::Kind::kTampered) {
    what = " returned a wrong result and is not used any more";
  } else if (event.kind == EngineEvent::Kind::kJoined) {
    what = " joined";
  }
  return who + what + (event.operator_name.empty() ? "" : " (at " + event.operator_name + ")") +
         ": " + event.detail;
}

// Tells of the events from number `told` on, which then counts all.
void add_events(const std::vector<EngineEvent>& events, std::size_t& told, Progress& progress) {
  for (; told < events.size(); ++told) {
    const EngineEvent& event = events[told];
    progress.message += (progress.message.empty() ? "" : "; ") + describe(event);
    if (!event.tamper) continue;
    progress.refused.push_back({event.worker, event.operator_name, event.step, *event.tamper});
  }
}

Status Runner::train(Job& job, std::atomic<bool>& stop,
                     const std::function<void(const Progress&)>& on_progress, JobOutputs& outputs) {
  Graph& graph = job.model.graph;
  JobEngines& engines = *job.engines;
  auto normalisation = make_normalisation(job.spec.data, job.data.train, job.pool);
  if (!normalisation.ok()) return normalisation.error();
  auto trainer =
      Trainer::create(graph, job.data, *normalisation, job.spec, engines, job.pool, job.ledger);
  if (!trainer.ok()) return trainer.error();

  const std::vector<std::string> notes = job.model.training_notes();
  std::string warnings = fmt::format("{}", fmt::join(notes, "; "));  // for the first step to tell
  if (const std::string line = integrity_line(*engines.plans().front(), engines.goal());
      !line.empty()) {
    Progress progress;
    progress.phase = "preparing";
    progress.notice = "integrity: " + line;
    on_progress(progress);
  }
  std::size_t told = 0;
  Status status = (*trainer)->run(
      stop,
      [&](const TrainProgress& p) {
        Progress progress = to_progress(p);
        progress.message = std::exchange(warnings, "");
        add_events(engines.events(), told, progress);
        on_progress(progress);
      },
      job.report.training);
  job.report.data = summarise_data(job.spec.data, job.data, *normalisation);
  job.report.engine = engines.stats();
  job.report.offloaded_share = engines.plans().front()->offloaded_share();
  const std::int64_t classes = (*trainer)->classes();
  trainer->reset();  // the graph is whole again: a last Softmax is out of it while training
  malloc_trim(0);    // else what training had is resident beside what export takes
  job.report.model = summarise_model(graph, classes);
  job.report.model.fused = job.model.fused;
  job.report.model.notes = notes;
  job.report.model.frozen = job.frozen;
  if (status.ok() || status.error().code == ErrorCode::kInterrupted) {
    job.model.set_metadata(kMeanMetadata, numbers_text(normalisation->mean));
    job.model.set_metadata(kDeviationMetadata, numbers_text(normalisation->deviation));
    auto file =
        job.model.export_file({.training_form = job.spec.export_form == ExportForm::kTraining});
    if (!file.ok()) return file.error();
    outputs.model = std::move(file).value();
  }
  return status;
}

// What was given, else what the model was trained with, else that of the data.
Result<Normalisation> normalisation_for(const OnnxModel& model, DataSpec spec, const Dataset& data,
                                        ThreadPool& pool) {
  const std::string mean = model.metadata(kMeanMetadata);
  const std::string deviation = model.metadata(kDeviationMetadata);
  const bool is_recorded = spec.mean.empty() && !mean.empty() && !deviation.empty();
  if (is_recorded) {
    auto means = parse_numbers(mean, kMeanMetadata);
    if (!means.ok()) return means.error();
    auto deviations = parse_numbers(deviation, kDeviationMetadata);
    if (!deviations.ok()) return deviations.error();
    spec.mean = std::move(means).value();
    spec.deviation = std::move(deviations).value();
  }
  auto normalisation = make_normalisation(spec, data, pool);
  if (normalisation.ok() && is_recorded) normalisation->origin = "the model";
  return normalisation;
}

Status Runner::predict(Job& job, std::atomic<bool>& stop,
                       const std::function<void(const Progress&)>& on_progress,
                       JobOutputs& outputs) {
  Graph& graph = job.model.graph;
  JobEngines& engines = *job.engines;
  const Dataset& data = job.data.test.empty() ? job.data.train : job.data.test;
  const Dataset& reference = job.data.train.empty() ? data : job.data.train;
  auto normalisation = normalisation_for(job.model, job.spec.data, reference, job.pool);
  if (!normalisation.ok()) return normalisation.error();
  for (std::string& note : job.model.prediction_notes()) {
    job.report.warnings.push_back(std::move(note));
  }
  std::size_t told = 0;
  if (!job.report.warnings.empty()) {
    Progress progress;
    progress.phase = "predicting";
    progress.steps = data.size();
    progress.message = fmt::format("{}", fmt::join(job.report.warnings, "; "));
    on_progress(progress);
  }
  InferOptions options;
  options.batch = job.spec.batch;
  options.cancel = &stop;
  options.on_progress = [&](const InferProgress& p) {
    Progress progress;
    progress.phase = "predicting";
    progress.step = p.samples;
    progress.steps = p.total_samples;
    progress.images_per_second = p.images_per_second;
    progress.batch_s = p.batch_s;
    progress.eta_s = p.eta_s;
    add_events(engines.events(), told, progress);
    progress.checks_done = p.checks.done;
    progress.checks_failed = p.checks.failed;
    on_progress(progress);
  };
  auto predictions = infer(graph, data, *normalisation, options, engines, job.pool, job.ledger);
  job.report.data = summarise_data(job.spec.data, job.data, *normalisation);
  job.report.engine = engines.stats();
  if (!engines.plans().empty()) {
    job.report.offloaded_share = engines.plans().front()->offloaded_share();
  }
  if (!predictions.ok()) return predictions.error();
  job.report.model = summarise_model(graph, predictions->classes);
  job.report.model.fused = job.model.fused;
  outputs.predictions_npy = write_npy(predictions->values, predictions->shape);
  job.report.predictions = std::move(predictions).value();
  return {};
}

// Of the executor that the job is about.
ExecutorOptions Runner::main_options(const Job& job) {
  ExecutorOptions options;
  options.batch = job.spec.batch;
  options.mode = predicts(job.spec) ? StepMode::kInference : StepMode::kTraining;
  options.channel_block = job.engines->channel_block();
  options.defers_weight_gradients = job.engines->defers_weight_gradients();
  return options;
}

Result<Plan> Runner::main_plan(const Job& job) {
  const ExecutorOptions options = main_options(job);
  const auto ops = Executor::linear_ops(job.model.graph, options);
  if (!ops.ok()) return ops.error();
  return job.engines->plan_for(*ops, options.mode);
}

Status Runner::make_plan_report(Job& job, JobOutputs& outputs) {
  const JobEngines& engines = *job.engines;
  const bool trains = !predicts(job.spec);
  const auto plan = main_plan(job);
  if (!plan.ok()) return plan.error();
  const auto shapes = infer_shapes(job.model.graph, job.spec.batch);
  if (!shapes.ok()) return shapes.error();
  PlanSummary summary;
  summary.plan = &*plan;
  summary.scheme = job.scheme;
  summary.batch = job.spec.batch;
  summary.trains = trains;
  summary.accumulate = job.spec.accumulate;
  summary.steps = job.length.steps;
  summary.batches = trains ? job.length.batches : job.inference_batches;
  summary.trained = summarise_model(job.model.graph, 0).parameters;
  summary.frozen = job.frozen;
  summary.optimizer = job.spec.optimizer.kind;
  summary.memory = job.memory;
  summary.goal = engines.goal();
  summary.fused = job.model.fused;
  summary.notes = trains ? job.model.training_notes() : job.model.prediction_notes();
  summary.warnings = job.report.warnings;
  summary.non_linear = non_linear_work(job.model.graph, *shapes);
  if (job.spec.link_bytes_per_s > 0) {
    TEMPO_RETURN_IF_ERROR(refuse_if_too_large(job));
    const auto costs =
        measure_step_costs(job.model.graph, main_options(job), preferred_channel_block(), job.pool);
    if (!costs.ok()) return costs.error();
    const double link = job.spec.link_bytes_per_s;
    summary.times = {link, local_step_s(*costs), offloaded_step_s(*plan, *costs, link),
                     break_even_bandwidth(*plan, *costs)};
  }
  outputs.plan_text = plan_text(summary);
  outputs.plan_json = plan_json(summary);
  return {};
}

Status Runner::run(JobInputs inputs, std::atomic<bool>& stop,
                   const std::function<void(const Progress&)>& on_progress, JobOutputs& outputs) {
  const auto scheme = parse_scheme(inputs.spec.scheme);
  if (!scheme.ok()) return scheme.error();
  Job job(inputs.spec, thread_count(inputs.spec, options_));
  job.scheme = *scheme;
  const JobKind kind = job.spec.kind;

  auto model = OnnxModel::import(inputs.model, {});
  if (!model.ok()) return model.error();
  job.model = std::move(model).value();
  const std::uint64_t model_bytes = inputs.model.size();
  inputs.model = std::vector<std::byte>();  // "= {}" would keep its memory
  if (!predicts(job.spec)) {
    const auto frozen = freeze_parameters(job.model.graph, job.spec.frozen);
    if (!frozen.ok()) return frozen.error();
    job.frozen = *frozen;
  }

  const bool has_data = !inputs.data.empty() || kind != JobKind::kPlan;
  if (has_data) {
    job.data_bytes = bytes_of(inputs.data);
    const TimeScope scope(job.ledger, TimeKind::kData);
    auto data = load_datasets(job.spec.data, std::move(inputs.data));
    if (!data.ok()) return data.error();
    job.data = std::move(data).value();
  }
  const std::int64_t train_samples = job.data.train.size();
  const std::int64_t test_samples =
      predicts(job.spec) && job.data.test.empty() ? train_samples : job.data.test.size();
  job.length = run_length(job.spec, train_samples);
  job.inference_batches = (kind == JobKind::kTrain ? job.spec.epochs : 1) *
                          std::max<std::int64_t>(1, ceil_div(test_samples, job.spec.batch));
  // From now on the ring may be resident, and what is taken off the peak for it be too much for a
  // peak that came before.
  const std::uint64_t loading_peak = measure_process().peak_bytes;
  auto linked = link(job.spec, job.scheme);
  if (!linked.ok()) return linked.error();
  job.engines.emplace(job.spec, job.scheme, *linked, job.length.batches, job.inference_batches,
                      hooks_, job.pool, job.ledger);
  if (!job.spec.parallelism.empty()) {
    const auto plan = main_plan(job);
    if (!plan.ok()) return plan.error();
    TEMPO_RETURN_IF_ERROR(check_parallelism(*plan, job.engines->parallelism()));
  }
  JobSizes sizes{job.length, test_samples, model_bytes, job.data_bytes};
  malloc_trim(0);  // what import had, and no step can use
  sizes.resident_bytes = measure_process().resident_bytes;
  auto memory = estimate_memory(job.model.graph, job.spec, *job.engines, sizes);
  if (!memory.ok()) return memory.error();
  job.memory = *memory;

  if (job.spec.insecure_key_reuse && *linked != nullptr) {
    job.report.warnings.emplace_back(kKeyReuseWarning);
  }

  if (kind == JobKind::kPlan) return make_plan_report(job, outputs);
  TEMPO_RETURN_IF_ERROR(refuse_if_too_large(job));
  Status status = kind == JobKind::kTrain ? train(job, stop, on_progress, outputs)
                                          : predict(job, stop, on_progress, outputs);
  job.report.spec = job.spec;
  job.report.times = job.ledger;
  job.report.process = measure_process();
  job.report.process.peak_bytes = std::max(job.report.process.peak_bytes, loading_peak);
  job.report.planned_bytes = job.memory.total();
  if (!status.ok()) job.report.error = status.error();
  outputs.report_json = report_json(job.report);
  return status;
}

}  // namespace

std::unique_ptr<JobRunner> make_job_runner(const EnclaveOptions& options,
                                           const EnclaveHooks& hooks) {
  return std::make_unique<Runner>(options, hooks);
}

}  // namespace tempo
