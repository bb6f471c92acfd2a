// File: client/http_client.h
// HTTP/1.1 requests over a Unix socket, one connection a request, every wait bounded.
// Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace tempo {

struct HttpRequest {
  std::string method = "GET";
  std::string path;
  std::string content_type;
  std::string accept = "application/json";
  std::span<const std::byte> body;
  std::uint64_t response_limit_bytes = std::uint64_t{1} << 20;
};

struct HttpResponse {
  unsigned status = 0;
  std::string body;
};

class HttpClient {
 public:
  // A readable `wake_fd` (-1: none) ends a request with kInterrupted; a stream calls on_wake.
  HttpClient(std::string socket_path, int wake_fd)
      : socket_path_(std::move(socket_path)), wake_fd_(wake_fd) {}

  // Any status is a response. Errors: kNotFound when nobody listens, kProtocol when the peer is
  // gone, too slow, or answers what is not HTTP or longer than the limit; kInterrupted.
  Result<HttpResponse> send(const HttpRequest& request) const;

  // GET of a stream without end. on_text gets the body as it comes and returns false to leave;
  // on_wake is called whenever wake_fd is readable, has to clear it, and returns false to leave.
  // A response other than 200 is returned with its body; after 200 the body is empty.
  Result<HttpResponse> stream(const std::string& path,
                              const std::function<bool(std::string_view)>& on_text,
                              const std::function<bool()>& on_wake) const;

 private:
  std::string socket_path_;
  int wake_fd_;
};

}  // namespace tempo
