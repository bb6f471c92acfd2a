// File: enclave/server/http_server.h
// HTTP/1.1 over a Unix socket for the job API. One thread accepts, one thread a connection, at most
// ApiLimits::connections of them. Bodies need a Content-Length, which is checked before anything is
// read or allocated; memory then grows with what really arrives.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <thread>

#include "base/error.h"
#include "enclave/server/api.h"
#include "wire/event.h"
#include "wire/unix_socket.h"

namespace tempo {

class HttpServer {
 public:
  // `api` outlives the server. Errors: those of UnixListener::open().
  static Result<std::unique_ptr<HttpServer>> start(const std::string& path, Api& api,
                                                   const ApiLimits& limits);
  // Ends every connection, an event stream within ApiLimits::keep_alive_ms.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

 private:
  struct Connection;

  HttpServer(UnixListener listener, Api& api, const ApiLimits& limits);
  void accept_all();
  void join_ended();

  UnixListener listener_;
  Api& api_;
  const ApiLimits limits_;
  Event stop_;
  std::list<Connection> connections_;  // of the accepting thread
  std::thread thread_;
};

}  // namespace tempo
