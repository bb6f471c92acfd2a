// The server as bytes on a socket: what HTTP clients send, and what they should not.
#include "enclave/server/http_server.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/error.hpp>
#include <string>

#include "enclave/server/fake_runner.h"
#include "wire/deadline_stream.h"

namespace tempo {
namespace {

ApiLimits test_limits() {
  ApiLimits limits;
  limits.connections = 4;
  limits.header_ms = 200;
  limits.body_ms = 200;
  limits.idle_ms = 5000;
  limits.keep_alive_ms = 20;
  limits.model_bytes = 8 << 20;
  return limits;
}

class HttpServerTest : public testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/tempo-test-XXXXXX";
    ASSERT_NE(::mkdtemp(directory), nullptr);
    directory_ = directory;
  }
  void start() {
    auto server = HttpServer::start(path(), api_, limits_);
    ASSERT_TRUE(server.ok()) << server.error().one_line();
    server_ = std::move(*server);
  }
  void TearDown() override {
    store_.shut_down(std::chrono::seconds(10));
    server_.reset();
    EXPECT_NE(::access(path().c_str(), F_OK), 0) << "the socket's file is still there";
    ::rmdir(directory_.c_str());
  }
  std::string path() const { return directory_ + "/api.sock"; }

  DeadlineStream connect() {
    DeadlineStream stream(connect_unix(path()));
    stream.set_deadline(deadline_in_ms(20'000));
    return stream;
  }
  static void send(DeadlineStream& stream, std::string_view text) {
    boost::system::error_code ec;
    while (!text.empty() && !ec) {
      text.remove_prefix(
          stream.write_some(boost::asio::const_buffer(text.data(), text.size()), ec));
    }
  }
  // Everything until the server closes.
  static std::string read_all(DeadlineStream& stream) {
    std::string all;
    char chunk[4096];
    boost::system::error_code ec;
    while (!ec) {
      const std::size_t got =
          stream.read_some(boost::asio::mutable_buffer(chunk, sizeof(chunk)), ec);
      all.append(chunk, got);
    }
    EXPECT_NE(ec, boost::asio::error::timed_out) << "the server did not close";
    return all;
  }
  std::string exchange(std::string_view request) {
    DeadlineStream stream = connect();
    send(stream, request);
    return read_all(stream);
  }
  std::string create_job() {
    const std::string spec = R"({"data": {"format": "npy"}, "steps": 3})";
    const std::string answer =
        exchange("POST /v1/jobs HTTP/1.1\r\nConnection: close\r\nContent-Length: " +
                 std::to_string(spec.size()) + "\r\n\r\n" + spec);
    const std::size_t at = answer.find("{\"id\":\"");
    EXPECT_NE(at, std::string::npos) << answer;
    return at == std::string::npos ? "" : answer.substr(at + 7, 16);
  }

  std::string directory_;
  const ApiLimits limits_ = test_limits();
  FakeRunner runner_{1};
  JobStore store_{runner_, limits_};
  Api api_{store_, limits_, "[]"};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, RunsAJob) {
  start();
  const std::string job = "/v1/jobs/" + create_job();
  const std::string model(3 << 20, 'm');
  EXPECT_TRUE(exchange("PUT " + job + "/model HTTP/1.1\r\nConnection: close\r\nContent-Length: " +
                       std::to_string(model.size()) + "\r\n\r\n" + model)
                  .starts_with("HTTP/1.1 200"));
  EXPECT_TRUE(exchange("POST " + job + "/start HTTP/1.1\r\nConnection: close\r\n\r\n")
                  .starts_with("HTTP/1.1 202"));
  const std::string events = exchange("GET " + job + "/events HTTP/1.1\r\n\r\n");
  EXPECT_NE(events.find("\"step\":3"), std::string::npos) << events;
  EXPECT_TRUE(events.ends_with("data: {\"state\":\"done\"}\n\n"));
  const std::string trained = exchange("GET " + job + "/model HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(trained.ends_with("\r\n\r\ntrained:" + model));
}

TEST_F(HttpServerTest, KeepsAConnectionForSeveralRequests) {
  start();
  DeadlineStream stream = connect();
  send(stream,
       "GET /v1/health HTTP/1.1\r\n\r\nGET /v1/none HTTP/1.1\r\n\r\n"
       "GET /v1/health HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string answers = read_all(stream);
  EXPECT_NE(answers.find("HTTP/1.1 404"), std::string::npos);
  EXPECT_NE(answers.rfind("HTTP/1.1 200"), answers.find("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, AnswersExpectContinueBeforeTheBody) {
  start();
  const std::string job = "/v1/jobs/" + create_job();
  DeadlineStream stream = connect();
  send(stream, "PUT " + job +
                   "/model HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n"
                   "Content-Length: 1\r\n\r\n");
  char answer[25] = {};
  boost::system::error_code ec;
  stream.read_some(boost::asio::mutable_buffer(answer, 24), ec);
  EXPECT_STREQ(answer, "HTTP/1.1 100 Continue\r\n\r");
  send(stream, "m");
  EXPECT_NE(read_all(stream).find("HTTP/1.1 200"), std::string::npos);
}

TEST_F(HttpServerTest, RefusesALargeBodyBeforeItComes) {
  start();
  const std::string job = create_job();
  const std::string answer =
      exchange("PUT /v1/jobs/" + job + "/model HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 413")) << answer;
}

TEST_F(HttpServerTest, RefusesBodiesWithoutALength) {
  start();
  const std::string answer = exchange("PUT /v1/jobs/" + create_job() +
                                      "/model HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 411")) << answer;
}

TEST_F(HttpServerTest, RefusesWhatIsNotHttp) {
  start();
  EXPECT_TRUE(exchange("\x16\x03\x01 hello\r\n\r\n").starts_with("HTTP/1.1 400"));
  EXPECT_TRUE(exchange("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n").starts_with("HTTP/1.1 400"));
  const std::string long_header(limits_.header_bytes + 1, 'a');
  EXPECT_TRUE(
      exchange("GET / HTTP/1.1\r\nX: " + long_header + "\r\n\r\n").starts_with("HTTP/1.1 400"));
}

TEST_F(HttpServerTest, DropsAPeerThatIsTooSlow) {
  start();
  DeadlineStream header = connect();
  send(header, "GET /v1/health HT");
  EXPECT_EQ(read_all(header), "");
  const std::string job = create_job();
  DeadlineStream body = connect();
  send(body, "PUT /v1/jobs/" + job + "/model HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(read_all(body), "");
}

TEST_F(HttpServerTest, ServesAtMostSoManyConnections) {
  start();
  std::vector<DeadlineStream> open;
  for (std::size_t i = 0; i < limits_.connections; ++i) {
    open.push_back(connect());
    send(open.back(), "GET /v1/health HTTP/1.1\r\n\r\n");
    ASSERT_FALSE(open.back().wait_readable());
  }
  EXPECT_TRUE(exchange("").starts_with("HTTP/1.1 503"));
  open.clear();
  std::string answer;
  for (int tries = 0; tries < 500 && !answer.starts_with("HTTP/1.1 200"); ++tries) {
    answer = exchange("GET /v1/health HTTP/1.0\r\n\r\n");
  }
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, AnEventStreamEndsWithTheServer) {
  start();
  const std::string job = "/v1/jobs/" + create_job();
  DeadlineStream stream = connect();
  send(stream, "GET " + job + "/events HTTP/1.1\r\n\r\n");
  ASSERT_FALSE(stream.wait_readable());
  server_.reset();
  EXPECT_EQ(read_all(stream).find("event:"), std::string::npos);
}

TEST_F(HttpServerTest, RefusesAPathThatIsTaken) {
  start();
  auto second = HttpServer::start(path(), api_, limits_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tempo
