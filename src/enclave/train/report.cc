#include "enclave/train/report.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>

namespace tempo {
namespace {

using Json = nlohmann::ordered_json;

// Text that a worker or a model file may have chosen.
std::string printable(std::string_view text) {
  constexpr std::size_t kMaxChars = 200;
  std::string out;
  for (const char c : text.substr(0, kMaxChars)) {
    const auto byte = static_cast<unsigned char>(c);
    out.push_back(byte < 0x20 || byte >= 0x7F ? '?' : c);
  }
  return out;
}

std::string_view outcome(const Report& report) {
  if (!report.error) return "complete";
  return report.error->code == ErrorCode::kInterrupted ? "interrupted" : "failed";
}

Json error_json(const std::optional<Error>& error) {
  if (!error) return nullptr;
  return {{"code", error_code_name(error->code)}, {"message", printable(error->one_line())}};
}

Json model_json(const ModelSummary& model) {
  Json notes = Json::array();
  for (const std::string& note : model.notes) notes.push_back(note);
  return {{"name", printable(model.name)}, {"opset", model.opset},
          {"nodes", model.nodes},          {"parameters", model.parameters},
          {"frozen", model.frozen},        {"input", shape_to_string(model.input)},
          {"classes", model.classes},      {"fused", Json(model.fused)},
          {"notes", std::move(notes)}};
}

Json data_json(const DataSummary& data, const DataSpec& spec) {
  return {{"format", printable(data.format)},
          {"train_samples", data.train_samples},
          {"test_samples", data.test_samples},
          {"sample_shape", data.shape.to_string()},
          {"type", value_type_name(data.type)},
          {"mean", data.normalisation.mean},
          {"deviation", data.normalisation.deviation},
          {"normalisation_from", printable(data.normalisation.origin)},
          {"random_crop", spec.random_crop},
          {"random_flip", spec.random_flip}};
}

Json optimizer_json(const JobSpec& spec) {
  const OptimizerSpec& optimizer = spec.optimizer;
  Json json = {{"name", optimizer_kind_name(optimizer.kind)},
               {"learning_rate", spec.learning_rate}};
  if (optimizer.kind == OptimizerKind::kSgd) {
    json["momentum"] = optimizer.momentum;
  } else {
    json["beta1"] = optimizer.beta1;
    json["beta2"] = optimizer.beta2;
    json["epsilon"] = optimizer.epsilon;
  }
  json["weight_decay"] = optimizer.weight_decay;
  json["clip_norm"] = spec.clip_norm;
  json["update"] = update_mode_name(spec.update);
  json["schedule"] = {{"name", schedule_kind_name(spec.schedule.kind)},
                      {"warmup_epochs", spec.schedule.warmup_epochs},
                      {"step_epochs", spec.schedule.step_epochs},
                      {"step_gamma", spec.schedule.step_gamma},
                      {"final_fraction", spec.schedule.final_fraction}};
  return json;
}

Json times_json(const Report& report) {
  Json times = Json::object();
  for (std::size_t i = 0; i < static_cast<std::size_t>(TimeKind::kCount); ++i) {
    const auto kind = static_cast<TimeKind>(i);
    times[std::string(time_kind_name(kind))] = report.times.seconds(kind);
  }
  times["worker_gemm"] = report.engine.worker_gemm_s;
  times["transfer"] = report.transfer_s ? Json(*report.transfer_s) : Json(nullptr);
  return times;
}

Json workers_json(const EngineStats& engine) {
  Json workers = Json::array();
  for (std::size_t i = 0; i < engine.workers.size(); ++i) {
    const WorkerStats& worker = engine.workers[i];
    workers.push_back({{"index", i},
                       {"device", printable(worker.device)},
                       {"tasks", worker.tasks},
                       {"products", worker.products},
                       {"tampered", worker.tampered},
                       {"multiply_adds", worker.multiply_adds},
                       {"lost", worker.lost}});
  }
  return workers;
}

const char* kind_name(EngineEvent::Kind kind) {
  switch (kind) {
    case EngineEvent::Kind::kTampered:
      return "tampered";
    case EngineEvent::Kind::kLost:
      return "lost";
    case EngineEvent::Kind::kJoined:
      return "joined";
  }
  return "";
}

Json events_json(const EngineStats& engine) {
  Json events = Json::array();
  for (const EngineEvent& event : engine.events) {
    Json& entry = events.emplace_back();
    entry = {{"kind", kind_name(event.kind)},
             {"worker", event.worker >= 0 ? Json(event.worker) : Json(nullptr)},
             {"operator", printable(event.operator_name)},
             {"detail", printable(event.detail)},
             {"step", event.step}};
    if (event.tamper) add_tamper(*event.tamper, entry);
  }
  return events;
}

Json product_json(const ProductSoundness& product) {
  return {{"operator", printable(product.operator_name)},
          {"product", printable(product.product)},
          {"rounds", product.rounds},
          {"tolerance_over_rms", product.tolerance_over_rms},
          {"checks", product.checks},
          {"miss", product.miss}};
}

Json soundness_json(const Report& report) {
  const EngineStats& engine = report.engine;
  Json operators = Json::array();
  for (const ProductSoundness& product : engine.soundness) {
    operators.push_back(product_json(product));
  }
  const auto worst = std::max_element(
      engine.soundness.begin(), engine.soundness.end(),
      [](const ProductSoundness& a, const ProductSoundness& b) { return a.miss < b.miss; });
  const bool checked = engine.checks_done > 0;
  return {{"t", report.spec.integrity.t},
          {"e", report.spec.integrity.e},
          {"check", check_kind_name(report.spec.check)},
          {"on_tamper", tamper_policy_name(report.spec.on_tamper)},
          {"checks_planned", engine.checks_planned},
          {"checks_done", engine.checks_done},
          {"t_reached", checked ? Json(engine.soundness_reached) : Json(nullptr)},
          {"worst", worst != engine.soundness.end() ? product_json(*worst) : Json(nullptr)},
          {"operators", std::move(operators)}};
}

// One figure of every set of metrics that has it.
Json figures(const std::vector<Metrics>& all, std::optional<double> Metrics::*figure) {
  Json list = Json::array();
  for (const Metrics& metrics : all) {
    if (metrics.*figure) list.push_back(*(metrics.*figure));
  }
  return list;
}

// The lists of a run. A prediction has at most one accuracy and no loss.
void add_results(const Report& report, Json& json) {
  const TrainingHistory& training = report.training;
  json["loss"] = training.loss;
  json["accuracy"] = figures(training.test, &Metrics::accuracy);
  if (report.predictions) {
    if (report.predictions->accuracy) json["accuracy"].push_back(*report.predictions->accuracy);
    json["predictions"] = {{"samples", report.predictions->samples},
                           {"classes", report.predictions->classes},
                           {"seconds", report.predictions->seconds},
                           {"batches", report.predictions->times.batches},
                           {"first_batch_s", report.predictions->times.first_s},
                           {"median_batch_s", report.predictions->times.median_s},
                           {"p95_batch_s", report.predictions->times.p95_s}};
    return;
  }
  json["top5_accuracy"] = figures(training.test, &Metrics::top5_accuracy);
  json["mean_absolute_error"] = figures(training.test, &Metrics::mean_absolute_error);
  json["test_loss"] = Json::array();
  for (const Metrics& metrics : training.test) json["test_loss"].push_back(metrics.loss);
  json["train_accuracy"] = figures(training.train, &Metrics::accuracy);
  json["train_top5_accuracy"] = figures(training.train, &Metrics::top5_accuracy);
  json["train_mean_absolute_error"] = figures(training.train, &Metrics::mean_absolute_error);
  json["epochs_done"] = training.epochs_done;
  json["steps_done"] = training.loss.size();
  json["images"] = training.images;
  json["train_s"] = training.train_seconds;
  json["evaluate_s"] = training.evaluate_seconds;
}

}  // namespace

ModelSummary summarise_model(const Graph& graph, std::int64_t classes) {
  ModelSummary summary;
  summary.name = graph.name;
  summary.opset = graph.opset;
  summary.nodes = static_cast<std::int64_t>(graph.nodes.size());
  for (const Tensor& tensor : graph.tensors) {
    if (tensor.kind == TensorKind::kParameter) {
      summary.parameters += static_cast<std::int64_t>(tensor.floats.size());
    }
  }
  if (!graph.inputs.empty()) {
    summary.input = graph.tensors[static_cast<std::size_t>(graph.inputs[0])].declared;
  }
  summary.classes = classes;
  return summary;
}

DataSummary summarise_data(const DataSpec& spec, const Datasets& data,
                           const Normalisation& normalisation) {
  const Dataset& any = data.train.empty() ? data.test : data.train;
  return {spec.format, data.train.size(), data.test.size(), any.shape(), any.type(), normalisation};
}

ProcessFigures measure_process() {
  ProcessFigures figures;
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    const auto seconds = [](const timeval& time) {
      return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    figures.cpu_s = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
  // getrusage's ru_maxrss survives execve and so may tell of the parent; VmHWM does not.
  if (std::FILE* status = std::fopen("/proc/self/status", "r")) {
    char line[256];
    unsigned long long kib = 0, peak = 0, now = 0, shared = 0;
    while (std::fgets(line, sizeof(line), status) != nullptr) {
      if (std::sscanf(line, "VmHWM: %llu kB", &kib) == 1) peak = kib;
      if (std::sscanf(line, "VmRSS: %llu kB", &kib) == 1) now = kib;
      if (std::sscanf(line, "RssShmem: %llu kB", &kib) == 1) shared = kib;
    }
    std::fclose(status);
    figures.resident_bytes = (now - std::min(shared, now)) * 1024;
    figures.peak_bytes = (peak - std::min(shared, peak)) * 1024;
  }
  return figures;
}

double images_per_second(const Report& report) {
  if (report.predictions) {
    const Predictions& predictions = *report.predictions;
    return predictions.seconds > 0 ? static_cast<double>(predictions.samples) / predictions.seconds
                                   : 0;
  }
  const TrainingHistory& training = report.training;
  return training.train_seconds > 0 ? static_cast<double>(training.images) / training.train_seconds
                                    : 0;
}

std::string report_json(const Report& report) {
  const JobSpec& spec = report.spec;
  Json json;
  json["schema"] = kReportSchema;
  json["kind"] = job_kind_name(spec.kind);
  json["outcome"] = outcome(report);
  json["error"] = error_json(report.error);
  json["scheme"] = printable(spec.scheme);
  json["offload"] = offload_policy_name(spec.offload);
  json["parallelism"] = spec.parallelism;
  json["model"] = model_json(report.model);
  json["data"] = data_json(report.data, spec.data);
  json["seeds"] = {{"job", spec.seed}};
  json["batch"] = spec.batch;
  if (spec.kind == JobKind::kTrain) {
    json["epochs"] = spec.epochs;
    json["steps_limit"] = spec.steps;
    json["accumulate"] = spec.accumulate;
    json["loss_function"] = {{"name", loss_kind_name(spec.loss)},
                             {"label_smoothing", spec.label_smoothing}};
    json["optimizer"] = optimizer_json(spec);
    json["export_form"] = export_form_name(spec.export_form);
  }
  add_results(report, json);
  json["images_per_second"] = images_per_second(report);
  json["enclave_cpu_s"] = report.process.cpu_s;
  json["time_s"] = times_json(report);
  json["bytes"] = {{"to_workers", report.engine.bytes_to_workers},
                   {"from_workers", report.engine.bytes_from_workers}};
  json["offloaded_share"] = report.offloaded_share;
  json["checks"] = {{"done", report.engine.checks_done},
                    {"failed", report.engine.checks_failed},
                    {"rounds", report.engine.rounds}};
  json["peak_enclave_bytes"] = report.process.peak_bytes;
  json["planned_enclave_bytes"] = report.planned_bytes;
  json["keys"] = {
      {"range", spec.key_range}, {"real", spec.key_real}, {"reused", spec.insecure_key_reuse}};
  json["warnings"] = report.warnings;
  json["soundness"] = soundness_json(report);
  json["workers"] = workers_json(report.engine);
  json["events"] = events_json(report.engine);
  json["events_dropped"] = report.engine.events_dropped;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace tempo
