#include "client/local_system.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>

#include "client/http_client.h"
#include "client/job_client.h"

namespace tempo {
namespace {

constexpr std::chrono::seconds kStartLimit{30};
constexpr std::chrono::seconds kStopLimit{4};

std::string unix_address(const std::string& path) {
  return "unix:" + path;
}

// Whether somebody listens on this Unix socket, without connecting: the off-loader serves one
// enclave and a worker's first connection counts. Column 4 of /proc/net/unix are the flags,
// __SO_ACCEPTCON among them; the path is the last column.
bool is_listening(const std::string& path) {
  std::ifstream table("/proc/net/unix");
  for (std::string line; std::getline(table, line);) {
    if (!line.ends_with(" " + path)) continue;
    std::istringstream fields(line);
    std::string address, references, protocol, flags;
    fields >> address >> references >> protocol >> flags;
    if (flags == "00010000") return true;
  }
  return false;
}

std::vector<std::string> command_of(const std::string& own, const std::string& program) {
  if (program.empty()) return {sibling_program(own)};
  if (::access(program.c_str(), X_OK) == 0) return {program};  // also a path with spaces
  std::istringstream words(program);
  std::vector<std::string> command;
  for (std::string word; words >> word;) command.push_back(word);
  if (command.empty()) command.push_back(program);
  return command;
}

// Never more than the machine has: idle threads of many workers cost more than they give.
int threads_each(const LocalSystemOptions& options) {
  if (options.worker_threads > 0) return options.worker_threads;
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  return std::max(1, cores / std::max(1, options.workers));
}

}  // namespace

std::string sibling_program(const std::string& name) {
  std::error_code ec;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", ec);
  return (self.parent_path() / name).string();
}

Result<LocalSystem> LocalSystem::start(const LocalSystemOptions& options,
                                       const Interrupt& interrupt) {
  auto directory = RuntimeDirectory::create(options.directory_base);
  if (!directory) return directory.error();
  LocalSystem system(std::move(*directory));
  TEMPO_RETURN_IF_ERROR(system.start_all(options));
  TEMPO_RETURN_IF_ERROR(system.wait_until_ready(options, interrupt));
  return system;
}

LocalSystem::~LocalSystem() {
  const auto deadline = std::chrono::steady_clock::now() + kStopLimit;
  // From the enclave outwards, so that nobody reports the others as lost.
  for (auto child = children_.rbegin(); child != children_.rend(); ++child) child->terminate();
  for (auto child = children_.rbegin(); child != children_.rend(); ++child) {
    child->wait(std::chrono::duration_cast<std::chrono::milliseconds>(std::max(
        deadline - std::chrono::steady_clock::now(), std::chrono::steady_clock::duration::zero())));
  }
  children_.clear();  // kills what is left, before the directory goes
}

void LocalSystem::kill_all() {
  for (ChildProcess& child : children_) child.kill();
}

Status LocalSystem::start_child(ChildOptions child, const std::string& own,
                                const std::string& program, bool verbose) {
  std::vector<std::string> command = command_of(own, program);
  command.insert(command.end(), child.arguments.begin(), child.arguments.end());
  command.push_back("--exit-with-parent");
  child.arguments = std::move(command);
  child.environment = {"OMP_WAIT_POLICY=passive"};
  if (!verbose) child.log_path = directory_.file(own + "-" + std::to_string(children_.size()));
  auto started = ChildProcess::start(child);
  if (!started) return started.error();
  children_.push_back(std::move(*started));
  return {};
}

Status LocalSystem::start_all(const LocalSystemOptions& options) {
  std::string workers;
  for (int i = 0; i < options.workers; ++i) {
    const std::string number = std::to_string(i);
    const std::string address = unix_address(directory_.file("worker-" + number + ".sock"));
    workers += (workers.empty() ? "" : ",") + address;
    const auto index = static_cast<std::size_t>(i);
    TEMPO_RETURN_IF_ERROR(
        start_child({"worker " + number,
                     {"--listen", address, "--threads", std::to_string(threads_each(options)),
                      "--memory", options.worker_memory},
                     {},
                     ""},
                    "tempo-worker",
                    index < options.worker_programs.size() ? options.worker_programs[index] : "",
                    options.verbose));
  }
  std::vector<std::string> enclave = {"--api", unix_address(api_path()), "--threads",
                                      std::to_string(options.enclave_threads)};
  if (options.has_offloader()) {
    for (const std::string& other : options.other_workers) {
      workers += (workers.empty() ? "" : ",") + other;
    }
    const std::string address = unix_address(directory_.file("offloader.sock"));
    std::vector<std::string> offloader = {"--listen", address, "--workers", workers};
    offloader.insert(offloader.end(), options.offloader_flags.begin(),
                     options.offloader_flags.end());
    TEMPO_RETURN_IF_ERROR(start_child({"the off-loader", offloader, {}, ""}, "tempo-offloader",
                                      options.offloader_program, options.verbose));
    enclave.insert(enclave.end(), {"--offloader", address});
  }
  return start_child({"the enclave", enclave, {}, ""}, "tempo-enclave", options.enclave_program,
                     options.verbose);
}

Status LocalSystem::wait_until_ready(const LocalSystemOptions& options,
                                     const Interrupt& interrupt) {
  std::vector<std::string> sockets = {api_path()};
  if (options.has_offloader()) sockets.push_back(directory_.file("offloader.sock"));
  for (int i = 0; i < options.workers; ++i) {
    sockets.push_back(directory_.file("worker-" + std::to_string(i) + ".sock"));
  }
  const auto deadline = std::chrono::steady_clock::now() + kStartLimit;
  while (!sockets.empty()) {
    if (interrupt.count() > 0) return Error{ErrorCode::kInterrupted, "interrupted", "", "", "", ""};
    if (is_listening(sockets.back())) {
      sockets.pop_back();
      continue;
    }
    if (auto lost = lost_child()) return std::move(*lost);
    if (std::chrono::steady_clock::now() >= deadline) {
      return Error{ErrorCode::kInternal,
                   "a program of Tempo does not get ready",
                   sockets.back(),
                   "within " + std::to_string(kStartLimit.count()) + " s",
                   "",
                   "run again with --verbose"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const auto version = JobClient(HttpClient(api_path(), interrupt.fd())).health();
  return version ? Status() : version.error();
}

std::optional<Error> LocalSystem::lost_child() {
  for (ChildProcess& child : children_) {
    const auto& ended = child.ended();
    if (!ended) continue;
    ErrorCode code =
        child.name().starts_with("worker") ? ErrorCode::kNoWorker : ErrorCode::kInternal;
    // A program that says what is wrong by its exit code: 126 and 127 are a shell's.
    const int exit_code = child.exit_code().value_or(0);
    if (exit_code >= 2 && exit_code <= static_cast<int>(ErrorCode::kIo) &&
        code != ErrorCode::kNoWorker) {
      code = static_cast<ErrorCode>(exit_code);
    }
    return Error{code,
                 child.name() + " has ended",
                 "",
                 "",
                 *ended,
                 child.last_words().empty() ? "run again with --verbose"
                                            : "its last words: " + child.last_words()};
  }
  return std::nullopt;
}

}  // namespace tempo
