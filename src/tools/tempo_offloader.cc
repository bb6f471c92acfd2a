// tempo-offloader: moves encoded tiles between one enclave and its workers. Untrusted.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "offloader/offloader.h"
#include "tools/daemon.h"
#include "tools/tls_flags.h"

namespace {

constexpr const char* kName = "tempo-offloader";

struct Flags {
  std::string listen;
  std::vector<std::string> workers;
  tempo::TlsFiles tls;
  std::string memory_limit = "16G";
  int connect_timeout_ms = 5000;
  std::string log_level = "info";
  bool exit_with_parent = false;
};

tempo::Status run(const Flags& flags, int parent) {
  using namespace tempo;
  OffloaderOptions options;
  auto listen = parse_unix_address(flags.listen);
  if (!listen) return listen.error();
  auto workers = parse_worker_list(flags.workers);
  if (!workers) return workers.error();
  options.workers = std::move(*workers);
  options.workers.tls = flags.tls;
  auto memory_limit = parse_bytes(flags.memory_limit);
  if (!memory_limit) return memory_limit.error();
  options.memory_limit_bytes = *memory_limit;
  options.connect_timeout_ms = flags.connect_timeout_ms;

  auto stop = stop_signals();
  if (!stop) return stop.error();
  options.stop_fd = stop->get();
  if (flags.exit_with_parent && !exit_with_parent(parent)) return {};
  auto listener = UnixListener::open(*listen);
  if (!listener) return listener.error();
  return run_offloader(std::move(*listener), options);
}

}  // namespace

int main(int argc, char** argv) {
  const int parent = ::getppid();
  Flags flags;
  CLI::App app(
      "Moves encoded tiles between an enclave and its workers. Serves one enclave, then "
      "exits.",
      kName);
  app.set_version_flag("--version", std::string(kName) + " " + TEMPO_VERSION);
  app.add_option("--listen", flags.listen, "where the enclave attaches, unix:PATH")->required();
  app.add_option("--workers", flags.workers,
                 "the workers' addresses, with commas between them: tcp://HOST:PORT, unix:PATH, or "
                 "file:PATH of a file with one a line, which is watched")
      ->required()
      ->delimiter(',');
  tempo::add_tls_flags(app, flags.tls);
  app.add_option("--memory-limit", flags.memory_limit,
                 "shared memory that one enclave may ask for, with K, M or G")
      ->capture_default_str();
  app.add_option("--connect-timeout-ms", flags.connect_timeout_ms,
                 "how long to wait for the workers to answer; those that do not may join later")
      ->check(CLI::Range(1, 600000))
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level, "what to log on stderr")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_flag("--exit-with-parent", flags.exit_with_parent,
               "end when the program that started this one ends");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return tempo::report(kName, {tempo::ErrorCode::kUsage, error.what(), "", "", "",
                                 "see " + std::string(kName) + " --help"});
  }
  tempo::log_to_stderr(kName, flags.log_level);
  const tempo::Status status = run(flags, parent);
  return status.ok() ? 0 : tempo::report(kName, status.error());
}
