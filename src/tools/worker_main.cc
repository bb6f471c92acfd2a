#include "tools/worker_main.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/omp_env.h"
#include "tools/daemon.h"
#include "tools/tls_flags.h"
#include "wire/worker_address.h"
#include "worker/cpu_device.h"
#include "worker/health_server.h"
#include "worker/self_check.h"
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
  std::string health;
  bool check = false;
  int threads = 0;
  std::string device = "cpu";
  std::string log_level = "info";
  bool exit_with_parent = false;
};

void add_flags(CLI::App& app, Flags& flags, const WorkerExtension* extension) {
  std::vector<std::string> devices{"cpu"};
  if (extension != nullptr) {
    for (std::string& name : extension->devices()) devices.push_back(std::move(name));
  }
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
  app.add_option("--health", flags.health, "answer GET /healthz and /readyz there, HOST:PORT");
  app.add_flag(
      "--check", flags.check,
      "see whether the worker could start with these flags, and whether its device computes "
      "what it should; print a line each, and exit");
  app.add_option("--threads", flags.threads, "threads of a product; 0: as many as there are cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--device", flags.device, "what computes")
      ->check(CLI::IsMember(devices))
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

// All that listens.
struct Services {
  Serving serving;
  std::vector<UnixListener> listeners;
  std::unique_ptr<TcpService> tcp;       // null: none
  std::unique_ptr<HealthServer> health;  // null: none
};

struct Settings {
  std::vector<WorkerAddress> listen;
  std::optional<WorkerAddress> health;
  RelayLimits relay_limits;
  std::shared_ptr<TlsContext> tls;
};

Result<Settings> read_settings(const Flags& flags) {
  Settings settings;
  auto addresses = parse_listens(flags);
  if (!addresses) return addresses.error();
  settings.listen = std::move(*addresses);
  if (!flags.health.empty()) {
    auto health = parse_host_port(flags.health);
    if (!health) return health.error();
    settings.health = std::move(*health);
  }
  const auto relay_limits = parse_window(flags.window);
  if (!relay_limits) return relay_limits.error();
  settings.relay_limits = *relay_limits;
  auto tls = make_tls(flags.tls, TlsRole::kWorker);
  if (!tls) return tls.error();
  settings.tls = std::move(*tls);
  return settings;
}

// executor and device outlive the services.
Status listen(const Settings& settings, const TaskExecutor& executor, const Device& device,
              Services& services) {
  TcpServiceOptions network;
  network.limits = settings.relay_limits;
  network.info = worker_info(device, executor.store().limits());
  network.tls = settings.tls;
  for (const WorkerAddress& address : settings.listen) {
    if (address.is_tcp()) {
      if (settings.tls == nullptr && !is_loopback(address)) {
        spdlog::warn("{} has no TLS: whoever reaches it can use this worker", address.text);
      }
      network.listen.push_back(address);
      continue;
    }
    auto listener = UnixListener::open(address.path);
    if (!listener) return listener.error();
    services.listeners.push_back(std::move(*listener));
  }
  if (!network.listen.empty()) {
    auto started = TcpService::start(std::move(network), services.serving);
    if (!started) return started.error();
    services.tcp = std::move(*started);
  }
  if (!settings.health) return {};
  const auto look = [&executor, &serving = services.serving, name = device.name()] {
    return Health{TEMPO_VERSION,
                  name,
                  executor.store().limits().bytes,
                  executor.bytes_in_use(),
                  executor.tasks_done(),
                  serving.claimed()};
  };
  auto health = HealthServer::start(*settings.health, look);
  if (!health) return health.error();
  services.health = std::move(*health);
  return {};
}

// A line each of what is in order; stops at the first thing that is not.
Status check(const Settings& settings, const TaskExecutor& executor, Device& device) {
  TEMPO_RETURN_IF_ERROR(check_device(device));
  std::printf("device: ok: %s: products agree with double precision\n", device.name().c_str());
  const std::uint64_t limit = executor.store().limits().bytes;
  // Of what is free, the default takes half.
  const std::uint64_t available = 2 * device.default_memory_bytes();
  if (limit > available) {
    return Error{ErrorCode::kOutOfMemory,
                 "the device has less memory than the limit",
                 "--memory",
                 "at most " + std::to_string(available),
                 std::to_string(limit) + " bytes",
                 "choose a smaller limit"};
  }
  std::printf("memory: ok: limit %llu MiB\n", static_cast<unsigned long long>(limit >> 20));
  std::printf("tls: %s\n", settings.tls ? "ok: certificate, key and CA" : "none");
  Services services;
  TEMPO_RETURN_IF_ERROR(listen(settings, executor, device, services));
  for (const WorkerAddress& address : settings.listen) {
    std::printf("listen: ok: %s\n", address.text.c_str());
  }
  if (settings.health) std::printf("health: ok: %s\n", settings.health->text.c_str());
  return {};
}

Result<std::unique_ptr<Device>> make_device(const Flags& flags, const Settings& settings,
                                            WorkerExtension* extension) {
  if (flags.device != "cpu") {
    return extension->make_device(flags.device, flags.threads, settings.listen);
  }
  return std::unique_ptr<Device>(std::make_unique<CpuDevice>(flags.threads));
}

Status run(const Flags& flags, WorkerExtension* extension, int parent) {
  const auto settings = read_settings(flags);
  if (!settings) return settings.error();
  auto made_device = make_device(flags, *settings, extension);
  if (!made_device) return made_device.error();
  Device& device = **made_device;
  const auto limits = parse_memory(flags.memory, device);
  if (!limits) return limits.error();
  std::unique_ptr<WorkerHooks> hooks;
  if (extension != nullptr) {
    auto made = extension->make_hooks();
    if (!made) return made.error();
    hooks = std::move(*made);
  }
  TaskExecutor executor(device, *limits, hooks.get());
  if (flags.check) return check(*settings, executor, device);
  auto stop = stop_signals();
  if (!stop) return stop.error();
  if (flags.exit_with_parent && !exit_with_parent(parent)) return {};
  // What /healthz answers rests on that.
  if (settings->health) TEMPO_RETURN_IF_ERROR(check_device(device));
  Services services;
  TEMPO_RETURN_IF_ERROR(listen(*settings, executor, device, services));
  for (const WorkerAddress& address : settings->listen) {
    spdlog::info("listening on {} ({}, {} MiB)", address.text, device.name(), limits->bytes >> 20);
  }
  return serve_offloaders(services.listeners, services.tcp.get(), executor, device,
                          services.serving, stop->get());
}

}  // namespace

int worker_main(int argc, char** argv, const char* name, WorkerExtension* extension) {
  ensure_passive_openmp(argv);
  const int parent = ::getppid();
  Flags flags;
  CLI::App app("Keeps encoded operands and multiplies them for an off-loader.", name);
  app.set_version_flag("--version", std::string(name) + " " + TEMPO_VERSION);
  add_flags(app, flags, extension);
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
