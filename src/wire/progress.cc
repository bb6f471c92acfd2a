#include "wire/progress.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace tempo {
namespace {

using Json = nlohmann::ordered_json;

void read(const Json& json, const char* key, std::string& value) {
  constexpr std::size_t kMaxBytes = 4096;
  const auto found = json.find(key);
  if (found != json.end() && found->is_string()) {
    value = found->get<std::string>().substr(0, kMaxBytes);
  }
}

void read(const Json& json, const char* key, double& value) {
  const auto found = json.find(key);
  if (found != json.end() && found->is_number()) value = found->get<double>();
}

template <std::integral Int>
void read(const Json& json, const char* key, Int& value) {
  const auto found = json.find(key);
  if (found != json.end() && found->is_number_unsigned()) {
    const auto number = found->get<std::uint64_t>();
    if (std::in_range<Int>(number)) value = static_cast<Int>(number);
  }
}

// JSON has no NaN: null stands for it, and the reader keeps its default.
Json finite(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

}  // namespace

std::string progress_to_json(const Progress& p) {
  Json json = {{"phase", p.phase},
               {"epoch", p.epoch},
               {"epochs", p.epochs},
               {"step", p.step},
               {"steps", p.steps},
               {"loss", finite(p.loss)},
               {"accuracy", finite(p.accuracy)},
               {"top5_accuracy", finite(p.top5_accuracy)},
               {"mean_absolute_error", finite(p.mean_absolute_error)},
               {"images_per_second", finite(p.images_per_second)},
               {"batch_s", finite(p.batch_s)},
               {"eta_s", finite(p.eta_s)},
               {"checks_done", p.checks_done},
               {"checks_failed", p.checks_failed}};
  if (!p.notice.empty()) json["notice"] = p.notice;
  if (!p.message.empty()) json["message"] = p.message;
  for (const RefusedResult& refused : p.refused) {
    Json entry = {
        {"worker", refused.worker}, {"operator", refused.operator_name}, {"step", refused.step}};
    add_tamper(refused.tamper, entry);
    json["refused"].push_back(std::move(entry));
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<Progress> progress_from_json(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return std::nullopt;
  Progress p;
  read(json, "phase", p.phase);
  read(json, "epoch", p.epoch);
  read(json, "epochs", p.epochs);
  read(json, "step", p.step);
  read(json, "steps", p.steps);
  read(json, "loss", p.loss);
  read(json, "accuracy", p.accuracy);
  read(json, "top5_accuracy", p.top5_accuracy);
  read(json, "mean_absolute_error", p.mean_absolute_error);
  read(json, "images_per_second", p.images_per_second);
  read(json, "batch_s", p.batch_s);
  read(json, "eta_s", p.eta_s);
  read(json, "checks_done", p.checks_done);
  read(json, "checks_failed", p.checks_failed);
  read(json, "notice", p.notice);
  read(json, "message", p.message);
  return p;
}

}  // namespace tempo
