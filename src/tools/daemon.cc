#include "tools/daemon.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <limits>

namespace tempo {

Result<Fd> stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  std::signal(SIGPIPE, SIG_IGN);
  Fd fd;
  if (::pthread_sigmask(SIG_BLOCK, &signals, nullptr) == 0) {
    fd = Fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  if (fd.valid()) return fd;
  return Error{ErrorCode::kInternal, "cannot watch for signals", "", "", "", ""};
}

bool exit_with_parent(int parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  // It may have died before the kernel knew of the wish.
  return ::getppid() == parent;
}

void log_to_stderr(const std::string& name, const std::string& level) {
  auto logger =
      std::make_shared<spdlog::logger>(name, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%n: %l: %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

int report(const std::string& name, const Error& error) {
  std::fprintf(stderr, "%s: error: %s\n", name.c_str(), error.one_line().c_str());
  return static_cast<int>(error.code);
}

Result<std::uint64_t> parse_bytes(const std::string& text) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, failure] = std::from_chars(text.data(), end, value);
  int shift = 0;
  bool ok = failure == std::errc();
  if (ok && rest != end) {
    shift = *rest == 'K' ? 10 : *rest == 'M' ? 20 : *rest == 'G' ? 30 : *rest == 'T' ? 40 : 0;
    ok = shift > 0 && rest + 1 == end;
  }
  if (ok && value <= std::numeric_limits<std::uint64_t>::max() >> shift) return value << shift;
  return Error{ErrorCode::kUsage,
               "not a number of bytes",
               text,
               "a number, with K, M, G or T for powers of 1024",
               "",
               ""};
}

}  // namespace tempo
