// File: client/child_process.h
// One program that this process started and ends.
// Thread safety: one thread, the one that started it (the kernel ties the child's life to it).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace tempo {

struct ChildOptions {
  std::string name;                    // for messages: "worker 0"
  std::vector<std::string> arguments;  // the program's path first
  // NAME=VALUE, in addition to this process's environment.
  std::vector<std::string> environment;
  std::string log_path;  // stderr and stdout go there; empty: to this process's stderr
};

class ChildProcess {
 public:
  // In a process group of its own, so that a terminal's Ctrl-C reaches this process alone; gets
  // SIGTERM when this process dies. Errors: kNotFound when the program is missing or no program,
  // kInternal when the system cannot start another process.
  static Result<ChildProcess> start(const ChildOptions& options);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();  // kill() and wait

  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }

  // How it ended ("exit code 7", "signal 9 (Killed)"), or nothing while it runs.
  const std::optional<std::string>& ended();
  std::optional<int> exit_code() const { return exit_code_; }
  // The last line that it wrote to its log, printable, at most 400 bytes.
  std::string last_words() const;

  void terminate();  // SIGTERM
  void kill();       // SIGKILL
  // True when it ended in time.
  bool wait(std::chrono::milliseconds limit);

 private:
  ChildProcess(pid_t pid, std::string name, std::string log_path)
      : pid_(pid), name_(std::move(name)), log_path_(std::move(log_path)) {}
  void signal(int number);

  pid_t pid_;  // -1: moved from
  std::string name_;
  std::string log_path_;
  std::optional<std::string> ended_;
  std::optional<int> exit_code_;
};

}  // namespace tempo
