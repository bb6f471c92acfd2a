#include "tools/summary.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "enclave/schemes/scheme.h"

namespace tempo {
namespace {

using Json = nlohmann::json;

class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  // "/checks/done"; 0 where it is missing or no number.
  double number(const char* pointer) const {
    const Json* found = find(pointer);
    return found != nullptr && found->is_number() ? found->get<double>() : 0;
  }
  std::uint64_t count(const char* pointer) const {
    const double value = number(pointer);
    return value >= 0 && value < 1e18 ? static_cast<std::uint64_t>(value) : 0;
  }
  std::string text(const char* pointer) const {
    const Json* found = find(pointer);
    return found != nullptr && found->is_string() ? found->get<std::string>() : "";
  }
  const Json* list(const char* pointer) const {
    const Json* found = find(pointer);
    return found != nullptr && found->is_array() && !found->empty() ? found : nullptr;
  }

 private:
  const Json* find(const char* pointer) const {
    const Json::json_pointer path(pointer);
    return json_.contains(path) ? &json_.at(path) : nullptr;
  }
  const Json& json_;
};

void add(std::string& text, const char* label, const std::string& value) {
  text += fmt::format("{:<10} {}\n", label, value);
}

std::string mib(double bytes) {
  return fmt::format("{:.0f} MiB", bytes / (1024.0 * 1024.0));
}

std::string outcome(const JobRequest& request, const JobResult& result, const Reader& report) {
  if (request.spec.kind == JobKind::kInfer) {
    return fmt::format("{} samples predicted", report.count("/predictions/samples"));
  }
  return fmt::format("{} after {} steps, {} images", result.status.ok() ? "trained" : "stopped",
                     report.count("/steps_done"), report.count("/images"));
}

std::string checked(const Reader& report) {
  const std::uint64_t done = report.count("/checks/done");
  if (done == 0) return "no results came from workers, so there was nothing to check";
  std::string text =
      fmt::format("{} results of workers, each with up to {} rounds; {} refused", done,
                  report.count("/checks/rounds"), report.count("/checks/failed"));
  if (const double t = report.number("/soundness/t_reached"); t > 0) {
    text += fmt::format(
        "; one that is off by {:g} of the rms passes anywhere in the job with a chance of {:.1g} "
        "(goal {:g}; weakest: {})",
        report.number("/soundness/e"), t, report.number("/soundness/t"),
        report.text("/soundness/worst/operator"));
  }
  return text;
}

// Workers that were caught or lost, by number.
std::string worker_faults(const Reader& report) {
  std::string text;
  const Json* workers = report.list("/workers");
  if (workers == nullptr) return text;
  for (const Json& entry : *workers) {
    if (!entry.is_object()) continue;
    const Reader worker(entry);
    const std::uint64_t tampered = worker.count("/tampered");
    const bool lost = entry.contains("lost") && entry["lost"] == Json(true);
    if (tampered == 0 && !lost) continue;
    text += fmt::format("{}worker {}{}{}", text.empty() ? "" : "; ", worker.count("/index"),
                        tampered > 0 ? fmt::format(" returned {} wrong result{}", tampered,
                                                   tampered == 1 ? "" : "s")
                                     : "",
                        lost ? " was lost" : "");
  }
  return text;
}

}  // namespace

std::string job_summary(const JobRequest& request, const JobResult& result) {
  std::string text;
  const Json json = Json::parse(result.report_json.value_or("{}"), nullptr, false);
  const Json empty = Json::object();
  const Reader report(json.is_object() ? json : empty);
  add(text, "Result", outcome(request, result, report));
  if (const Json* accuracy = report.list("/accuracy");
      accuracy != nullptr && accuracy->back().is_number()) {
    add(text, "Accuracy",
        fmt::format("{:.2f} % of the {}", 100 * accuracy->back().get<double>(),
                    request.spec.kind == JobKind::kInfer ? "samples" : "test set"));
  }
  if (const Json* top5 = report.list("/top5_accuracy");
      top5 != nullptr && top5->back().is_number()) {
    add(text, "Top 5", fmt::format("{:.2f} % of the test set", 100 * top5->back().get<double>()));
  }
  if (const Json* error = report.list("/mean_absolute_error");
      error != nullptr && error->back().is_number()) {
    add(text, "Error",
        fmt::format("{:.4g} mean absolute, on the test set", error->back().get<double>()));
  }
  add(text, "Speed",
      fmt::format("{:.1f} images/s; enclave {:.1f} CPU s, peak memory {}",
                  report.number("/images_per_second"), report.number("/enclave_cpu_s"),
                  mib(report.number("/peak_enclave_bytes"))));
  if (const double batches = report.number("/predictions/batches"); batches > 0) {
    std::string times =
        fmt::format("first batch {:.1f} ms", 1e3 * report.number("/predictions/first_batch_s"));
    if (batches > 1) {
      times +=
          fmt::format("; of {:.0f} others, the median {:.1f} ms, the 95th percentile {:.1f} ms",
                      batches - 1, 1e3 * report.number("/predictions/median_batch_s"),
                      1e3 * report.number("/predictions/p95_batch_s"));
    }
    add(text, "Latency", times);
  }
  const auto scheme = parse_scheme(request.spec.scheme);
  add(text, "Protected",
      fmt::format("scheme {}: {} (docs/security.md)", request.spec.scheme,
                  scheme ? scheme_statement(*scheme) : ""));
  if (const Json* warnings = report.list("/warnings")) {
    for (const Json& warning : *warnings) {
      if (warning.is_string()) add(text, "Warning", warning.get<std::string>());
    }
  }
  if (const double to_workers = report.number("/bytes/to_workers"); to_workers > 0) {
    const Json* workers = report.list("/workers");
    add(text, "Offloaded",
        fmt::format("{:.1f} % of the multiply-adds; {} to {} workers, {} back",
                    100 * report.number("/offloaded_share"), mib(to_workers),
                    workers != nullptr ? workers->size() : 0,
                    mib(report.number("/bytes/from_workers"))));
  }
  add(text, "Checked", checked(report));
  if (const std::string faults = worker_faults(report); !faults.empty()) {
    add(text, "Caught", faults);
  }
  add(text, "Platform",
      "no hardware enclave is in use: this run simulates one, and the machine's owner sees all");
  if (!request.model_output.empty()) add(text, "Model", request.model_output);
  if (!request.predictions_output.empty() && result.predictions_npy) {
    add(text, "Predicted", request.predictions_output);
  }
  if (!request.report_output.empty()) add(text, "Report", request.report_output);
  return text;
}

}  // namespace tempo
