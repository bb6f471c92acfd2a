// File: enclave/server/api.h
// The job API's routes, without a socket: a request's line first, to be admitted or refused before
// its body is read, then the body; a response out. The HTTP server reads and writes them;
// docs/openapi.yaml describes them and a test compares the two.
// Thread safety: all members of Api, from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "enclave/server/job_store.h"
#include "enclave/server/limits.h"

namespace tempo {

struct ApiRequest {
  std::string method;
  std::string path;    // without a query
  std::string accept;  // the Accept header
  std::uint64_t body_bytes = 0;
};

struct ApiResponse {
  unsigned status = 200;
  std::string content_type = "application/json";
  std::string text;
  // Where `outputs` is set, the body is `bytes` and lies in it.
  std::shared_ptr<const JobOutputs> outputs;
  std::span<const std::byte> bytes;
  std::string allow;      // 405 only: the methods that the path knows
  std::string events_of;  // this job's event stream follows instead of a body

  std::span<const std::byte> body() const {
    return outputs ? bytes : std::as_bytes(std::span(text));
  }
};

ApiResponse error_response(unsigned status, const Error& error);
// With the status that fits the error's code.
ApiResponse error_response(const Error& error);

class Api {
 public:
  enum class Body { kNone, kJson, kModel, kFile };

  // One admitted request on its way to its handler.
  struct Call {
    std::vector<std::string> parameters;  // of the path, in order
    std::string accept;
    std::optional<JobStore::Room> room;  // for an upload
    std::vector<std::byte> body;
  };

  struct Route {
    std::string_view method;
    std::string_view pattern;  // "/v1/jobs/{id}/data/{name}"
    Body body;
    ApiResponse (Api::*handle)(Call& call);
  };
  static std::span<const Route> routes();

  struct Admission {
    const Route* route = nullptr;
    Call call;
    std::optional<ApiResponse> refusal;  // then the body must not be read
  };

  // `store` outlives the Api. `ops_json` is what GET /v1/ops answers.
  Api(JobStore& store, const ApiLimits& limits, std::string ops_json)
      : store_(store), limits_(limits), ops_json_(std::move(ops_json)) {}

  Admission admit(const ApiRequest& request);
  // Precondition: not refused; call.body holds as many bytes as were announced.
  ApiResponse handle(Admission admission);

  // Events from line `from` on (which moves on) as text/event-stream, waiting for them a while; a
  // comment when there is nothing new. `ended` becomes true with the last one.
  std::string next_events(const std::string& job, std::uint64_t& from, bool& ended);

 private:
  ApiResponse create_job(Call& call);
  ApiResponse put_model(Call& call);
  ApiResponse put_data(Call& call);
  ApiResponse start_job(Call& call);
  ApiResponse stop_job(Call& call);
  ApiResponse get_job(Call& call);
  ApiResponse get_events(Call& call);
  ApiResponse get_plan(Call& call);
  ApiResponse get_report(Call& call);
  ApiResponse get_model(Call& call);
  ApiResponse get_predictions(Call& call);
  ApiResponse get_ops(Call& call);
  ApiResponse get_health(Call& call);

  std::optional<ApiResponse> check_body(const Route& route, const ApiRequest& request, Call& call);

  JobStore& store_;
  const ApiLimits limits_;
  const std::string ops_json_;
};

}  // namespace tempo
