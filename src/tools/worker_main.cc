#include "tools/worker_main.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/omp_env.h"
#include "tools/daemon.h"
#include "tools/tls_flags.h"
#include "wire/worker_address.h"
#include "worker/cpu_device.h"
#include "worker/server.h"
#include "worker/tcp_service.h"

namespace tempo {
namespace {

constexpr int kMaxListens = 16;

struct Flags {
  std::vector<std::string> listen;
  std::string memory = "auto";
  std::string window = "256M";
  TlsFiles tls;
  int threads = 0;
  std::string device = "cpu";
  std::string log_level = "info";
  bool exit_with_parent = false;
};

void add_flags(CLI::App& app, Flags& flags) {
  app.add_option("--listen", flags.listen,
                 "where the off-loader connects: unix:PATH or tcp://HOST:PORT; may be repeated")
      ->required()
      ->expected(1, kMaxListens);
  app.add_option("--memory", flags.memory,
                 "limit of what is kept: bytes, with K, M or G; or auto, half of what is free")
      ->capture_default_str();
  app.add_option("--window", flags.window,
                 "tcp: limit of what is under way, and so of a single operand or result")
      ->capture_default_str();
  add_tls_flags(app, flags.tls);
  app.add_option("--threads", flags.threads, "threads of a product; 0: as many as there are cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--device", flags.device, "what computes")
      ->check(CLI::IsMember({"cpu"}))
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level, "what to log on stderr")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_flag("--exit-with-parent", flags.exit_with_parent,
               "end when the program that started this one ends");
}

Result<std::vector<WorkerAddress>> parse_listens(const Flags& flags) {
  std::vector<WorkerAddress> addresses;
  for (const std::string& text : flags.listen) {
    auto address = parse_worker_address(text);
    if (!address) return address.error();
    addresses.push_back(std::move(*address));
  }
  return addresses;
}

Result<RelayLimits> parse_window(const std::string& text) {
  auto bytes = parse_bytes(text);
  if (!bytes) return bytes.error();
  if (*bytes >= kRelayBlockBytes && *bytes <= kMaxRelayWindow) {
    const std::uint64_t whole = *bytes / kRelayBlockBytes * kRelayBlockBytes;
    return RelayLimits{whole, whole, RelayLimits().max_tasks};
  }
  return Error{ErrorCode::kUsage, "no such window", "--window", "4K to 1T", text, ""};
}

Result<StoreLimits> parse_memory(const std::string& text, const Device& device) {
  StoreLimits limits;
  if (text == "auto") {
    limits.bytes = device.default_memory_bytes();
    return limits;
  }
  auto bytes = parse_bytes(text);
  if (!bytes) return bytes.error();
  limits.bytes = *bytes;
  return limits;
}

Status serve(const std::vector<WorkerAddress>& addresses, const RelayLimits& relay_limits,
             std::shared_ptr<TlsContext> tls, TaskExecutor& executor, const Device& device,
             int stop_fd) {
  Serving serving;
  std::vector<UnixListener> listeners;
  TcpServiceOptions network;
  network.limits = relay_limits;
  network.info = worker_info(device, executor.store().limits());
  for (const WorkerAddress& address : addresses) {
    if (address.is_tcp()) {
      if (tls == nullptr && !is_loopback(address)) {
        spdlog::warn("{} has no TLS: whoever reaches it can use this worker", address.text);
      }
      network.listen.push_back(address);
      continue;
    }
    auto listener = UnixListener::open(address.path);
    if (!listener) return listener.error();
    listeners.push_back(std::move(*listener));
  }
  network.tls = std::move(tls);
  std::unique_ptr<TcpService> tcp;
  if (!network.listen.empty()) {
    auto started = TcpService::start(std::move(network), serving);
    if (!started) return started.error();
    tcp = std::move(*started);
  }
  for (const WorkerAddress& address : addresses) {
    spdlog::info("listening on {} ({}, {} MiB)", address.text, device.name(),
                 executor.store().limits().bytes >> 20);
  }
  return serve_offloaders(listeners, tcp.get(), executor, device, serving, stop_fd);
}

Status run(const Flags& flags, WorkerExtension* extension, int parent) {
  const auto addresses = parse_listens(flags);
  if (!addresses) return addresses.error();
  const auto relay_limits = parse_window(flags.window);
  if (!relay_limits) return relay_limits.error();
  auto tls = make_tls(flags.tls, TlsRole::kWorker);
  if (!tls) return tls.error();
  CpuDevice device(flags.threads);
  const auto limits = parse_memory(flags.memory, device);
  if (!limits) return limits.error();
  std::unique_ptr<WorkerHooks> hooks;
  if (extension != nullptr) {
    auto made = extension->make_hooks();
    if (!made) return made.error();
    hooks = std::move(*made);
  }
  auto stop = stop_signals();
  if (!stop) return stop.error();
  if (flags.exit_with_parent && !exit_with_parent(parent)) return {};
  TaskExecutor executor(device, *limits, hooks.get());
  return serve(*addresses, *relay_limits, std::move(*tls), executor, device, stop->get());
}

}  // namespace

int worker_main(int argc, char** argv, const char* name, WorkerExtension* extension) {
  ensure_passive_openmp(argv);
  const int parent = ::getppid();
  Flags flags;
  CLI::App app("Keeps encoded operands and multiplies them for an off-loader.", name);
  app.set_version_flag("--version", std::string(name) + " " + TEMPO_VERSION);
  add_flags(app, flags);
  if (extension != nullptr) extension->add_flags(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report(name, {ErrorCode::kUsage, error.what(), "", "", "",
                         "see " + std::string(name) + " --help"});
  }
  log_to_stderr(name, flags.log_level);
  const Status status = run(flags, extension, parent);
  return status.ok() ? 0 : report(name, status.error());
}

}  // namespace tempo
