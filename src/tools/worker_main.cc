#include "tools/worker_main.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <string>

#include "base/omp_env.h"
#include "tools/daemon.h"
#include "worker/cpu_device.h"
#include "worker/server.h"

namespace tempo {
namespace {

struct Flags {
  std::string listen;
  std::string memory = "auto";
  int threads = 0;
  std::string device = "cpu";
  std::string log_level = "info";
  bool exit_with_parent = false;
};

void add_flags(CLI::App& app, Flags& flags) {
  app.add_option("--listen", flags.listen, "where the off-loader connects, unix:PATH")->required();
  app.add_option("--memory", flags.memory,
                 "limit of what is kept: bytes, with K, M or G; or auto, half of what is free")
      ->capture_default_str();
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

Status run(const Flags& flags, WorkerExtension* extension, int parent) {
  auto path = parse_unix_address(flags.listen);
  if (!path) return path.error();
  CpuDevice device(flags.threads);
  StoreLimits limits;
  if (flags.memory == "auto") {
    limits.bytes = device.default_memory_bytes();
  } else {
    auto bytes = parse_bytes(flags.memory);
    if (!bytes) return bytes.error();
    limits.bytes = *bytes;
  }
  std::unique_ptr<WorkerHooks> hooks;
  if (extension != nullptr) {
    auto made = extension->make_hooks();
    if (!made) return made.error();
    hooks = std::move(*made);
  }
  auto stop = stop_signals();
  if (!stop) return stop.error();
  if (flags.exit_with_parent && !exit_with_parent(parent)) return {};
  auto listener = UnixListener::open(*path);
  if (!listener) return listener.error();
  spdlog::info("listening on {} ({}, {} MiB)", flags.listen, device.name(), limits.bytes >> 20);
  return serve_offloaders(*listener, device, limits, hooks.get(), stop->get());
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
