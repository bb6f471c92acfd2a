#include "wire/deadline_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <boost/asio/error.hpp>
#include <cerrno>
#include <chrono>

namespace tempo {
namespace {

using boost::system::error_code;

error_code from_errno(int number) {
  return {number, boost::system::system_category()};
}

bool would_block(int number) {
  return number == EAGAIN || number == EWOULDBLOCK || number == EINTR;
}

}  // namespace

error_code DeadlineStream::wait_for(short events) {
  for (;;) {
    // Before the wait: a peer that sends a byte now and then must not outlive the deadline.
    if (deadline_ != Deadline::max() && std::chrono::steady_clock::now() >= deadline_) {
      return boost::asio::error::timed_out;
    }
    pollfd entries[2] = {{socket_.get(), events, 0}, {wake_fd_, POLLIN, 0}};
    // In slices of a minute at most: remaining_ms() is bounded, and so is what a lost wake-up
    // costs.
    const int timeout_ms = deadline_ == Deadline::max() ? 60'000 : remaining_ms(deadline_);
    const int ready = ::poll(entries, 2, timeout_ms);
    if (ready < 0 && errno != EINTR) return from_errno(errno);
    if (ready > 0) {
      if (entries[1].revents != 0) return boost::asio::error::interrupted;
      return {};
    }
  }
}

error_code DeadlineStream::wait_readable() {
  return wait_for(POLLIN);
}

std::size_t DeadlineStream::read_bytes(void* data, std::size_t size, error_code& ec) {
  for (;;) {
    // Waiting first keeps a busy peer from outrunning deadline and wake-up.
    if (ec = wait_for(POLLIN); ec) return 0;
    const ssize_t got = ::recv(socket_.get(), data, size, MSG_DONTWAIT);
    if (got > 0) return static_cast<std::size_t>(got);
    if (got == 0) {
      ec = boost::asio::error::eof;
      return 0;
    }
    if (!would_block(errno)) {
      ec = from_errno(errno);
      return 0;
    }
  }
}

std::size_t DeadlineStream::write_vectors(iovec* vectors, std::size_t count, error_code& ec) {
  ec = {};
  if (count == 0) return 0;
  msghdr message = {};
  message.msg_iov = vectors;
  message.msg_iovlen = count;
  for (;;) {
    if (ec = wait_for(POLLOUT); ec) return 0;
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<std::size_t>(sent);
    if (!would_block(errno)) {
      ec = from_errno(errno);
      return 0;
    }
  }
}

}  // namespace tempo
