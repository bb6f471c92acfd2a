#include "client/http_client.h"

#include <exception>
#include <utility>
// Boost 1.74 wants <exception> and <utility> first.
#include <boost/asio/error.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/span_body.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "wire/deadline_stream.h"

namespace tempo {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;

constexpr int kAnswerMs = 60'000;
constexpr std::uint64_t kBytesPerMs = 1000;  // the slowest transfer that is waited for
constexpr std::uint32_t kHeaderLimit = 16 * 1024;
constexpr std::size_t kBufferLimit = std::size_t{1} << 20;

int transfer_ms(std::uint64_t bytes) {
  return kAnswerMs + static_cast<int>(std::min<std::uint64_t>(bytes / kBytesPerMs, 1 << 28));
}

Error http_error(const error_code& ec) {
  if (ec == boost::asio::error::interrupted) {
    return {ErrorCode::kInterrupted, "interrupted", "", "", "", ""};
  }
  std::string got = ec.message();
  if (ec == boost::asio::error::timed_out) got = "no answer in time";
  if (ec == boost::asio::error::eof || ec == http::error::end_of_stream ||
      ec == http::error::partial_message) {
    got = "the connection was closed";
  }
  return {ErrorCode::kProtocol, "the enclave does not answer as expected", "job API", "",
          std::move(got),       "see whether tempo-enclave still runs"};
}

template <class Body>
http::request<Body> make_request(http::verb verb, const std::string& path,
                                 const std::string& accept) {
  http::request<Body> message(verb, path, 11);
  message.set(http::field::host, "localhost");
  message.set(http::field::accept, accept);
  message.keep_alive(false);
  return message;
}

Result<DeadlineStream> connect(const std::string& path, int wake_fd) {
  Fd socket = connect_unix(path);
  if (!socket.valid()) {
    return Error{ErrorCode::kNotFound,
                 "no enclave listens there",
                 path,
                 "the socket of a running tempo-enclave",
                 "",
                 "start tempo-enclave --api unix:PATH, or leave --master out"};
  }
  return DeadlineStream(std::move(socket), wake_fd);
}

}  // namespace

Result<HttpResponse> HttpClient::send(const HttpRequest& request) const {
  auto stream = connect(socket_path_, wake_fd_);
  if (!stream) return stream.error();
  stream->set_deadline(deadline_in_ms(transfer_ms(request.body.size())));
  auto message = make_request<http::span_body<const char>>(http::string_to_verb(request.method),
                                                           request.path, request.accept);
  if (!request.content_type.empty()) {
    message.set(http::field::content_type, request.content_type);
  }
  message.body() = {reinterpret_cast<const char*>(request.body.data()), request.body.size()};
  message.prepare_payload();
  error_code write_error;
  http::write(*stream, message, write_error);
  if (write_error == boost::asio::error::interrupted) return http_error(write_error);
  // A refusal may come, and the connection close, before the body is through: the answer counts.
  stream->set_deadline(deadline_in_ms(transfer_ms(request.response_limit_bytes)));
  boost::beast::flat_buffer buffer(kBufferLimit);
  http::response_parser<http::string_body> parser;
  parser.header_limit(kHeaderLimit);
  parser.body_limit(request.response_limit_bytes);
  error_code ec;
  http::read(*stream, buffer, parser, ec);
  if (ec) return http_error(write_error ? write_error : ec);
  return HttpResponse{parser.get().result_int(), std::move(parser.get().body())};
}

Result<HttpResponse> HttpClient::stream(const std::string& path,
                                        const std::function<bool(std::string_view)>& on_text,
                                        const std::function<bool()>& on_wake) const {
  auto stream = connect(socket_path_, -1);
  if (!stream) return stream.error();
  stream->set_deadline(deadline_in_ms(kAnswerMs));
  const auto message = make_request<http::empty_body>(http::verb::get, path, "text/event-stream");
  error_code ec;
  http::write(*stream, message, ec);
  boost::beast::flat_buffer buffer(kBufferLimit);
  http::response_parser<http::string_body> parser;
  parser.header_limit(kHeaderLimit);
  if (!ec) http::read_header(*stream, buffer, parser, ec);
  if (!ec && parser.get().result() != http::status::ok) {
    http::read(*stream, buffer, parser, ec);
    if (ec) return http_error(ec);
    return HttpResponse{parser.get().result_int(), std::move(parser.get().body())};
  }
  if (ec) return http_error(ec);
  // From here on the bytes are the body, up to the end of the connection.
  const HttpResponse response{200, ""};
  const auto first = buffer.data();
  if (!on_text({static_cast<const char*>(first.data()), first.size()})) return response;
  stream->set_wake_fd(wake_fd_);
  char chunk[16 * 1024];
  for (;;) {
    stream->set_deadline(deadline_in_ms(kAnswerMs));
    const std::size_t got =
        stream->read_some(boost::asio::mutable_buffer(chunk, sizeof(chunk)), ec);
    if (ec == boost::asio::error::interrupted) {
      if (!on_wake()) return response;
      continue;
    }
    if (ec) return http_error(ec);
    if (!on_text({chunk, got})) return response;
  }
}

}  // namespace tempo
