#include "wire/worker_address.h"

#include <charconv>
#include <string_view>

#include "wire/unix_socket.h"

namespace tempo {
namespace {

constexpr std::string_view kTcp = "tcp://";
constexpr std::size_t kMaxHost = 253;  // the longest name in DNS

// Splits "host:port" and "[host]:port". Empty host: malformed.
void split(std::string_view text, std::string_view& host, std::string_view& port) {
  const bool bracketed = text.starts_with('[');
  const std::size_t end = bracketed ? text.find("]:") : text.rfind(':');
  if (end == std::string_view::npos) return;
  host = bracketed ? text.substr(1, end - 1) : text.substr(0, end);
  port = text.substr(end + (bracketed ? 2 : 1));
  const bool is_v6 = host.find(':') != std::string_view::npos;
  if (is_v6 != bracketed) host = {};
}

bool host_ok(std::string_view host) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:%";
  return !host.empty() && host.size() <= kMaxHost &&
         host.find_first_not_of(kAllowed) == std::string_view::npos;
}

}  // namespace

Result<WorkerAddress> parse_host_port(const std::string& text) {
  WorkerAddress address;
  address.text = text;
  std::string_view host, port;
  split(text, host, port);
  const char* const end = port.data() + port.size();
  const auto [rest, failure] = std::from_chars(port.data(), end, address.port);
  if (host_ok(host) && failure == std::errc() && rest == end) {
    address.host = host;
    return address;
  }
  return Error{ErrorCode::kUsage,
               "not a host and a port",
               text,
               "HOST:PORT with a port up to 65535; IPv6 as [ADDRESS]:PORT",
               "",
               ""};
}

Result<WorkerAddress> parse_worker_address(const std::string& text) {
  if (text.starts_with(kTcp)) {
    auto address = parse_host_port(text.substr(kTcp.size()));
    if (address) {
      address->text = text;
      return address;
    }
  } else if (text.starts_with("unix:")) {
    auto path = parse_unix_address(text);
    if (!path) return path.error();
    WorkerAddress address;
    address.text = text;
    address.path = std::move(*path);
    return address;
  }
  return Error{ErrorCode::kUsage,
               "not a worker's address",
               text,
               "tcp://HOST:PORT (IPv6: tcp://[ADDRESS]:PORT) or unix:PATH",
               "",
               ""};
}

}  // namespace tempo
