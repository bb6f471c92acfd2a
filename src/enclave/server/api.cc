#include "enclave/server/api.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "enclave/schemes/scheme.h"
#include "wire/error_json.h"

namespace tempo {
namespace {

using Json = nlohmann::json;

constexpr const char* kText = "text/plain; charset=utf-8";
constexpr const char* kBinary = "application/octet-stream";

unsigned status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kBadModel:
    case ErrorCode::kUnsupportedModel:
    case ErrorCode::kBadData:
      return 422;
    case ErrorCode::kInterrupted:
      return 409;
    case ErrorCode::kNoWorker:
      return 503;
    case ErrorCode::kOutOfMemory:
      return 507;
    default:
      return 500;
  }
}

// A state that does not allow it is the only usage error of the store.
ApiResponse store_error(const Error& error) {
  return error.code == ErrorCode::kUsage ? error_response(409, error) : error_response(error);
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

ApiResponse json_response(const Json& json, unsigned status = 200) {
  ApiResponse response;
  response.status = status;
  response.text = dump(json);
  return response;
}

Json view_json(const JobView& view) {
  Json json = {{"state", job_state_name(view.state)}};
  if (view.error) json["error"] = Json::parse(error_to_json(*view.error));
  if (view.last) json["progress"] = Json::parse(progress_to_json(*view.last));
  return json;
}

ApiResponse output_response(std::shared_ptr<const JobOutputs> outputs,
                            std::span<const std::byte> bytes, const char* content_type,
                            const char* what) {
  if (bytes.empty()) {
    return error_response(
        404, {ErrorCode::kNotFound, std::string("the job made no ") + what, "", "", "", ""});
  }
  ApiResponse response;
  response.content_type = content_type;
  response.outputs = std::move(outputs);
  response.bytes = bytes;
  return response;
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::vector<std::string_view> segments_of(std::string_view path) {
  constexpr std::size_t kMaxSegments = 8;
  std::vector<std::string_view> segments;
  while (!path.empty() && path.front() == '/' && segments.size() < kMaxSegments) {
    path.remove_prefix(1);
    const std::size_t end = std::min(path.find('/'), path.size());
    segments.push_back(path.substr(0, end));
    path.remove_prefix(end);
  }
  if (!path.empty()) segments.clear();
  return segments;
}

// The path's parameters, or nothing when it does not match.
std::optional<std::vector<std::string>> match(std::string_view pattern, std::string_view path) {
  const auto wanted = segments_of(pattern);
  const auto given = segments_of(path);
  if (wanted.size() != given.size()) return std::nullopt;
  std::vector<std::string> parameters;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i].starts_with('{')) {
      parameters.emplace_back(given[i]);
    } else if (wanted[i] != given[i]) {
      return std::nullopt;
    }
  }
  return parameters;
}

std::string printable_path(const std::string& path) {
  return path.substr(0, 200);
}

ApiResponse too_large(std::uint64_t limit, std::uint64_t got) {
  return error_response(413,
                        {ErrorCode::kUsage, "the body is too large", "",
                         "at most " + std::to_string(limit) + " bytes", std::to_string(got), ""});
}

void append_event(std::string& text, std::string_view name, std::string_view data) {
  text.append("event: ").append(name).append("\ndata: ").append(data).append("\n\n");
}

}  // namespace

ApiResponse error_response(unsigned status, const Error& error) {
  ApiResponse response;
  response.status = status;
  response.text = error_to_json(error);
  return response;
}

ApiResponse error_response(const Error& error) {
  return error_response(status_of(error.code), error);
}

std::span<const Api::Route> Api::routes() {
  static constexpr std::array<Route, 13> kRoutes = {{
      {"POST", "/v1/jobs", Body::kJson, &Api::create_job},
      {"PUT", "/v1/jobs/{id}/model", Body::kModel, &Api::put_model},
      {"PUT", "/v1/jobs/{id}/data/{name}", Body::kFile, &Api::put_data},
      {"POST", "/v1/jobs/{id}/start", Body::kNone, &Api::start_job},
      {"POST", "/v1/jobs/{id}/stop", Body::kNone, &Api::stop_job},
      {"GET", "/v1/jobs/{id}", Body::kNone, &Api::get_job},
      {"GET", "/v1/jobs/{id}/events", Body::kNone, &Api::get_events},
      {"GET", "/v1/jobs/{id}/plan", Body::kNone, &Api::get_plan},
      {"GET", "/v1/jobs/{id}/report", Body::kNone, &Api::get_report},
      {"GET", "/v1/jobs/{id}/model", Body::kNone, &Api::get_model},
      {"GET", "/v1/jobs/{id}/predictions", Body::kNone, &Api::get_predictions},
      {"GET", "/v1/ops", Body::kNone, &Api::get_ops},
      {"GET", "/v1/health", Body::kNone, &Api::get_health},
  }};
  return kRoutes;
}

Api::Admission Api::admit(const ApiRequest& request) {
  Admission admission;
  std::string allow;
  for (const Route& route : routes()) {
    auto parameters = match(route.pattern, request.path);
    if (!parameters) continue;
    allow += (allow.empty() ? "" : ", ") + std::string(route.method);
    if (route.method != request.method) continue;
    admission.route = &route;
    admission.call.parameters = std::move(*parameters);
  }
  if (admission.route != nullptr) {
    admission.call.accept = request.accept;
    admission.refusal = check_body(*admission.route, request, admission.call);
  } else if (allow.empty()) {
    admission.refusal =
        error_response(404, {ErrorCode::kNotFound, "no such path", printable_path(request.path),
                             "a path from docs/openapi.yaml", "", ""});
  } else {
    admission.refusal =
        error_response(405, {ErrorCode::kUsage, "the path does not know this method",
                             printable_path(request.path), allow, request.method, ""});
    admission.refusal->allow = allow;
  }
  return admission;
}

std::optional<ApiResponse> Api::check_body(const Route& route, const ApiRequest& request,
                                           Call& call) {
  std::uint64_t limit = 0;
  switch (route.body) {
    case Body::kNone:
      break;
    case Body::kJson:
      limit = kMaxJobJsonBytes;
      break;
    case Body::kModel:
      limit = limits_.model_bytes;
      break;
    case Body::kFile:
      limit = limits_.file_bytes;
      break;
  }
  if (request.body_bytes > limit) return too_large(limit, request.body_bytes);
  if (route.body == Body::kFile) {
    const auto names = data_file_names();
    if (std::find(names.begin(), names.end(), call.parameters[1]) == names.end()) {
      return error_response(
          404, {ErrorCode::kNotFound, "no such data file", printable_path(call.parameters[1]),
                "one of the names in docs/openapi.yaml", "", ""});
    }
  }
  if (route.body == Body::kModel || route.body == Body::kFile) {
    auto room = store_.make_room(call.parameters[0], request.body_bytes);
    if (!room) return store_error(room.error());
    call.room.emplace(std::move(*room));
  }
  return std::nullopt;
}

ApiResponse Api::handle(Admission admission) {
  TEMPO_ASSERT(admission.route != nullptr && !admission.refusal);
  return (this->*admission.route->handle)(admission.call);
}

ApiResponse Api::create_job(Call& call) {
  auto spec = job_from_json({reinterpret_cast<const char*>(call.body.data()), call.body.size()});
  if (!spec) return error_response(spec.error());
  if (auto scheme = parse_scheme(spec->scheme); !scheme) return error_response(scheme.error());
  auto id = store_.create(std::move(*spec));
  if (!id) return error_response(id.error());
  return json_response({{"id", *id}}, 201);
}

ApiResponse Api::put_model(Call& call) {
  const Status status =
      store_.put_model(call.parameters[0], std::move(call.body), std::move(*call.room));
  return status.ok() ? json_response(Json::object()) : store_error(status.error());
}

ApiResponse Api::put_data(Call& call) {
  const Status status = store_.put_data(
      call.parameters[0], {call.parameters[1], std::move(call.body)}, std::move(*call.room));
  return status.ok() ? json_response(Json::object()) : store_error(status.error());
}

ApiResponse Api::start_job(Call& call) {
  const Status status = store_.start(call.parameters[0]);
  return status.ok() ? json_response(Json::object(), 202) : store_error(status.error());
}

ApiResponse Api::stop_job(Call& call) {
  const Status status = store_.stop(call.parameters[0]);
  return status.ok() ? json_response(Json::object(), 202) : store_error(status.error());
}

ApiResponse Api::get_job(Call& call) {
  const auto view = store_.view(call.parameters[0]);
  if (!view) return store_error(view.error());
  return json_response(view_json(*view));
}

ApiResponse Api::get_events(Call& call) {
  const auto view = store_.view(call.parameters[0]);
  if (!view) return store_error(view.error());
  // Such a stream would have no end to wait for, and hold its connection for good.
  if (view->state == JobState::kCreated) {
    return store_error({ErrorCode::kUsage, "the job has not been started", "",
                        "POST /v1/jobs/{id}/start first", "", ""});
  }
  ApiResponse response;
  response.content_type = "text/event-stream";
  response.events_of = call.parameters[0];
  return response;
}

std::string Api::next_events(const std::string& job, std::uint64_t& from, bool& ended) {
  const auto events =
      store_.wait_events(job, from, std::chrono::milliseconds(limits_.keep_alive_ms));
  std::string text;
  ended = false;
  if (!events) {
    append_event(text, "error", error_to_json(events.error()));
    ended = true;
    return text;
  }
  for (const Progress& line : events->lines) {
    append_event(text, "progress", progress_to_json(line));
  }
  from = events->next;
  ended = events->ended;
  if (ended) {
    const bool failed = events->view.state == JobState::kFailed;
    append_event(text, failed ? "error" : "done",
                 failed ? error_to_json(*events->view.error)
                        : dump({{"state", job_state_name(events->view.state)}}));
  }
  if (text.empty()) text = ": waiting\n\n";
  return text;
}

ApiResponse Api::get_plan(Call& call) {
  auto outputs = store_.outputs(call.parameters[0]);
  if (!outputs) return store_error(outputs.error());
  const JobOutputs& o = **outputs;
  if (call.accept.find("application/json") != std::string::npos) {
    return output_response(*outputs, bytes_of(o.plan_json), "application/json", "plan");
  }
  return output_response(*outputs, bytes_of(o.plan_text), kText, "plan");
}

ApiResponse Api::get_report(Call& call) {
  auto outputs = store_.outputs(call.parameters[0]);
  if (!outputs) return store_error(outputs.error());
  return output_response(*outputs, bytes_of((*outputs)->report_json), "application/json", "report");
}

ApiResponse Api::get_model(Call& call) {
  auto outputs = store_.outputs(call.parameters[0]);
  if (!outputs) return store_error(outputs.error());
  return output_response(*outputs, (*outputs)->model, kBinary, "model");
}

ApiResponse Api::get_predictions(Call& call) {
  auto outputs = store_.outputs(call.parameters[0]);
  if (!outputs) return store_error(outputs.error());
  return output_response(*outputs, (*outputs)->predictions_npy, kBinary, "predictions");
}

ApiResponse Api::get_ops(Call&) {
  ApiResponse response;
  response.text = ops_json_;
  return response;
}

ApiResponse Api::get_health(Call&) {
  return json_response({{"status", "ok"}, {"version", TEMPO_VERSION}, {"attestation", "none"}});
}

}  // namespace tempo
