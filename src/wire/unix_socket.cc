#include "wire/unix_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

namespace tempo {
namespace {

using std::chrono::milliseconds;

Error gone(const char* what, std::string got) {
  return {ErrorCode::kProtocol, what, "", "", std::move(got), ""};
}

std::optional<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) return std::nullopt;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* as_sockaddr(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

Fd make_socket() {
  return Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

Status wait_for(int socket, short events, Deadline deadline) {
  for (;;) {
    pollfd entry = {socket, events, 0};
    const int left = remaining_ms(deadline);
    const int ready = ::poll(&entry, 1, left);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return gone("poll failed", std::strerror(errno));
    if (std::chrono::steady_clock::now() >= deadline) {
      return gone("the peer does not answer in time", "");
    }
  }
}

// One recvmsg; descriptors that come along are added to `fds`. Returns the number of bytes, 0 at
// the end of the stream, -1 when there is nothing now.
Result<std::ptrdiff_t> receive_some(int socket, std::span<std::byte> out, std::vector<Fd>& fds) {
  iovec vector = {out.data(), out.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFrameFds * sizeof(int))];
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return std::ptrdiff_t{-1};
    return gone("the peer is gone", std::strerror(errno));
  }
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0 || fds.size() > kMaxFrameFds) {
    return gone("the peer sends too many descriptors", "");
  }
  return std::ptrdiff_t{got};
}

Status receive_all(int socket, std::span<std::byte> out, std::vector<Fd>& fds, Deadline deadline) {
  while (!out.empty()) {
    TEMPO_RETURN_IF_ERROR(wait_for(socket, POLLIN, deadline));
    auto got = receive_some(socket, out, fds);
    if (!got) return got.error();
    if (*got == 0) return gone("the peer closed the connection", "");
    if (*got > 0) out = out.subspan(static_cast<std::size_t>(*got));
  }
  return {};
}

}  // namespace

Deadline deadline_in_ms(int ms) {
  return std::chrono::steady_clock::now() + milliseconds(ms);
}

int remaining_ms(Deadline deadline) {
  const auto left =
      std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60000));
}

Result<std::string> parse_unix_address(const std::string& address) {
  constexpr std::string_view kPrefix = "unix:";
  if (address.starts_with(kPrefix)) {
    std::string path = address.substr(kPrefix.size());
    if (address_of(path)) return path;
  }
  return Error{ErrorCode::kUsage,
               "not an address of a Unix socket",
               address,
               "unix:PATH with a path of at most 107 bytes",
               "",
               ""};
}

Result<UnixListener> UnixListener::open(const std::string& path) {
  const auto address = address_of(path);
  if (!address) return parse_unix_address(path).error();
  struct stat info = {};
  if (::lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode) || connect_unix(path).valid()) {
      return Error{ErrorCode::kUsage,
                   "cannot listen there",
                   path,
                   "a free path",
                   S_ISSOCK(info.st_mode) ? "a running program's socket" : "another kind of file",
                   "choose another path"};
    }
    ::unlink(path.c_str());
  }
  UnixListener listener;
  listener.fd_ = make_socket();
  // The file must never be open to others, not even for a moment.
  const mode_t mask = ::umask(0077);
  const bool bound = listener.fd_.valid() &&
                     ::bind(listener.fd_.get(), as_sockaddr(*address), sizeof(*address)) == 0;
  const int bind_error = errno;
  ::umask(mask);
  if (bound) listener.path_ = path;
  if (!bound || ::listen(listener.fd_.get(), 16) != 0) {
    return Error{ErrorCode::kIo,
                 "cannot listen",
                 path,
                 "",
                 std::strerror(bound ? errno : bind_error),
                 "check the directory and its permissions"};
  }
  return listener;
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : fd_(std::move(other.fd_)), path_(std::exchange(other.path_, {})) {}

UnixListener::~UnixListener() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

Fd UnixListener::accept() const {
  return Fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

Fd connect_unix(const std::string& path) {
  const auto address = address_of(path);
  if (!address) return {};
  Fd socket = make_socket();
  if (!socket.valid() || ::connect(socket.get(), as_sockaddr(*address), sizeof(*address)) != 0) {
    return {};
  }
  return socket;
}

Status send_frame(int socket, FrameType type, std::span<const std::byte> body,
                  std::span<const int> fds, Deadline deadline) {
  TEMPO_ASSERT(body.size() <= kMaxFrameBody && fds.size() <= kMaxFrameFds);
  const auto header = encode_frame_header({type, static_cast<std::uint32_t>(body.size())});
  Bytes bytes(header.begin(), header.end());
  bytes.insert(bytes.end(), body.begin(), body.end());
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    TEMPO_RETURN_IF_ERROR(wait_for(socket, POLLOUT, deadline));
    iovec vector = {bytes.data() + sent, bytes.size() - sent};
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxFrameFds * sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (sent == 0 && !fds.empty()) {  // descriptors travel with the first byte
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(fds.size_bytes());
      cmsghdr* c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
    }
    const ssize_t n = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      sent += static_cast<std::size_t>(n);
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      return gone("the peer is gone", std::strerror(errno));
    }
  }
  return {};
}

Result<Frame> receive_frame(int socket, Deadline deadline) {
  Frame frame;
  std::array<std::byte, kFrameHeaderBytes> header_bytes;
  TEMPO_RETURN_IF_ERROR(receive_all(socket, header_bytes, frame.fds, deadline));
  auto header = decode_frame_header(header_bytes);
  if (!header) return header.error();
  frame.type = header->type;
  frame.body.resize(header->body_bytes);
  TEMPO_RETURN_IF_ERROR(receive_all(socket, frame.body, frame.fds, deadline));
  return frame;
}

Result<Frame> expect_frame(int socket, FrameType type, std::size_t fds, Deadline deadline) {
  auto frame = receive_frame(socket, deadline);
  if (!frame) return frame;
  if (frame->type == FrameType::kRefused) return decode_refusal(frame->body);
  if (frame->type != type || frame->fds.size() != fds) {
    return Error{ErrorCode::kProtocol,
                 "unexpected frame",
                 "",
                 "type " + std::to_string(static_cast<int>(type)) + " with " + std::to_string(fds) +
                     " descriptors",
                 "type " + std::to_string(static_cast<int>(frame->type)) + " with " +
                     std::to_string(frame->fds.size()),
                 ""};
  }
  return frame;
}

}  // namespace tempo
