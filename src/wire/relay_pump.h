// File: wire/relay_pump.h
// Moves bytes between a relay's core and its connection: reads and writes as the core wants, says
// that this end is alive, and ends when the peer is silent, gone, or breaks the protocol.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "wire/relay_stream.h"
// After the above, which puts Boost's headers in an order that works.
#include <boost/asio/steady_timer.hpp>

namespace tempo {

// Owned by its own operations once it was started. All but wake() and close() happen on the thread
// of the stream's io_context.
class RelayPump : public std::enable_shared_from_this<RelayPump> {
 public:
  struct Hooks {
    // The core took something in or got rid of something; not under the lock.
    std::function<void()> on_progress;
    // The last call: the connection is closed and nothing touches the core's spans any more.
    std::function<void(const Error& why)> on_end;
  };

  // core and mutex live until on_end() has returned; the mutex guards the core.
  RelayPump(RelayStream stream, RelayCore& core, std::mutex& mutex, Hooks hooks);

  void start();
  // From any thread: the core may have something to write, or room to read again. Without TLS, what
  // the socket takes at once is written here and now: that saves waking the other thread.
  void wake();
  // From any thread: ends it.
  void close();

 private:
  using Clock = std::chrono::steady_clock;

  void read();
  std::span<std::byte> want_read();
  void wake_for(std::size_t bytes);
  std::size_t read_now(std::span<std::byte> into);
  void write();
  bool write_now();
  void look_after();  // each kTick
  bool take_in(std::size_t bytes);
  void on_read(const boost::system::error_code& error, std::size_t bytes);
  void on_write(const boost::system::error_code& error, std::size_t bytes);
  void fail(Error why);
  void maybe_end();

  RelayStream stream_;
  RelayCore& core_;
  std::mutex& mutex_;
  std::mutex sending_;  // held, before the other, while write_now() writes
  Hooks hooks_;
  boost::asio::steady_timer timer_;
  Clock::time_point heard_;
  Clock::time_point written_;
  Clock::time_point looked_;
  std::optional<Error> failed_;
  bool ended_ = false;
  bool reading_ = false;
  int low_water_ = 1;     // SO_RCVLOWAT
  int queued_ = 0;        // bytes that the socket held at the last look
  bool waiting_ = false;  // for the timer
  // The rest, but for the last, is guarded by the mutex.
  bool writing_ = false;
  bool full_ = false;                // the core had no place for more
  bool closed_ = false;              // nothing is to be written any more
  std::atomic<bool> awake_ = false;  // a wake() is on its way
};

}  // namespace tempo
