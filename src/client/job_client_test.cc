// The client against the real server, with a runner that only moves bytes.
#include "client/job_client.h"

#include <gtest/gtest.h>

#include "client/interrupt.h"
#include "client/temporary_directory.h"
#include "enclave/server/fake_runner.h"
#include "enclave/server/http_server.h"

namespace tempo {
namespace {

class JobClientTest : public testing::Test {
 protected:
  static ApiLimits limits() {
    ApiLimits limits;
    limits.model_bytes = 4 << 20;
    limits.keep_alive_ms = 20;
    return limits;
  }
  void SetUp() override {
    auto server = HttpServer::start(directory_.file("api.sock"), api_, limits());
    ASSERT_TRUE(server.ok());
    server_ = std::move(*server);
  }
  void TearDown() override { store_.shut_down(std::chrono::seconds(10)); }

  JobSpec spec(std::int64_t steps, std::uint64_t seed = 0) {
    JobSpec spec;
    spec.data.format = "npy";
    spec.steps = steps;
    spec.seed = seed;
    return spec;
  }
  std::string started_job(const JobSpec& spec) {
    const auto id = client_.create(spec);
    EXPECT_TRUE(id.ok()) << id.error().one_line();
    EXPECT_TRUE(client_.put_model(*id, to_bytes("model")).ok());
    EXPECT_TRUE(client_.start(*id).ok());
    return *id;
  }
  Status follow(const std::string& id) {
    return client_.follow(
        id, [&](const Progress& p) { steps_seen_.push_back(p.step); }, [] { return true; });
  }

  TemporaryDirectory directory_;
  FakeRunner runner_{1};
  JobStore store_{runner_, limits()};
  Api api_{store_, limits(), "[]"};
  std::unique_ptr<HttpServer> server_;
  Event wake_;
  JobClient client_{HttpClient(directory_.file("api.sock"), wake_.fd())};
  std::vector<std::int64_t> steps_seen_;
};

TEST_F(JobClientTest, RunsAJob) {
  EXPECT_TRUE(client_.health().ok());
  const auto id = client_.create(spec(5));
  ASSERT_TRUE(id.ok()) << id.error().one_line();
  const std::vector<std::byte> model(3 << 20, std::byte{'m'});
  ASSERT_TRUE(client_.put_model(*id, model).ok());
  ASSERT_TRUE(client_.put_data(*id, "x.npy", to_bytes("values")).ok());
  ASSERT_TRUE(client_.start(*id).ok());
  EXPECT_TRUE(follow(*id).ok());
  EXPECT_EQ(steps_seen_, (std::vector<std::int64_t>{1, 2, 3, 4, 5}));
  const auto trained = client_.fetch(*id, JobClient::Output::kModel);
  ASSERT_TRUE(trained.ok());
  EXPECT_EQ((*trained)->size(), model.size() + 8);
  EXPECT_EQ(**client_.fetch(*id, JobClient::Output::kPredictions), "values");
  EXPECT_EQ(**client_.fetch(*id, JobClient::Output::kPlanText), "conv1 worker\n");
  EXPECT_EQ(**client_.fetch(*id, JobClient::Output::kPlanJson), R"({"ops": []})");
}

TEST_F(JobClientTest, ErrorsOfTheEnclaveComeThrough) {
  const Status status = follow(started_job(spec(1, FakeRunner::kFailingSeed)));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kBadData);
  EXPECT_EQ(status.error().where, "y.npy");
  EXPECT_EQ(status.error().got, "12");
  EXPECT_EQ(client_.start("0").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(client_.create(JobSpec()).error().where, "data.format");
}

TEST_F(JobClientTest, ARefusedUploadIsAnErrorAndNotABrokenPipe) {
  const auto id = client_.create(spec(1));
  const std::vector<std::byte> large(64 << 20);
  const Status status = client_.put_model(*id, large);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().what, "the body is too large");
}

TEST_F(JobClientTest, WakingStopsTheJobAndItsEndIsAwaited) {
  const std::string id = started_job(spec(1'000'000));
  int wakes = 0;
  const Status status = client_.follow(
      id,
      [&](const Progress& p) {
        if (p.step == 3) wake_.raise();
      },
      [&] {
        wake_.clear();
        ++wakes;
        EXPECT_TRUE(client_.stop(id).ok());
        return true;
      });
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kInterrupted);
  EXPECT_EQ(wakes, 1);
  EXPECT_TRUE(client_.fetch(id, JobClient::Output::kModel)->has_value());
}

TEST_F(JobClientTest, WakingMayLeave) {
  const std::string id = started_job(spec(1'000'000));
  wake_.raise();
  const Status status = client_.follow(
      id, [](const Progress&) {}, [] { return false; });
  EXPECT_EQ(status.error().code, ErrorCode::kInterrupted);
  EXPECT_EQ(client_.stop(id).error().code, ErrorCode::kInterrupted) << "the wake is not cleared";
  wake_.clear();
  EXPECT_TRUE(client_.stop(id).ok());
}

TEST_F(JobClientTest, AnEnclaveThatIsGoneIsAnError) {
  const std::string id = started_job(spec(1'000'000));
  const Status status = client_.follow(
      id,
      [&](const Progress& p) {
        if (p.step == 3) server_.reset();
      },
      [] { return true; });
  EXPECT_EQ(status.error().code, ErrorCode::kProtocol);
  EXPECT_EQ(client_.health().error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace tempo
