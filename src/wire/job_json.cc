// JSON <-> JobSpec. One description of the members serves both directions.
#include <cmath>
#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "wire/job.h"

namespace tempo {
namespace {

using Json = nlohmann::json;

// Reads one JSON object; remembers which keys were asked for and the first error.
class ObjectReader {
 public:
  ObjectReader(const Json& object, std::string prefix)
      : object_(object), prefix_(std::move(prefix)) {
    if (!object.is_object()) fail("", "an object", object.type_name());
  }

  void field(const char* key, bool& value) {
    if (const Json* json = find(key, "true or false", &Json::is_boolean)) value = json->get<bool>();
  }
  void field(const char* key, std::string& value) {
    if (const Json* json = find(key, "text", &Json::is_string)) value = json->get<std::string>();
  }
  void field(const char* key, double& value) {
    if (const Json* json = find(key, "a number", &Json::is_number)) value = json->get<double>();
  }
  void field(const char* key, std::vector<float>& value) {
    const Json* json = find(key, "a list of numbers", &Json::is_array);
    if (json == nullptr) return;
    value.clear();
    for (const Json& entry : *json) {
      if (!entry.is_number()) return fail(key, "a list of numbers", entry.type_name());
      value.push_back(static_cast<float>(entry.get<double>()));
    }
  }
  void field(const char* key, std::vector<std::string>& value) {
    const Json* json = find(key, "a list of texts", &Json::is_array);
    if (json == nullptr) return;
    value.clear();
    for (const Json& entry : *json) {
      if (!entry.is_string()) return fail(key, "a list of texts", entry.type_name());
      value.push_back(entry.get<std::string>());
    }
  }
  template <std::integral Int>
  void field(const char* key, Int& value) {
    const Json* json = find(key, "a whole number", &Json::is_number_integer);
    if (json == nullptr) return;
    const bool fits = json->is_number_unsigned() ? std::in_range<Int>(json->get<std::uint64_t>())
                                                 : std::in_range<Int>(json->get<std::int64_t>());
    if (!fits) {
      return fail(key,
                  std::to_string(std::numeric_limits<Int>::min()) + " to " +
                      std::to_string(std::numeric_limits<Int>::max()),
                  json->dump());
    }
    value = json->get<Int>();
  }
  template <class Enum>
  void named(const char* key, Enum& value, std::string_view (*)(Enum),
             Result<Enum> (*parse)(std::string_view)) {
    std::string name;
    if (object_.is_object() && !object_.contains(key)) return asked(key);
    field(key, name);
    if (error_) return;
    if (auto parsed = parse(name)) {
      value = *parsed;
    } else {
      error_ = parsed.error();
    }
  }
  template <class Struct, class Describe>
  void object(const char* key, Struct& value, Describe describe) {
    const Json* json = find(key, "an object", &Json::is_object);
    if (json == nullptr) return;
    ObjectReader reader(*json, prefix_ + key + ".");
    describe(reader, value);
    if (const Status status = reader.finish(); !status.ok()) error_ = status.error();
  }

  // The first error, or one for a key that nobody asked for.
  Status finish() {
    if (!error_) {
      for (const auto& [key, value] : object_.items()) {
        if (!keys_.contains(key)) {
          return Error{ErrorCode::kUsage,
                       "unknown key",
                       prefix_ + key.substr(0, 64),
                       "",
                       "",
                       "docs/openapi.yaml lists the keys of a job"};
        }
      }
      return {};
    }
    return *error_;
  }

 private:
  void asked(const char* key) { keys_.insert(key); }
  void fail(const char* key, std::string expected, const std::string& got) {
    if (error_) return;
    error_ = Error{ErrorCode::kUsage,   "wrong value in a job", prefix_ + key,
                   std::move(expected), got.substr(0, 64),      ""};
  }
  const Json* find(const char* key, const char* expected, bool (Json::*is)() const noexcept) {
    asked(key);
    if (error_ || !object_.is_object()) return nullptr;
    const auto found = object_.find(key);
    if (found == object_.end()) return nullptr;
    if (!((*found).*is)()) {
      fail(key, expected, found->type_name());
      return nullptr;
    }
    return &*found;
  }

  const Json& object_;
  std::string prefix_;
  std::set<std::string, std::less<>> keys_;
  std::optional<Error> error_;
};

class ObjectWriter {
 public:
  explicit ObjectWriter(Json& object) : object_(object) {}
  template <class T>
  void field(const char* key, const T& value) {
    object_[key] = value;
  }
  template <class Enum>
  void named(const char* key, const Enum& value, std::string_view (*name)(Enum),
             Result<Enum> (*)(std::string_view)) {
    object_[key] = name(value);
  }
  template <class Struct, class Describe>
  void object(const char* key, const Struct& value, Describe describe) {
    Json& json = object_[key] = Json::object();
    ObjectWriter writer(json);
    describe(writer, value);
  }

 private:
  Json& object_;
};

template <class Visitor, class Spec>
void describe_data(Visitor& v, Spec& data) {
  v.field("format", data.format);
  v.field("mean", data.mean);
  v.field("deviation", data.deviation);
  v.field("random_crop", data.random_crop);
  v.field("random_flip", data.random_flip);
}

template <class Visitor, class Spec>
void describe_schedule(Visitor& v, Spec& schedule) {
  v.named("kind", schedule.kind, schedule_kind_name, parse_schedule_kind);
  v.field("warmup_epochs", schedule.warmup_epochs);
  v.field("step_epochs", schedule.step_epochs);
  v.field("step_gamma", schedule.step_gamma);
  v.field("final_fraction", schedule.final_fraction);
}

template <class Visitor, class Spec>
void describe_job(Visitor& v, Spec& spec) {
  v.named("kind", spec.kind, job_kind_name, parse_job_kind);
  v.field("inference", spec.inference);
  v.field("link_bytes_per_s", spec.link_bytes_per_s);
  v.field("scheme", spec.scheme);
  v.named("offload", spec.offload, offload_policy_name, parse_offload_policy);
  v.field("parallelism", spec.parallelism);
  v.named("on_tamper", spec.on_tamper, tamper_policy_name, parse_tamper_policy);
  v.object("data", spec.data, [](auto& visitor, auto& data) { describe_data(visitor, data); });
  v.field("batch", spec.batch);
  v.field("accumulate", spec.accumulate);
  v.field("epochs", spec.epochs);
  v.field("steps", spec.steps);
  v.named("loss", spec.loss, loss_kind_name, parse_loss_kind);
  v.field("label_smoothing", spec.label_smoothing);
  v.named("optimizer", spec.optimizer.kind, optimizer_kind_name, parse_optimizer_kind);
  v.field("momentum", spec.optimizer.momentum);
  v.field("beta1", spec.optimizer.beta1);
  v.field("beta2", spec.optimizer.beta2);
  v.field("epsilon", spec.optimizer.epsilon);
  v.field("weight_decay", spec.optimizer.weight_decay);
  v.field("learning_rate", spec.learning_rate);
  v.field("clip_norm", spec.clip_norm);
  v.named("update", spec.update, update_mode_name, parse_update_mode);
  v.field("freeze", spec.frozen.freeze);
  v.field("train_only", spec.frozen.train_only);
  v.field("freeze_statistics", spec.frozen.statistics);
  v.object("schedule", spec.schedule,
           [](auto& visitor, auto& schedule) { describe_schedule(visitor, schedule); });
  v.field("seed", spec.seed);
  v.field("threads", spec.threads);
  v.field("key_range", spec.key_range);
  v.field("key_real", spec.key_real);
  v.field("insecure_key_reuse", spec.insecure_key_reuse);
  v.object("integrity", spec.integrity, [](auto& visitor, auto& integrity) {
    visitor.field("t", integrity.t);
    visitor.field("e", integrity.e);
  });
  v.named("check", spec.check, check_kind_name, parse_check_kind);
  v.field("tee_memory_bytes", spec.tee_memory_bytes);
  v.named("export_form", spec.export_form, export_form_name, parse_export_form);
}

}  // namespace

std::string job_to_json(const JobSpec& spec) {
  Json json = Json::object();
  ObjectWriter writer(json);
  describe_job(writer, spec);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<JobSpec> job_from_json(std::string_view text) {
  if (text.size() > kMaxJobJsonBytes) {
    return Error{ErrorCode::kUsage,
                 "the job's description is too long",
                 "",
                 "at most " + std::to_string(kMaxJobJsonBytes) + " bytes",
                 std::to_string(text.size()),
                 ""};
  }
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return Error{ErrorCode::kUsage, "the job's description is not JSON", "", "", "", ""};
  }
  JobSpec spec;
  ObjectReader reader(json, "");
  describe_job(reader, spec);
  TEMPO_RETURN_IF_ERROR(reader.finish());
  TEMPO_RETURN_IF_ERROR(check_job(spec));
  return spec;
}

}  // namespace tempo
