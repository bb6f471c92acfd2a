#include "enclave/server/http_server.h"

#include <poll.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <utility>

#include "enclave/server/http_connection.h"

namespace tempo {

struct HttpServer::Connection {
  std::atomic<bool> ended = false;
  std::thread thread;
};

Result<std::unique_ptr<HttpServer>> HttpServer::start(const std::string& path, Api& api,
                                                      const ApiLimits& limits) {
  auto listener = UnixListener::open(path);
  if (!listener) return listener.error();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(*listener), api, limits));
}

HttpServer::HttpServer(UnixListener listener, Api& api, const ApiLimits& limits)
    : listener_(std::move(listener)),
      api_(api),
      limits_(limits),

      thread_([this] { accept_all(); }) {}

HttpServer::~HttpServer() {
  stop_.raise();  // never cleared: every thread sees it
  thread_.join();
}

void HttpServer::join_ended() {
  std::erase_if(connections_, [](Connection& connection) {
    if (!connection.ended) return false;
    connection.thread.join();
    return true;
  });
}

void HttpServer::accept_all() {
  for (;;) {
    pollfd entries[2] = {{listener_.fd(), POLLIN, 0}, {stop_.fd(), POLLIN, 0}};
    // Looks at ended connections now and then, so that their threads do not linger.
    if (::poll(entries, 2, 1000) < 0 && errno != EINTR) break;
    join_ended();
    if (entries[1].revents != 0) break;
    if (entries[0].revents == 0) continue;
    Fd socket = listener_.accept();
    if (!socket.valid()) {
      // Without descriptors the socket would stay readable: do not spin on it.
      if (errno != EAGAIN) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    if (connections_.size() >= limits_.connections) {
      refuse_connection(std::move(socket));
      continue;
    }
    Connection& connection = connections_.emplace_back();
    try {
      connection.thread = std::thread([this, &connection, fd = std::move(socket)]() mutable {
        serve_connection(std::move(fd), stop_.fd(), api_, limits_);
        connection.ended = true;
      });
    } catch (const std::system_error&) {
      connections_.pop_back();  // no thread to be had: this connection ends, the others go on
    }
  }
  for (Connection& connection : connections_) connection.thread.join();
}

}  // namespace tempo
