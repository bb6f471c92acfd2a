#include "wire/relay_pump.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <utility>

#include "wire/relay_frame.h"

namespace tempo {
namespace {

using boost::system::error_code;
using std::chrono::milliseconds;

constexpr milliseconds kTick{250};
// Then other connections have their turn.
constexpr std::size_t kWorthWaking = std::size_t{256} << 10;
constexpr std::size_t kReadAtOnce = std::size_t{8} << 20;

Error lost(std::string what, std::string got = {}) {
  return {ErrorCode::kProtocol, std::move(what), "", "", std::move(got), ""};
}

}  // namespace

void tune_relay_socket(int fd) {
  const auto set = [fd](int level, int option, int value) {
    ::setsockopt(fd, level, option, &value, sizeof(value));
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 5000);  // ms
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 2);  // s
  set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  constexpr char kCubic[] = "cubic";
  ::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kCubic, sizeof(kCubic) - 1);
}

RelayPump::RelayPump(RelayStream stream, RelayCore& core, std::mutex& mutex, Hooks hooks)
    : stream_(std::move(stream)),
      core_(core),
      mutex_(mutex),
      hooks_(std::move(hooks)),
      timer_(stream_.socket().get_executor()) {}

void RelayPump::start() {
  boost::asio::post(timer_.get_executor(), [self = shared_from_this()] {
    self->heard_ = self->written_ = self->looked_ = Clock::now();
    self->look_after();
    self->read();
    self->write();
  });
}

void RelayPump::wake() {
  if (write_now() || awake_.exchange(true)) return;
  boost::asio::post(timer_.get_executor(), [self = shared_from_this()] {
    self->awake_ = false;
    if (self->failed_) return self->maybe_end();
    self->read();
    self->write();
  });
}

// One system call, on the caller's thread. False: there is more to do, on the other thread.
bool RelayPump::write_now() {
  const std::lock_guard sending(sending_);
  RelayWrites writes;
  {
    const std::lock_guard lock(mutex_);
    if (writing_ || closed_) return !full_;  // who writes goes on until nothing is left
    writes = core_.want_write();
    if (writes.count == 0) return !full_;
    if (stream_.tls() != nullptr) return false;
    writing_ = true;  // keeps the descriptor open
  }
  std::array<iovec, RelayWrites::kMax> vectors;
  for (std::size_t i = 0; i < writes.count; ++i) {
    vectors[i] = {const_cast<std::byte*>(writes.spans[i].data()), writes.spans[i].size()};
  }
  msghdr message = {};
  message.msg_iov = vectors.data();
  message.msg_iovlen = writes.count;
  const ssize_t sent =
      ::sendmsg(stream_.socket().native_handle(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  const std::lock_guard lock(mutex_);
  writing_ = false;
  if (sent > 0) core_.did_write(static_cast<std::size_t>(sent));
  return sent > 0 && !closed_ && !full_ && core_.want_write().count == 0;
}

void RelayPump::close() {
  boost::asio::post(timer_.get_executor(),
                    [self = shared_from_this()] { self->fail(lost("the connection was closed")); });
}

void RelayPump::read() {
  if (reading_ || failed_) return;
  std::span<std::byte> into = want_read();
  for (std::size_t read = 0; read < kReadAtOnce;) {
    const std::size_t bytes = read_now(into);
    if (bytes == 0) break;
    if (!take_in(bytes)) return;
    read += bytes;
    into = want_read();
  }
  if (into.empty()) return;
  wake_for(into.size());
  reading_ = true;
  stream_.read_some(into, [self = shared_from_this()](const error_code& error, std::size_t bytes) {
    self->on_read(error, bytes);
  });
}

// A long payload is worth waking for when a good piece of it is there.
void RelayPump::wake_for(std::size_t bytes) {
  if (stream_.tls() != nullptr) return;
  const int wanted = static_cast<int>(std::min(bytes, kWorthWaking));
  if (wanted == low_water_) return;
  low_water_ = wanted;
  ::setsockopt(stream_.socket().native_handle(), SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof(wanted));
}

std::span<std::byte> RelayPump::want_read() {
  const std::lock_guard lock(mutex_);
  const std::span<std::byte> into = core_.want_read();
  full_ = into.empty();
  return into;
}

// What is there already needs no turn of the loop for each piece. Zero: none is, or why not is for
// read_some() to say.
std::size_t RelayPump::read_now(std::span<std::byte> into) {
  if (into.empty() || stream_.tls() != nullptr) return 0;
  {
    const std::lock_guard lock(mutex_);
    if (writing_ && core_.awaits_own_write()) return 0;  // on_write() is on its way
  }
  const ssize_t got =
      ::recv(stream_.socket().native_handle(), into.data(), into.size(), MSG_DONTWAIT);
  return got > 0 ? static_cast<std::size_t>(got) : 0;
}

void RelayPump::on_read(const error_code& error, std::size_t bytes) {
  reading_ = false;
  if (failed_) return maybe_end();
  if (error) return fail(lost("the peer is gone", error.message()));
  if (take_in(bytes)) read();
}

// False: the connection is at its end.
bool RelayPump::take_in(std::size_t bytes) {
  heard_ = Clock::now();
  Status status;
  {
    std::unique_lock lock(mutex_);
    if (core_.awaits_own_write()) {  // write_now() is about to say that it has written that
      lock.unlock();
      const std::lock_guard sent(sending_);
      lock.lock();
    }
    status = core_.did_read(bytes);
  }
  if (!status.ok()) {
    fail(status.error());
    return false;
  }
  hooks_.on_progress();
  return true;
}

void RelayPump::write() {
  if (failed_) return;
  RelayWrites writes;
  {
    const std::lock_guard lock(mutex_);
    if (writing_) return;
    writes = core_.want_write();
    if (writes.count == 0) return;
    writing_ = true;
  }
  stream_.write_some(writes,
                     [self = shared_from_this()](const error_code& error, std::size_t bytes) {
                       self->on_write(error, bytes);
                     });
}

void RelayPump::on_write(const error_code& error, std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!failed_ && !error) core_.did_write(bytes);
  }
  if (failed_) return maybe_end();
  if (error) return fail(lost("the peer is gone", error.message()));
  written_ = Clock::now();
  hooks_.on_progress();
  read();  // there may be memory for it now
  write();
}

void RelayPump::look_after() {
  waiting_ = false;
  if (failed_) return maybe_end();
  const auto now = Clock::now();
  // What was not read is no silence, be it for want of memory or because this process was stopped.
  if (!reading_ || now - looked_ > 4 * kTick) heard_ = now;
  // A piece of a payload that is not worth waking for yet is a sign of life.
  if (int queued = 0; ::ioctl(stream_.socket().native_handle(), FIONREAD, &queued) == 0) {
    if (std::exchange(queued_, queued) != queued) heard_ = now;
  }
  looked_ = now;
  if (now - heard_ > milliseconds(kRelaySilenceMs)) return fail(lost("the peer is silent"));
  if (now - written_ >= milliseconds(kRelayAliveMs)) {
    {
      const std::lock_guard lock(mutex_);
      core_.say_alive();  // unless there is something else to say
    }
    write();
  }
  waiting_ = true;
  timer_.expires_after(kTick);
  timer_.async_wait([self = shared_from_this()](const error_code&) { self->look_after(); });
}

void RelayPump::fail(Error why) {
  if (!failed_) {
    failed_ = std::move(why);
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    stream_.shut_down();
    timer_.cancel();
  }
  maybe_end();
}

void RelayPump::maybe_end() {
  if (ended_ || reading_ || waiting_) return;
  {
    const std::lock_guard lock(mutex_);
    if (writing_) return;
  }
  ended_ = true;
  stream_.close();
  // Not before the handler that called this has returned.
  boost::asio::post(timer_.get_executor(), [self = shared_from_this()] {
    const Hooks hooks = std::exchange(self->hooks_, {});
    hooks.on_end(*self->failed_);
  });
}

}  // namespace tempo
