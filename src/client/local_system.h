// File: client/local_system.h
// A whole Tempo on this machine for one run: tempo-worker times N, tempo-offloader, tempo-enclave,
// their sockets and logs in a private directory. Nothing of it outlives the object.
// Thread safety: one thread, the one that started it.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "client/child_process.h"
#include "client/interrupt.h"
#include "client/runtime_directory.h"

namespace tempo {

struct LocalSystemOptions {
  int workers = 0;  // started here
  // Addresses of others that the off-loader takes, as its --workers does. None of either: no
  // off-loader.
  std::vector<std::string> other_workers;
  std::vector<std::string> offloader_flags;  // more of them
  int worker_threads = 0;
  std::string worker_memory = "auto";
  int enclave_threads = 0;
  // Programs in place of those next to this one, for tests: each may have arguments after it,
  // separated by spaces. worker_programs: for the first workers, in order.
  std::string enclave_program;
  std::string offloader_program;
  std::vector<std::string> worker_programs;
  bool verbose = false;        // the children's logs go to stderr
  std::string directory_base;  // see RuntimeDirectory

  bool has_offloader() const { return workers > 0 || !other_workers.empty(); }
};

class LocalSystem {
 public:
  // Returns when the enclave answers. Errors: kNotFound for a missing program; kNoWorker,
  // kInternal or the program's own code when one ends at once or does not get ready; kInterrupted.
  static Result<LocalSystem> start(const LocalSystemOptions& options, const Interrupt& interrupt);
  LocalSystem(LocalSystem&&) = default;
  LocalSystem& operator=(LocalSystem&&) = delete;
  ~LocalSystem();  // ends all of it within a few seconds

  std::string api_path() const { return directory_.file("api.sock"); }
  // One line about the first child that is not there any more, or nothing: why a job failed.
  std::optional<Error> lost_child();
  // At once, without asking.
  void kill_all();

 private:
  explicit LocalSystem(RuntimeDirectory directory) : directory_(std::move(directory)) {}

  Status start_all(const LocalSystemOptions& options);
  Status start_child(ChildOptions child, const std::string& own, const std::string& program,
                     bool verbose);
  Status wait_until_ready(const LocalSystemOptions& options, const Interrupt& interrupt);

  RuntimeDirectory directory_;
  std::vector<ChildProcess> children_;  // workers, off-loader, enclave
};

// The path of a program of Tempo: next to this one.
std::string sibling_program(const std::string& name);

}  // namespace tempo
