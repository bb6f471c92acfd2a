// File: wire/unix_socket.h
// Unix stream sockets: addresses, listening, connecting, and frames with descriptors, everything
// under a deadline. Sockets are non-blocking and closed on exec.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "wire/fd.h"
#include "wire/frame.h"

namespace tempo {

using Deadline = std::chrono::steady_clock::time_point;
Deadline deadline_in_ms(int milliseconds);
// Rounded up, at least 0, at most 60,000: for poll(2).
int remaining_ms(Deadline deadline);

inline constexpr std::size_t kMaxFrameFds = 2;

// "unix:PATH" to PATH. Error kUsage.
Result<std::string> parse_unix_address(const std::string& address);

// A listening socket whose file is removed with it. Only the owner of the process may connect. A
// file that a dead process left there is replaced. Errors: kUsage when somebody listens there
// already or the path is no socket, kIo.
class UnixListener {
 public:
  static Result<UnixListener> open(const std::string& path);
  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();

  int fd() const { return fd_.get(); }
  // Invalid when nobody is waiting to be accepted.
  Fd accept() const;

 private:
  UnixListener() = default;
  Fd fd_;
  std::string path_;
};

// Invalid when nobody listens there now.
Fd connect_unix(const std::string& path);

struct Frame {
  FrameType type = FrameType::kHello;
  Bytes body;
  std::vector<Fd> fds;
};

// Errors kProtocol: the peer is gone, does not take or send the frame in time, or sends something
// that is no frame.
Status send_frame(int socket, FrameType type, std::span<const std::byte> body,
                  std::span<const int> fds, Deadline deadline);
Result<Frame> receive_frame(int socket, Deadline deadline);
// A frame of this type with this many descriptors. A kRefused frame becomes the peer's error.
Result<Frame> expect_frame(int socket, FrameType type, std::size_t fds, Deadline deadline);

}  // namespace tempo
