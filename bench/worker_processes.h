// File: bench/worker_processes.h
// An off-loader and workers as real processes on this machine, for benchmarks.
#pragma once

#include <fmt/core.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "enclave/offload/ring_link.h"
#include "tests/child_process.h"

namespace tempo {

class WorkerProcesses {
 public:
  // Workers of one thread each. Errors: those of RingLink::attach.
  static Result<WorkerProcesses> start(int workers) {
    WorkerProcesses processes;
    char directory[] = "/tmp/tempo-bench-XXXXXX";
    if (::mkdtemp(directory) == nullptr) {
      return Error{.code = ErrorCode::kNoWorker, .what = "no directory in /tmp"};
    }
    processes.directory_ = directory;
    const std::string bin = TEMPO_BIN_DIR;
    std::string addresses;
    for (int i = 0; i < workers; ++i) {
      const std::string address = fmt::format("unix:{}/worker{}", directory, i);
      addresses += (i > 0 ? "," : "") + address;
      processes.children_.emplace_back(std::vector<std::string>{
          bin + "/tempo-worker", "--listen", address, "--threads", "1", "--log-level", "error"});
    }
    const std::string ring = processes.directory_ + "/ring";
    processes.children_.emplace_back(std::vector<std::string>{bin + "/tempo-offloader", "--listen",
                                                              "unix:" + ring, "--workers",
                                                              addresses, "--log-level", "error"});
    auto link = RingLink::attach(ring, RingGeometry{});
    if (!link) return link.error();
    processes.link_ = std::move(*link);
    return processes;
  }
  WorkerProcesses(WorkerProcesses&&) = default;
  ~WorkerProcesses() {
    link_.reset();
    children_.clear();
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  std::unique_ptr<RingLink> take_link() { return std::move(link_); }
  // Waits for the off-loader, which ends when its link is gone.
  bool ended_well() { return children_.back().wait() == 0; }

 private:
  WorkerProcesses() = default;
  std::string directory_;
  std::vector<Child> children_;
  std::unique_ptr<RingLink> link_;
};

}  // namespace tempo
