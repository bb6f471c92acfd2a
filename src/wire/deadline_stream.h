// File: wire/deadline_stream.h
// A connected, non-blocking socket as the synchronous stream that Boost.Beast wants, with two
// additions: every wait ends at a deadline (error timed_out), and when a second descriptor becomes
// readable (error interrupted; a stop event of the server, a signal of the client).
// Thread safety: one thread at a time.
#pragma once

#include <sys/uio.h>

#include <array>
#include <exception>
#include <utility>
// Boost 1.74 wants the two above first.
#include <boost/asio/buffer.hpp>
#include <boost/system/error_code.hpp>
#include <boost/system/system_error.hpp>

#include "wire/fd.h"
#include "wire/unix_socket.h"

namespace tempo {

class DeadlineStream {
 public:
  // `wake_fd` is borrowed; -1: none.
  explicit DeadlineStream(Fd socket, int wake_fd = -1)
      : socket_(std::move(socket)), wake_fd_(wake_fd) {}

  void set_deadline(Deadline deadline) { deadline_ = deadline; }
  void set_wake_fd(int fd) { wake_fd_ = fd; }
  int fd() const { return socket_.get(); }

  // Whether there is something to read (or the peer closed); waits until then.
  boost::system::error_code wait_readable();

  template <class MutableBuffers>
  std::size_t read_some(const MutableBuffers& buffers, boost::system::error_code& ec) {
    const auto end = boost::asio::buffer_sequence_end(buffers);
    for (auto it = boost::asio::buffer_sequence_begin(buffers); it != end; ++it) {
      const boost::asio::mutable_buffer buffer(*it);
      if (buffer.size() > 0) return read_bytes(buffer.data(), buffer.size(), ec);
    }
    ec = {};
    return 0;
  }
  template <class ConstBuffers>
  std::size_t write_some(const ConstBuffers& buffers, boost::system::error_code& ec) {
    // A header and its body lie in many small buffers: one system call for them.
    std::array<iovec, 16> vectors;
    std::size_t count = 0;
    const auto end = boost::asio::buffer_sequence_end(buffers);
    for (auto it = boost::asio::buffer_sequence_begin(buffers); it != end && count < vectors.size();
         ++it) {
      const boost::asio::const_buffer buffer(*it);
      if (buffer.size() == 0) continue;
      vectors[count++] = {const_cast<void*>(buffer.data()), buffer.size()};
    }
    return write_vectors(vectors.data(), count, ec);
  }
  // Beast's concept asks for these; everything here uses the variants with an error code.
  template <class MutableBuffers>
  std::size_t read_some(const MutableBuffers& buffers) {
    boost::system::error_code ec;
    const std::size_t bytes = read_some(buffers, ec);
    if (ec) throw boost::system::system_error(ec);
    return bytes;
  }
  template <class ConstBuffers>
  std::size_t write_some(const ConstBuffers& buffers) {
    boost::system::error_code ec;
    const std::size_t bytes = write_some(buffers, ec);
    if (ec) throw boost::system::system_error(ec);
    return bytes;
  }

 private:
  std::size_t read_bytes(void* data, std::size_t size, boost::system::error_code& ec);
  std::size_t write_vectors(iovec* vectors, std::size_t count, boost::system::error_code& ec);
  boost::system::error_code wait_for(short events);

  Fd socket_;
  int wake_fd_;
  Deadline deadline_ = Deadline::max();
};

}  // namespace tempo
