// File: wire/doorbell.h
// Doorbells: single bytes on the control socket, in either direction, once the handshake is over.
// What they say does not matter, and none is ever waited for without a bound; the end of the stream
// is the end of the session.
//
// A socket and not an eventfd: whether an eventfd blocks is a property that both holders can
// change, so that a hostile peer could hang whoever rings it. Here every call says MSG_DONTWAIT.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cstddef>

namespace tempo {

inline void ring_doorbell(int socket) {
  // A full buffer means that the peer has more than enough to wake up for.
  [[maybe_unused]] const auto sent = ::send(socket, "!", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// Takes what has arrived (some of it, under a flood). False: the peer is gone.
inline bool answer_doorbell(int socket) {
  std::byte bytes[256];
  const auto got = ::recv(socket, bytes, sizeof(bytes), MSG_DONTWAIT);
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
}

}  // namespace tempo
