#include "client/child_process.h"

#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <thread>
#include <utility>

#include "wire/fd.h"

namespace tempo {
namespace {

Error cannot_start(const ChildOptions& options, const char* why) {
  return {ErrorCode::kInternal, "cannot start " + options.name, options.arguments[0], "", why, ""};
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& text : strings) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> environment_with(const std::vector<std::string>& added) {
  std::vector<std::string> all = added;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string key = text.substr(0, text.find('=') + 1);
    bool replaced = false;
    for (const std::string& other : added) replaced = replaced || other.starts_with(key);
    if (!replaced) all.push_back(text);
  }
  return all;
}

// In the child, between fork and exec: system calls alone.
[[noreturn]] void become(const std::vector<char*>& arguments, const std::vector<char*>& environment,
                         int null_fd, int out_fd, int error_fd, pid_t parent) {
  ::setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) std::signal(number, SIG_DFL);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() == parent && ::dup2(null_fd, 0) >= 0 && ::dup2(out_fd, 1) >= 0 &&
      ::dup2(out_fd, 2) >= 0) {
    ::execve(arguments[0], arguments.data(), environment.data());
  }
  const int error = errno;
  [[maybe_unused]] const auto written = ::write(error_fd, &error, sizeof(error));
  ::_exit(127);
}

}  // namespace

Result<ChildProcess> ChildProcess::start(const ChildOptions& options) {
  const Fd null_fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const Fd log_fd(
      options.log_path.empty()
          ? ::fcntl(2, F_DUPFD_CLOEXEC, 3)
          : ::open(options.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  int pipe_fds[2] = {-1, -1};
  if (!null_fd.valid() || !log_fd.valid() || ::pipe2(pipe_fds, O_CLOEXEC) != 0) {
    return cannot_start(options, ::strerror(errno));
  }
  const Fd error_in(pipe_fds[0]);
  Fd error_out(pipe_fds[1]);
  const std::vector<std::string> environment = environment_with(options.environment);
  const auto argument_pointers = pointers(options.arguments);
  const auto environment_pointers = pointers(environment);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return cannot_start(options, ::strerror(errno));
  if (pid == 0) {
    become(argument_pointers, environment_pointers, null_fd.get(), log_fd.get(), error_out.get(),
           parent);
  }
  ChildProcess child(pid, options.name, options.log_path);
  error_out.reset();
  // Ends with the exec, which closes the pipe, or with the exec's error.
  int error = 0;
  ssize_t got;
  do {
    got = ::read(error_in.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  if (got == 0) return child;
  return Error{ErrorCode::kNotFound, "cannot start " + options.name,
               options.arguments[0], "a program",
               ::strerror(error),    "check the installation, or the flag that names the program"};
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      name_(std::move(other.name_)),
      log_path_(std::move(other.log_path_)),
      ended_(std::move(other.ended_)),
      exit_code_(other.exit_code_) {}

ChildProcess::~ChildProcess() {
  if (pid_ < 0 || ended()) return;
  kill();
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
}

const std::optional<std::string>& ChildProcess::ended() {
  if (ended_) return ended_;
  int status = 0;
  const pid_t reaped = ::waitpid(pid_, &status, WNOHANG);
  if (reaped == 0 || (reaped < 0 && errno == EINTR)) return ended_;
  if (reaped > 0 && WIFEXITED(status)) {
    exit_code_ = WEXITSTATUS(status);
    ended_ = "exit code " + std::to_string(*exit_code_);
  } else if (reaped > 0 && WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    ended_ = "signal " + std::to_string(number) + " (" + ::strsignal(number) + ")";
  } else {
    ended_ = "unknown";
  }
  return ended_;
}

std::string ChildProcess::last_words() const {
  constexpr std::streamoff kTail = 4096;
  constexpr std::size_t kMaxBytes = 400;
  if (log_path_.empty()) return "";
  std::ifstream log(log_path_, std::ios::binary | std::ios::ate);
  const std::streamoff size = log.tellg();
  if (size <= 0) return "";
  log.seekg(std::max<std::streamoff>(0, size - kTail));
  std::string line;
  std::string last;
  while (std::getline(log, line)) {
    if (!line.empty()) last = line.substr(0, kMaxBytes);
  }
  for (char& c : last) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return last;
}

void ChildProcess::signal(int number) {
  if (pid_ > 0 && !ended()) ::kill(pid_, number);
}

void ChildProcess::terminate() {
  signal(SIGTERM);
}
void ChildProcess::kill() {
  signal(SIGKILL);
}

bool ChildProcess::wait(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!ended()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace tempo
