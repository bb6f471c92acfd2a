// File: tests/ring_fixture.h
// A real off-loader and the enclave's end of its ring; workers are the test's.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "enclave/offload/ring_link.h"
#include "tests/child_process.h"
#include "tests/run_program.h"

namespace tempo {

class RingTest : public testing::Test {
 protected:
  static constexpr RingGeometry kGeometry{16, 64, 65536};
  static constexpr int kPatienceMs = 20000;

  RingTest() { std::filesystem::create_directory(path("")); }

  // In a directory that is empty at first.
  std::string path(const std::string& name) const { return workspace_ / "files" / name; }

  std::string log_path(const std::string& name) const { return workspace_ / (name + ".log"); }

  // With what it says on standard error in a file.
  Child start_logged(const std::string& name, const std::vector<std::string>& arguments) const {
    std::vector<std::string> command = {"/bin/sh", "-c",
                                        "exec \"$0\" \"$@\" 2>> " + log_path(name)};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return Child(command);
  }
  // workers: as --workers takes them.
  void start_offloader(const std::string& workers, const std::vector<std::string>& flags = {},
                       int connect_ms = kPatienceMs) {
    std::vector<std::string> arguments = {program("tempo-offloader"),
                                          "--listen",
                                          "unix:" + path("ring"),
                                          "--workers",
                                          workers,
                                          "--log-level",
                                          "warn",
                                          "--connect-timeout-ms",
                                          std::to_string(connect_ms)};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    offloader_ = start_logged("offloader", arguments);
  }
  // Throws when it cannot: nothing to test then.
  void attach() {
    auto link = RingLink::attach(path("ring"), kGeometry, kPatienceMs);
    if (!link) throw std::runtime_error(link.error().one_line());
    link_ = std::move(*link);
    EXPECT_TRUE(link_->joins().empty());
  }
  // Before the workers, so that nobody misses the others.
  void leave() {
    link_.reset();
    offloader_ = Child();
  }

  Workspace workspace_;
  Child offloader_;
  std::unique_ptr<RingLink> link_;
};

}  // namespace tempo
