#include "enclave/server/http_connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <limits>
#include <new>
#include <utility>
// Boost 1.74 wants <exception> and <utility> first.
#include <boost/asio/error.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_static_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/span_body.hpp>
#include <boost/beast/http/write.hpp>

#include "wire/deadline_stream.h"

namespace tempo {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;
using RequestParser = http::request_parser<http::buffer_body>;

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

class Connection {
 public:
  Connection(Fd socket, int stop_fd, Api& api, const ApiLimits& limits)
      : stream_(std::move(socket), stop_fd), api_(api), limits_(limits) {}

  void serve() {
    while (serve_one()) {
    }
  }

 private:
  // Whether another request may follow.
  bool serve_one() {
    stream_.set_deadline(deadline_in_ms(limits_.idle_ms));
    if (buffer_.size() == 0 && stream_.wait_readable()) return false;
    stream_.set_deadline(deadline_in_ms(limits_.header_ms));
    RequestParser parser;
    parser.header_limit(limits_.header_bytes);
    parser.body_limit(std::numeric_limits<std::uint64_t>::max());  // admit() knows the limit
    error_code ec;
    http::read_header(stream_, buffer_, parser, ec);
    if (ec) {
      const bool broken =
          ec.category() == http::make_error_code(http::error::bad_method).category();
      return broken && ec != http::error::end_of_stream &&
             refuse(400, "not an HTTP request", ec.message());
    }
    keep_alive_ = parser.keep_alive();
    if (parser.chunked()) return refuse(411, "the body's length is not given", "");
    const std::uint64_t body_bytes = parser.content_length().value_or(0);
    Api::Admission admission = api_.admit(request_of(parser, body_bytes));
    if (admission.refusal) {
      if (body_bytes > 0) keep_alive_ = false;
      if (!respond(*admission.refusal)) return false;
      if (body_bytes > 0) drain();
      return keep_alive_;
    }
    if (!expect_continue(parser)) return false;
    const auto status = read_body(parser, body_bytes, admission.call.body);
    if (status == BodyStatus::kGone) return false;
    if (status == BodyStatus::kNoMemory) {
      keep_alive_ = false;
      return respond(
          error_response({ErrorCode::kOutOfMemory, "the enclave's memory does not suffice", "", "",
                          std::to_string(body_bytes) + " bytes", ""}));
    }
    const ApiResponse response = api_.handle(std::move(admission));
    if (!response.events_of.empty()) {
      stream_events(response);
      return false;
    }
    return respond(response) && keep_alive_;
  }

  static ApiRequest request_of(const RequestParser& parser, std::uint64_t body_bytes) {
    const auto& message = parser.get();
    const auto target = message.target();
    ApiRequest request;
    request.method = std::string(message.method_string());
    request.path = std::string(target.substr(0, std::min(target.find('?'), target.size())));
    request.accept = std::string(message[http::field::accept]);
    request.body_bytes = body_bytes;
    return request;
  }

  bool expect_continue(const RequestParser& parser) {
    const auto expect = parser.get()[http::field::expect];
    if (expect.empty()) return true;
    if (!boost::beast::iequals(expect, "100-continue")) {
      return refuse(417, "unknown expectation", "");
    }
    error_code ec;
    http::response<http::empty_body> response(http::status::continue_, 11);
    http::write(stream_, response, ec);
    return !ec;
  }

  enum class BodyStatus { kOk, kGone, kNoMemory };

  BodyStatus read_body(RequestParser& parser, std::uint64_t bytes, std::vector<std::byte>& body) {
    stream_.set_deadline(deadline_in_ms(body_ms(bytes)));
    try {
      body.reserve(bytes);  // address space; pages are touched as bytes arrive
      while (!parser.is_done()) {
        const std::size_t had = body.size();
        const std::size_t chunk = std::min<std::uint64_t>(kChunkBytes, bytes - had);
        if (chunk == 0) return BodyStatus::kGone;
        body.resize(had + chunk);
        auto& target = parser.get().body();
        target.data = body.data() + had;
        target.size = chunk;
        error_code ec;
        http::read(stream_, buffer_, parser, ec);
        if (ec == http::error::need_buffer) ec = {};
        if (ec) return BodyStatus::kGone;
        body.resize(had + chunk - target.size);
      }
    } catch (const std::bad_alloc&) {
      return BodyStatus::kNoMemory;
    }
    return body.size() == bytes ? BodyStatus::kOk : BodyStatus::kGone;
  }

  int body_ms(std::uint64_t bytes) const {
    return limits_.body_ms +
           static_cast<int>(std::min<std::uint64_t>(bytes / limits_.body_bytes_per_ms, 1 << 28));
  }

  bool refuse(unsigned status, const char* what, const std::string& got) {
    keep_alive_ = false;
    respond(error_response(status, {ErrorCode::kProtocol, what, "", "", got, ""}));
    return false;
  }

  // A peer that is still sending when the connection closes may never read the answer: takes what
  // is on its way for a moment.
  void drain() {
    ::shutdown(stream_.fd(), SHUT_WR);
    stream_.set_deadline(deadline_in_ms(1000));
    std::vector<char> scrap(kChunkBytes);
    error_code ec;
    while (!ec) stream_.read_some(boost::asio::mutable_buffer(scrap.data(), scrap.size()), ec);
  }

  bool respond(const ApiResponse& response) {
    const auto body = response.body();
    stream_.set_deadline(deadline_in_ms(body_ms(body.size())));
    using Body = http::span_body<const char>;
    http::response<Body> message(static_cast<http::status>(response.status), 11);
    message.set(http::field::content_type, response.content_type);
    if (!response.allow.empty()) message.set(http::field::allow, response.allow);
    message.keep_alive(keep_alive_);
    message.body() = {reinterpret_cast<const char*>(body.data()), body.size()};
    message.prepare_payload();
    error_code ec;
    http::write(stream_, message, ec);
    return !ec;
  }

  // The stream has no length: it ends with the connection.
  void stream_events(const ApiResponse& response) {
    http::response<http::empty_body> head(http::status::ok, 11);
    head.set(http::field::content_type, response.content_type);
    head.set(http::field::cache_control, "no-store");
    head.keep_alive(false);
    stream_.set_deadline(deadline_in_ms(limits_.body_ms));
    error_code ec;
    http::write(stream_, head, ec);
    std::uint64_t from = 0;
    bool ended = false;
    while (!ec && !ended) {
      const std::string text = api_.next_events(response.events_of, from, ended);
      stream_.set_deadline(deadline_in_ms(limits_.body_ms));
      std::size_t sent = 0;
      while (!ec && sent < text.size()) {
        sent += stream_.write_some(
            boost::asio::const_buffer(text.data() + sent, text.size() - sent), ec);
      }
    }
  }

  DeadlineStream stream_;
  Api& api_;
  const ApiLimits& limits_;
  boost::beast::flat_static_buffer<64 * 1024> buffer_;
  bool keep_alive_ = true;
};

}  // namespace

void serve_connection(Fd socket, int stop_fd, Api& api, const ApiLimits& limits) noexcept {
  try {
    // On the heap: the buffer is large for a thread's stack.
    std::make_unique<Connection>(std::move(socket), stop_fd, api, limits)->serve();
  } catch (const std::exception&) {
    // Out of memory for a response: the connection ends, the enclave goes on.
  }
}

void refuse_connection(Fd socket) noexcept {
  constexpr std::string_view kAnswer =
      "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
  // One try: whoever does not read even this has no claim to more.
  [[maybe_unused]] const auto sent =
      ::send(socket.get(), kAnswer.data(), kAnswer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace tempo
