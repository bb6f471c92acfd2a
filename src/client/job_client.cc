#include "client/job_client.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "client/event_stream.h"
#include "wire/error_json.h"

namespace tempo {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kOutputLimit = std::uint64_t{8} << 30;

Error unexpected(const char* what) {
  return {ErrorCode::kProtocol, "the enclave's answer makes no sense", what, "", "", ""};
}

Result<std::string> text_member(const std::string& body, const char* key) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains(key) || !json[key].is_string()) return unexpected(key);
  return json[key].get<std::string>();
}

std::string job_path(const std::string& id, const std::string& rest) {
  return "/v1/jobs/" + id + rest;
}

HttpRequest request(std::string method, std::string path) {
  HttpRequest r;
  r.method = std::move(method);
  r.path = std::move(path);
  return r;
}

}  // namespace

// Errors as Error; what is left is a success.
Result<HttpResponse> JobClient::call(const HttpRequest& r) const {
  auto response = http_.send(r);
  if (!response || response->status < 300) return response;
  if (auto error = error_from_json(response->body)) return std::move(*error);
  return Error{ErrorCode::kProtocol,
               "the enclave refused a request",
               r.path,
               "",
               "HTTP status " + std::to_string(response->status),
               ""};
}

Result<std::string> JobClient::health() const {
  const auto response = call(request("GET", "/v1/health"));
  if (!response) return response.error();
  return text_member(response->body, "version");
}

Result<std::string> JobClient::create(const JobSpec& spec) const {
  const std::string json = job_to_json(spec);
  HttpRequest r = request("POST", "/v1/jobs");
  r.content_type = "application/json";
  r.body = std::as_bytes(std::span(json));
  const auto response = call(r);
  if (!response) return response.error();
  auto id = text_member(response->body, "id");
  if (!id) return id;
  // It becomes part of paths.
  if (id->empty() || id->size() > 64 ||
      id->find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz-") != std::string::npos) {
    return unexpected("id");
  }
  return id;
}

Status JobClient::put_model(const std::string& id, std::span<const std::byte> bytes) const {
  HttpRequest r = request("PUT", job_path(id, "/model"));
  r.content_type = "application/octet-stream";
  r.body = bytes;
  const auto response = call(r);
  return response ? Status() : response.error();
}

Status JobClient::put_data(const std::string& id, const std::string& name,
                           std::span<const std::byte> bytes) const {
  HttpRequest r = request("PUT", job_path(id, "/data/" + name));
  r.content_type = "application/octet-stream";
  r.body = bytes;
  const auto response = call(r);
  return response ? Status() : response.error();
}

Status JobClient::start(const std::string& id) const {
  const auto response = call(request("POST", job_path(id, "/start")));
  return response ? Status() : response.error();
}

Status JobClient::stop(const std::string& id) const {
  const auto response = call(request("POST", job_path(id, "/stop")));
  return response ? Status() : response.error();
}

Status JobClient::follow(const std::string& id,
                         const std::function<void(const Progress&)>& on_progress,
                         const std::function<bool()>& on_wake) const {
  std::optional<Status> end;
  Status broken;
  const auto on_event = [&](const std::string& name, const std::string& data) {
    if (name == "progress") {
      if (const auto progress = progress_from_json(data)) on_progress(*progress);
    } else if (name == "done") {
      const auto state = text_member(data, "state");
      const bool stopped = state && *state == "stopped";
      end = stopped ? Status(Error{ErrorCode::kInterrupted, "stopped", "", "", "", ""}) : Status();
    } else if (name == "error") {
      end = error_from_json(data).value_or(unexpected("events"));
    }
  };
  EventStreamParser parser;
  const auto response = http_.stream(
      job_path(id, "/events"),
      [&](std::string_view text) {
        broken = parser.feed(text, on_event);
        return broken.ok() && !end;
      },
      on_wake);
  if (end) return std::move(*end);
  if (!response) return response.error();
  if (!broken.ok()) return broken;
  if (response->status != 200) {
    return error_from_json(response->body).value_or(unexpected("events"));
  }
  return Error{ErrorCode::kInterrupted, "interrupted", "", "", "", ""};
}

Result<std::optional<std::string>> JobClient::fetch(const std::string& id, Output output) const {
  HttpRequest r = request("GET", "");
  r.response_limit_bytes = kOutputLimit;
  switch (output) {
    case Output::kModel:
      r.path = job_path(id, "/model");
      break;
    case Output::kReport:
      r.path = job_path(id, "/report");
      break;
    case Output::kPredictions:
      r.path = job_path(id, "/predictions");
      break;
    case Output::kPlanText:
      r.path = job_path(id, "/plan");
      r.accept = "text/plain";
      break;
    case Output::kPlanJson:
      r.path = job_path(id, "/plan");
      break;
  }
  auto response = http_.send(r);
  if (!response) return response.error();
  if (response->status == 404) return std::optional<std::string>();
  if (response->status != 200) {
    return error_from_json(response->body).value_or(unexpected("output"));
  }
  return std::optional(std::move(response->body));
}

}  // namespace tempo
