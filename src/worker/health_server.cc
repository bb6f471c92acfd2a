#include "worker/health_server.h"

#include <array>
#include <exception>
#include <utility>
// Boost 1.74 wants the above first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <deque>
#include <nlohmann/json.hpp>
#include <thread>

namespace tempo {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Tcp = boost::asio::ip::tcp;

constexpr std::chrono::seconds kLimit{2};
constexpr std::size_t kMaxConnections = 16;
constexpr std::uint32_t kMaxHeader = 4096;

using Response = http::response<http::string_body>;

Response answer(const http::request<http::empty_body>& request, const Health& health) {
  const auto path = request.target();
  const bool is_ready = path == "/readyz";
  Response response;
  response.version(11);
  response.keep_alive(false);
  if (request.method() != http::verb::get) {
    response.result(http::status::method_not_allowed);
  } else if (!is_ready && path != "/healthz") {
    response.result(http::status::not_found);
  } else {
    response.result(is_ready && health.serving ? http::status::service_unavailable
                                               : http::status::ok);
    response.set(http::field::content_type, "application/json");
    response.body() = nlohmann::json{{"version", health.version},
                                     {"device", health.device},
                                     {"memory_limit_bytes", health.memory_limit_bytes},
                                     {"memory_in_use_bytes", health.memory_in_use_bytes},
                                     {"state", health.serving ? "serving" : "idle"},
                                     {"tasks_done", health.tasks_done}}
                          .dump() +
                      "\n";
  }
  response.prepare_payload();
  return response;
}

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Tcp::socket socket, const std::function<Health()>& look)
      : stream_(std::move(socket)), look_(look) {}

  void start() {
    stream_.expires_after(kLimit);
    parser_.header_limit(kMaxHeader);
    parser_.body_limit(0);
    http::async_read(stream_, buffer_, parser_,
                     [self = shared_from_this()](const error_code& error, std::size_t) {
                       if (!error) self->write();
                     });
  }
  void close() { stream_.close(); }

 private:
  void write() {
    response_ = answer(parser_.get(), look_());
    http::async_write(stream_, response_,
                      [self = shared_from_this()](const error_code&, std::size_t) {
                        error_code ignored;
                        self->stream_.socket().shutdown(Tcp::socket::shutdown_send, ignored);
                      });
  }

  beast::tcp_stream stream_;
  const std::function<Health()>& look_;
  beast::flat_buffer buffer_{2 * kMaxHeader};
  http::request_parser<http::empty_body> parser_;
  Response response_;
};

}  // namespace

class HealthServer::Impl {
 public:
  explicit Impl(std::function<Health()> look) : look_(std::move(look)) {}
  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status listen(const WorkerAddress& address) {
    error_code error;
    Tcp::resolver resolver(io_);
    const auto found =
        resolver.resolve(address.host, std::to_string(address.port), Tcp::resolver::passive, error);
    if (!error && !found.empty()) {
      const Tcp::endpoint endpoint = found.begin()->endpoint();
      acceptor_.open(endpoint.protocol(), error);
      if (!error) acceptor_.set_option(Tcp::acceptor::reuse_address(true), error);
      if (!error) acceptor_.bind(endpoint, error);
      if (!error) acceptor_.listen(64, error);
      if (!error) return {};
    }
    return Error{ErrorCode::kIo,  "cannot listen there",
                 address.text,    "",
                 error.message(), "choose another --health address or port"};
  }
  void run() {
    accept();
    thread_ = std::thread([this] { io_.run(); });
  }

 private:
  void accept() {
    acceptor_.async_accept([this](const error_code& error, Tcp::socket socket) {
      if (error) {
        // Without descriptors the listener would stay readable: do not spin on it.
        again_.expires_after(std::chrono::milliseconds(50));
        again_.async_wait([this](const error_code& stopped) {
          if (!stopped) accept();
        });
        return;
      }
      auto connection = std::make_shared<Connection>(std::move(socket), look_);
      connection->start();
      connections_.push_back(connection);
      if (connections_.size() > kMaxConnections) {
        if (const auto oldest = connections_.front().lock()) oldest->close();
        connections_.pop_front();
      }
      accept();
    });
  }

  const std::function<Health()> look_;
  boost::asio::io_context io_{1};
  Tcp::acceptor acceptor_{io_};
  boost::asio::steady_timer again_{io_};
  std::deque<std::weak_ptr<Connection>> connections_;
  std::thread thread_;
};

Result<std::unique_ptr<HealthServer>> HealthServer::start(const WorkerAddress& address,
                                                          std::function<Health()> look) {
  auto impl = std::make_unique<Impl>(std::move(look));
  TEMPO_RETURN_IF_ERROR(impl->listen(address));
  impl->run();
  return std::unique_ptr<HealthServer>(new HealthServer(std::move(impl)));
}

HealthServer::HealthServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HealthServer::~HealthServer() = default;

}  // namespace tempo
