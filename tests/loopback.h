// File: tests/loopback.h
// TCP on this host, for tests.
#pragma once

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>

#include "wire/fd.h"

namespace tempo {

inline sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// host: an address, in brackets or not, or a name.
inline Fd connect_to(std::uint16_t port, const std::string& host = "127.0.0.1") {
  const std::string bare = host[0] == '[' ? host.substr(1, host.size() - 2) : host;
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(bare.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return Fd();
  Fd connected;
  for (const addrinfo* each = found; each != nullptr && !connected.valid(); each = each->ai_next) {
    Fd socket(::socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(socket.get(), each->ai_addr, each->ai_addrlen) == 0) {
      connected = std::move(socket);
    }
  }
  ::freeaddrinfo(found);
  return connected;
}

inline bool has_ipv6() {
  const Fd socket(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

// One that nobody uses now, below those that the kernel gives to clients.
inline std::uint16_t free_port() {
  // Far from where tests beside this one, of the next process numbers, begin.
  static std::uint16_t next = static_cast<std::uint16_t>(20000 + ::getpid() * 101 % 12000);
  for (;;) {
    const sockaddr_in address = loopback(++next);
    const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      return next;
    }
  }
}

}  // namespace tempo
