// File: tests/training_fixture.h
// Whole training runs through the command line with workers of the test's, and whether they come to
// what the enclave alone comes to.
//
// The yardstick is the enclave itself: its losses with the products in the order of its own memory
// layout, in that of channels last, and with the terms of every sum reversed (tempo-enclave-lab
// --reorder-sums). The largest distance of two of them is the spread; a network decides how large
// it becomes.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/npy_file.h"
#include "tests/run_program.h"

namespace tempo {

struct Training {
  std::string model;
  int steps = 0;
  int batch = 0;
  // At which training itself is stable: where it is not, the smallest difference grows without
  // bound.
  std::string rate;
};

// Root mean square over the steps.
inline double distance_of(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

class TrainingTest : public testing::Test {
 protected:
  using Json = nlohmann::json;

  void TearDown() override { EXPECT_EQ(work_.leftovers(TEMPO_BIN_DIR), ""); }

  std::string path(const std::string& name) const { return (work_ / name).string(); }

  // Everything that is linear on workers. Gives the report. prefix_ stands in front of the command;
  // while_running: see Workspace::run.
  Json train(const Training& training, std::vector<std::string> flags,
             const std::function<void(pid_t)>& while_running = {}) {
    flags.insert(flags.end(), {"--scheme", "tempo", "--offload", "all"});
    return run(training, flags, while_running);
  }

  static std::vector<double> losses(const Json& report) {
    return report.at("loss").get<std::vector<double>>();
  }

  // Of the same training inside the enclave, three times the spread at most.
  void expect_trained_as_inside(const Training& training, const Json& report) {
    const Inside& inside = train_inside(training);
    const std::vector<double> got = losses(report);
    ASSERT_EQ(got.size(), inside.losses.size());
    const double distance = distance_of(got, inside.losses);
    std::printf("%s, %d steps: losses %.1e from those inside, whose own spread is %.1e\n",
                training.model.c_str(), training.steps, distance, inside.spread);
    EXPECT_LE(distance, 3 * inside.spread);
    EXPECT_GT(report.at("checks").at("done").get<double>(), 0);
  }

  // Of all the work that was answered, by worker.
  static std::vector<double> work_done(const Json& report) {
    std::vector<double> work;
    for (const Json& worker : report.at("workers")) work.push_back(worker.at("multiply_adds"));
    return work;
  }

  Workspace work_;
  std::vector<std::string> prefix_;

 private:
  static constexpr int kChannels = 3, kSide = 16, kClasses = 10, kSamples = 512;

  struct Inside {
    std::vector<double> losses;
    double spread = 0;
  };

  Json run(const Training& training, const std::vector<std::string>& flags,
           const std::function<void(pid_t)>& while_running = {}) {
    make_files(training.model);
    std::vector<std::string> command = prefix_;
    const std::vector<std::string> usual = {program("tempo"),
                                            "train",
                                            "--model",
                                            path(training.model + ".onnx"),
                                            "--data",
                                            "npy:" + path("x.npy") + "," + path("y.npy"),
                                            "--batch",
                                            std::to_string(training.batch),
                                            "--steps",
                                            std::to_string(training.steps),
                                            "--epochs",
                                            "100",
                                            "--lr",
                                            training.rate,
                                            "--seed",
                                            "7",
                                            "--worker-threads",
                                            "1",
                                            "--report",
                                            path("report.json"),
                                            "-o",
                                            path("trained.onnx")};
    command.insert(command.end(), usual.begin(), usual.end());
    command.insert(command.end(), flags.begin(), flags.end());
    constexpr int kLimitS = 900;
    const ProgramResult result = work_.run(command, kLimitS, while_running);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return Json::parse(read_file(path("report.json")), nullptr, false);
  }

  // Once a program for every training.
  const Inside& train_inside(const Training& training) {
    static std::map<std::tuple<std::string, int, int, std::string>, Inside> known;
    Inside& inside = known[{training.model, training.steps, training.batch, training.rate}];
    if (!inside.losses.empty()) return inside;
    const std::string reordered = program("tempo-enclave-lab") + " --reorder-sums";
    const std::vector<std::vector<double>> runs = {
        losses(run(training, {"--scheme", "local"})),
        losses(run(training, {"--scheme", "plain", "--offload", "none"})),
        losses(run(training,
                   {"--scheme", "plain", "--offload", "none", "--enclave-program", reordered}))};
    EXPECT_LT(runs[0].back(), runs[0].front()) << "the run learns";
    for (const auto& a : runs) {
      for (const auto& b : runs) inside.spread = std::max(inside.spread, distance_of(a, b));
    }
    EXPECT_GT(inside.spread, 0);
    inside.losses = runs[0];
    return inside;
  }

  void make_files(const std::string& model) {
    if (!std::filesystem::exists(work_ / "x.npy")) make_data();
    if (std::filesystem::exists(work_ / (model + ".onnx"))) return;
    const std::string side = std::to_string(kSide);
    const ProgramResult made = work_.run(
        {program("tempo"), "model", model, "--image", "3x" + side + "x" + side, "--classes",
         std::to_string(kClasses), "--seed", "3", "-o", path(model + ".onnx")});
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }

  // A pattern a class under as much noise.
  void make_data() const {
    constexpr int kPixels = kChannels * kSide * kSide;
    std::mt19937 random(1);
    std::vector<unsigned> patterns(kClasses * kPixels);
    for (unsigned& pixel : patterns) pixel = random() % 128;
    std::vector<std::uint8_t> pixels;
    std::vector<std::int64_t> labels;
    for (int s = 0; s < kSamples; ++s) {
      labels.push_back(static_cast<std::int64_t>(random() % kClasses));
      const unsigned* const pattern = &patterns[static_cast<std::size_t>(labels[s]) * kPixels];
      for (int i = 0; i < kPixels; ++i) {
        pixels.push_back(static_cast<std::uint8_t>(pattern[i] + random() % 128));
      }
    }
    write_npy(work_ / "x.npy", "|u1", "(512, 3, 16, 16)", pixels);
    write_npy(work_ / "y.npy", "<i8", "(512,)", labels);
  }
};

// Follows a training while it runs, by what `tempo-enclave-lab --step-times FILE` writes.
class StepWatch {
 public:
  StepWatch(pid_t pid, std::filesystem::path file) : pid_(pid), file_(std::move(file)) {}

  // False when the training ended before it came to this step.
  bool wait_for(std::size_t step) const {
    while (step_times(file_).size() < step) {
      siginfo_t info = {};
      if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
          info.si_pid != 0) {
        return false;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }

  // The same from the step that it is at now.
  bool wait_for_more(std::size_t steps) const { return wait_for(step_times(file_).size() + steps); }

  // In seconds, of the steps that are complete.
  static std::vector<double> step_times(const std::filesystem::path& file) {
    std::vector<double> times;
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) {
      const auto entry = nlohmann::json::parse(line, nullptr, false);
      if (!entry.is_discarded()) times.push_back(entry.at("wall_ms").get<double>() / 1e3);
    }
    return times;
  }

 private:
  const pid_t pid_;
  const std::filesystem::path file_;
};

}  // namespace tempo
