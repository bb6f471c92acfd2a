#include "enclave/server/enclave_main.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>

#include "enclave/server/http_server.h"
#include "enclave/server/ops_json.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

int fail(const Error& error) {
  std::fprintf(stderr, "tempo-enclave: %s\n", error.one_line().c_str());
  return static_cast<int>(error.code);
}

// False when the parent is gone already.
bool exit_with_parent() {
  const pid_t parent = ::getppid();
  return ::prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && ::getppid() == parent;
}

sigset_t ending_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

int serve(const std::string& api_path, const EnclaveOptions& options,
          const JobRunnerFactory& make_runner) {
  // Blocked before any thread starts, so that all of them inherit it and sigwait() gets them.
  const sigset_t signals = ending_signals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const std::unique_ptr<JobRunner> runner = make_runner(options);
  const ApiLimits limits;
  JobStore store(*runner, limits);
  Api api(store, limits, ops_to_json(op_table()));
  auto server = HttpServer::start(api_path, api, limits);
  if (!server) return fail(server.error());
  int signal = 0;
  ::sigwait(&signals, &signal);
  const bool ended = store.shut_down(std::chrono::seconds(2));
  server->reset();  // removes the socket's file
  // A step may take longer than anybody wants to wait, and nothing of it is kept anyway.
  if (!ended) ::_exit(0);
  return 0;
}

}  // namespace

int enclave_main(int argc, char** argv, const JobRunnerFactory& make_runner) {
  CLI::App app("Tempo's trusted side: trains and runs models for the clients of its job API.",
               "tempo-enclave");
  std::string api;
  std::string offloader;
  EnclaveOptions options;
  bool with_parent = false;
  app.add_option("--api", api, "where to serve the job API: unix:PATH")->required();
  app.add_option("--offloader", offloader, "the off-loader's socket: unix:PATH; none: no workers");
  app.add_option("--threads", options.threads, "threads of jobs that do not say; 0: one a core")
      ->check(CLI::Range(0, 1024));
  app.add_flag("--exit-with-parent", with_parent, "end when the starting process ends");
  app.set_version_flag("--version", std::string("tempo-enclave ") + TEMPO_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    return fail({ErrorCode::kUsage, e.what(), "", "", "", "see tempo-enclave --help"});
  }
  if (with_parent && !exit_with_parent()) return 0;
  const auto api_path = parse_unix_address(api);
  if (!api_path) return fail(api_path.error());
  if (!offloader.empty()) {
    auto path = parse_unix_address(offloader);
    if (!path) return fail(path.error());
    options.offloader_path = std::move(*path);
  }
  try {
    return serve(*api_path, options, make_runner);
  } catch (const std::exception& e) {
    return fail({ErrorCode::kInternal, e.what(), "", "", "", "please report this"});
  }
}

}  // namespace tempo
