// File: wire/relay_stream.h
// A TCP connection of the relay, with or without TLS, for asynchronous use on one thread.
#pragma once

#include <chrono>
#include <exception>
#include <utility>
// Boost 1.74 wants the two above first.
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <span>

#include "wire/relay_core.h"

namespace tempo {

// Low latency, loss detection within seconds, and cubic where it is allowed: BBR, the default of
// some kernels, halves the throughput between near hosts. What the kernel refuses stays as it is.
void tune_relay_socket(int fd);

// A socket in TLS needs to stay where it is while operations are under way: see RelayPump.
class RelayStream {
 public:
  using Tcp = boost::asio::ip::tcp;
  using Tls = boost::asio::ssl::stream<Tcp::socket>;

  explicit RelayStream(Tcp::socket socket)
      : plain_(std::make_unique<Tcp::socket>(std::move(socket))) {}
  explicit RelayStream(std::unique_ptr<Tls> tls) : tls_(std::move(tls)) {}

  // One of each at a time. Handlers: void(boost::system::error_code, std::size_t).
  template <class Handler>
  void read_some(std::span<std::byte> into, Handler&& handler) {
    const boost::asio::mutable_buffer buffer(into.data(), into.size());
    if (tls_) {
      tls_->async_read_some(buffer, std::forward<Handler>(handler));
    } else {
      plain_->async_read_some(buffer, std::forward<Handler>(handler));
    }
  }
  template <class Handler>
  void write_some(const RelayWrites& writes, Handler&& handler) {
    if (tls_) {  // writes one buffer at a time anyway
      const auto first = writes.spans[0];
      tls_->async_write_some(boost::asio::const_buffer(first.data(), first.size()),
                             std::forward<Handler>(handler));
      return;
    }
    std::array<boost::asio::const_buffer, RelayWrites::kMax> buffers;
    for (std::size_t i = 0; i < writes.count; ++i) {
      buffers[i] = {writes.spans[i].data(), writes.spans[i].size()};
    }
    plain_->async_write_some(buffers, std::forward<Handler>(handler));
  }

  // All of `into` or `from`, which are small. Handlers: void(boost::system::error_code).
  template <class Handler>
  void read_all(std::span<std::byte> into, Handler handler) {
    const auto buffer = boost::asio::buffer(into.data(), into.size());
    auto done = [handler = std::move(handler)](const boost::system::error_code& error,
                                               std::size_t) mutable { handler(error); };
    if (tls_) {
      boost::asio::async_read(*tls_, buffer, std::move(done));
    } else {
      boost::asio::async_read(*plain_, buffer, std::move(done));
    }
  }
  template <class Handler>
  void write_all(std::span<const std::byte> from, Handler handler) {
    const auto buffer = boost::asio::buffer(from.data(), from.size());
    auto done = [handler = std::move(handler)](const boost::system::error_code& error,
                                               std::size_t) mutable { handler(error); };
    if (tls_) {
      boost::asio::async_write(*tls_, buffer, std::move(done));
    } else {
      boost::asio::async_write(*plain_, buffer, std::move(done));
    }
  }
  // The TLS handshake; at once without TLS.
  template <class Handler>
  void shake_hands(boost::asio::ssl::stream_base::handshake_type role, Handler handler) {
    if (tls_) {
      tls_->async_handshake(role, std::move(handler));
    } else {
      handler(boost::system::error_code());
    }
  }

  Tcp::socket& socket() { return tls_ ? tls_->next_layer() : *plain_; }
  Tls* tls() { return tls_.get(); }
  // Operations under way end with an error; the descriptor stays.
  void shut_down() {
    boost::system::error_code ignored;
    socket().shutdown(Tcp::socket::shutdown_both, ignored);
    socket().cancel(ignored);
  }
  void close() {
    boost::system::error_code ignored;
    socket().close(ignored);
  }

 private:
  std::unique_ptr<Tcp::socket> plain_;
  std::unique_ptr<Tls> tls_;
};

}  // namespace tempo
