#include "enclave/server/api.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "enclave/server/fake_runner.h"

namespace tempo {
namespace {

using Json = nlohmann::json;

ApiLimits small_limits() {
  ApiLimits limits;
  limits.jobs = 2;
  limits.model_bytes = 100;
  limits.file_bytes = 200;
  limits.upload_bytes = 250;
  limits.keep_alive_ms = 20;
  limits.events = 8;
  return limits;
}

class ApiTest : public testing::Test {
 protected:
  ApiResponse call(const std::string& method, const std::string& path, std::string_view body = "",
                   const std::string& accept = "") {
    auto admission = api_.admit({method, path, accept, body.size()});
    if (admission.refusal) return std::move(*admission.refusal);
    admission.call.body = to_bytes(body);
    return api_.handle(std::move(admission));
  }
  static std::string text(const ApiResponse& response) {
    const auto body = response.body();
    return {reinterpret_cast<const char*>(body.data()), body.size()};
  }
  static Json json(const ApiResponse& response) { return Json::parse(text(response)); }

  std::string create(const char* spec = R"({"data": {"format": "npy"}})") {
    const ApiResponse response = call("POST", "/v1/jobs", spec);
    EXPECT_EQ(response.status, 201U) << text(response);
    return "/v1/jobs/" + json(response).value("id", "");
  }
  // Runs to the end and returns all event text.
  std::string events(const std::string& job) {
    const ApiResponse response = call("GET", job + "/events");
    EXPECT_EQ(response.content_type, "text/event-stream");
    std::string all;
    std::uint64_t from = 0;
    for (bool ended = false; !ended;) all += api_.next_events(response.events_of, from, ended);
    return all;
  }

  FakeRunner runner_;
  ApiLimits limits_ = small_limits();
  JobStore store_{runner_, limits_};
  Api api_{store_, limits_, R"([{"type": "Relu"}])"};
};

TEST_F(ApiTest, RunsAJobFromUploadToDownload) {
  const std::string job = create();
  EXPECT_EQ(call("PUT", job + "/model", "onnx").status, 200U);
  EXPECT_EQ(call("PUT", job + "/data/x.npy", "values").status, 200U);
  EXPECT_EQ(json(call("GET", job))["state"], "created");
  EXPECT_EQ(call("GET", job + "/report").status, 409U);
  EXPECT_EQ(call("POST", job + "/start").status, 202U);
  const std::string all = events(job);
  EXPECT_NE(all.find("event: progress\ndata: {"), std::string::npos);
  EXPECT_TRUE(all.ends_with("event: done\ndata: {\"state\":\"done\"}\n\n")) << all;
  EXPECT_EQ(json(call("GET", job))["state"], "done");
  EXPECT_EQ(text(call("GET", job + "/model")), "trained:onnx");
  EXPECT_EQ(text(call("GET", job + "/predictions")), "values");
  EXPECT_EQ(json(call("GET", job + "/report"))["checks"]["done"], 7);
  EXPECT_EQ(text(call("GET", job + "/plan")), "conv1 worker\n");
  EXPECT_TRUE(json(call("GET", job + "/plan", "", "application/json")).contains("ops"));
}

TEST_F(ApiTest, AnUploadReplacesTheOneBefore) {
  const std::string job = create();
  call("PUT", job + "/model", std::string(90, 'a'));
  call("PUT", job + "/model", std::string(90, 'b'));
  // 250 bytes in all: without the first model's room there would be none for this.
  EXPECT_EQ(call("PUT", job + "/data/x.npy", std::string(150, 'c')).status, 200U);
  EXPECT_EQ(call("PUT", job + "/data/y.npy", std::string(11, 'd')).status, 507U);
  EXPECT_EQ(call("PUT", job + "/data/x.npy", std::string(11, 'e')).status, 507U)
      << "old and new exist together while the new one arrives";
}

TEST_F(ApiTest, RoomComesBackWithARefusedUpload) {
  const std::string job = create();
  for (int i = 0; i < 5; ++i) {
    auto admission = api_.admit({"PUT", job + "/data/x.npy", "", 200});
    EXPECT_FALSE(admission.refusal);  // and the peer goes away before the body
  }
}

TEST_F(ApiTest, RefusesWhatHasNoRoute) {
  EXPECT_EQ(call("GET", "/").status, 404U);
  EXPECT_EQ(call("GET", "").status, 404U);
  EXPECT_EQ(call("GET", "/v1/jobs/a/b/c/d/e/f/g/h/i").status, 404U);
  EXPECT_EQ(call("GET", "/v1/nothing").status, 404U);
  const ApiResponse wrong = call("DELETE", "/v1/jobs/0/model");
  EXPECT_EQ(wrong.status, 405U);
  EXPECT_EQ(wrong.allow, "PUT, GET");
}

TEST_F(ApiTest, RefusesUnknownJobsAndFiles) {
  EXPECT_EQ(call("GET", "/v1/jobs/0123456789abcdef").status, 404U);
  EXPECT_EQ(call("POST", "/v1/jobs/0123456789abcdef/start").status, 404U);
  EXPECT_EQ(call("PUT", "/v1/jobs/0123456789abcdef/model", "x").status, 404U);
  EXPECT_EQ(call("GET", "/v1/jobs/0123456789abcdef/events").status, 404U);
  EXPECT_EQ(call("PUT", create() + "/data/..%2Fpasswd", "x").status, 404U);
  EXPECT_EQ(call("GET", create() + "/events").status, 409U) << "not started: it would never end";
}

TEST_F(ApiTest, RefusesBadSpecs) {
  const ApiResponse response = call("POST", "/v1/jobs", R"({"data": {"format": "zip"}})");
  EXPECT_EQ(response.status, 400U);
  EXPECT_EQ(json(response)["code"], "usage");
  EXPECT_EQ(json(response)["where"], "data.format");
  EXPECT_EQ(call("POST", "/v1/jobs", R"({"scheme": "magic", "data": {"format": "npy"}})").status,
            400U);
  EXPECT_EQ(call("POST", "/v1/jobs", std::string(kMaxJobJsonBytes + 1, ' ')).status, 413U);
}

TEST_F(ApiTest, RefusesBodiesThatAreTooLarge) {
  const std::string job = create();
  EXPECT_EQ(call("PUT", job + "/model", std::string(101, 'a')).status, 413U);
  EXPECT_EQ(call("PUT", job + "/data/x.npy", std::string(201, 'a')).status, 413U);
  EXPECT_EQ(call("POST", job + "/start", "body").status, 413U);
}

TEST_F(ApiTest, NeedsAModelToStartAndStartsOnce) {
  const std::string job = create();
  EXPECT_EQ(call("POST", job + "/start").status, 409U);
  call("PUT", job + "/model", "m");
  EXPECT_EQ(call("POST", job + "/start").status, 202U);
  EXPECT_EQ(call("POST", job + "/start").status, 409U);
  EXPECT_EQ(call("PUT", job + "/model", "m").status, 409U);
}

TEST_F(ApiTest, AFailureCarriesItsError) {
  const std::string job = create(R"({"seed": 1001, "data": {"format": "npy"}})");
  call("PUT", job + "/model", "m");
  call("POST", job + "/start");
  const std::string all = events(job);
  EXPECT_NE(all.find("event: error\ndata: {\"code\":\"bad_data\""), std::string::npos) << all;
  const Json view = json(call("GET", job));
  EXPECT_EQ(view["state"], "failed");
  EXPECT_EQ(view["error"]["got"], "12");
  EXPECT_EQ(call("GET", job + "/model").status, 404U);
}

TEST_F(ApiTest, AFailureMayStillHaveAReport) {
  const std::string job = create(R"({"seed": 1002, "data": {"format": "npy"}})");
  call("PUT", job + "/model", "m");
  call("POST", job + "/start");
  events(job);
  EXPECT_EQ(call("GET", job + "/report").status, 200U);
}

TEST_F(ApiTest, ARunnerThatThrowsEndsTheJobAlone) {
  const std::string job = create(R"({"seed": 1003, "data": {"format": "npy"}})");
  call("PUT", job + "/model", "m");
  call("POST", job + "/start");
  EXPECT_NE(events(job).find("out_of_memory"), std::string::npos);
  EXPECT_EQ(call("GET", "/v1/health").status, 200U);
}

TEST_F(ApiTest, StopsAJobThatHasNotStarted) {
  const std::string job = create();
  EXPECT_EQ(call("POST", job + "/stop").status, 202U);
  EXPECT_EQ(json(call("GET", job))["state"], "stopped");
  EXPECT_TRUE(events(job).ends_with("event: done\ndata: {\"state\":\"stopped\"}\n\n"));
}

TEST_F(ApiTest, TooManyJobsAreRefusedUntilOneEnds) {
  const std::string first = create();
  create();
  EXPECT_EQ(call("POST", "/v1/jobs", R"({"data": {"format": "npy"}})").status, 507U);
  call("POST", first + "/stop");
  create();
  EXPECT_EQ(call("GET", first).status, 404U);
}

TEST_F(ApiTest, AnswersHealthAndOperators) {
  EXPECT_EQ(json(call("GET", "/v1/health"))["status"], "ok");
  EXPECT_EQ(json(call("GET", "/v1/ops"))[0]["type"], "Relu");
}

}  // namespace
}  // namespace tempo
