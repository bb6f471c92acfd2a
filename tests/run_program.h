// File: tests/run_program.h
// Runs a program to its end with its output in files, and looks for what it left behind.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

extern char** environ;

namespace tempo {

// One of the programs of this build.
inline std::string program(const std::string& name) {
  return std::string(TEMPO_BIN_DIR) + "/" + name;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct ProgramResult {
  int exit_code = -1;  // minus the signal that ended it; -1000 when it had to be killed
  std::string out;
  std::string err;
};

// A directory of its own for one test; programs run in it and use it for temporary files.
class Workspace {
 public:
  Workspace() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tempo-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
    std::filesystem::create_directory(path_ / "tmp");
  }
  ~Workspace() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

  // `while_running` is called once after the start, with the process's id.
  ProgramResult run(const std::vector<std::string>& arguments, int timeout_s = 120,
                    const std::function<void(pid_t)>& while_running = {}) const {
    std::vector<std::string> strings = arguments;
    std::vector<char*> argv;
    for (std::string& s : strings) argv.push_back(s.data());
    argv.push_back(nullptr);
    std::vector<std::string> environment;
    for (char** e = environ; *e != nullptr; ++e) {
      const std::string entry = *e;
      if (entry.rfind("TMPDIR=", 0) != 0 && entry.rfind("XDG_RUNTIME_DIR=", 0) != 0) {
        environment.push_back(entry);
      }
    }
    environment.push_back("TMPDIR=" + (path_ / "tmp").string());
    std::vector<char*> envp;
    for (std::string& s : environment) envp.push_back(s.data());
    envp.push_back(nullptr);

    const std::string out = (path_ / "stdout").string();
    const std::string err = (path_ / "stderr").string();
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                       0600);
    ::posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                       0600);
    pid_t pid = -1;
    const int spawned = ::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), envp.data());
    ::posix_spawn_file_actions_destroy(&actions);
    ProgramResult result;
    if (spawned != 0) return result;
    if (while_running) while_running(pid);
    result.exit_code = wait_for(pid, timeout_s);
    result.out = read_file(out);
    result.err = read_file(err);
    return result;
  }

  // Temporary files, shared memory and processes that programs of this test left behind, one a
  // line. Gives processes that are ending a moment.
  std::string leftovers(const std::string& bin_directory) const {
    std::string found;
    for (int attempt = 0; attempt < 50; ++attempt) {
      found.clear();
      for (const auto& entry : std::filesystem::directory_iterator(path_ / "tmp")) {
        found += entry.path().string() + "\n";
      }
      for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
        if (entry.path().filename().string().find("tempo") != std::string::npos) {
          found += entry.path().string() + "\n";
        }
      }
      std::error_code ignored;
      for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
        const std::string command = read_file(entry.path() / "cmdline");
        if (command.rfind(bin_directory + "/tempo", 0) == 0 &&
            command.find(path_.string()) != std::string::npos) {
          found += entry.path().string() + " " + command + "\n";
        }
      }
      if (found.empty()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return found;
  }

 private:
  static int wait_for(pid_t pid, int timeout_s) {
    using Clock = std::chrono::steady_clock;
    const auto deadline = Clock::now() + std::chrono::seconds(timeout_s);
    int status = 0;
    while (::waitpid(pid, &status, WNOHANG) == 0) {
      if (Clock::now() > deadline) {
        ::kill(pid, SIGKILL);
        ::waitpid(pid, &status, 0);
        return -1000;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  std::filesystem::path path_;
};

}  // namespace tempo
