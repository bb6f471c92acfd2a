#include "lab/worker_hooks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace tempo::lab {
namespace {

class LabHooksTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/tempo-lab-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static std::vector<std::string> lines(const std::filesystem::path& path) {
    std::ifstream file(path);
    std::vector<std::string> out;
    for (std::string line; std::getline(file, line);) out.push_back(line);
    return out;
  }

  std::filesystem::path directory_;
};

TEST_F(LabHooksTest, ChangesOneElementOfTheChosenColumnByTheChosenSize) {
  for (const CheatColumn which :
       {CheatColumn::kLargest, CheatColumn::kSmallest, CheatColumn::kRandom}) {
    LabHookOptions options;
    options.cheat_every = 3;
    options.cheat_size = 0.25;
    options.cheat_column = which;
    options.cheat_log = directory_ / ("log" + std::to_string(static_cast<int>(which)));
    auto hooks = make_lab_hooks(options);
    ASSERT_TRUE(hooks);
    Task task;
    task.flags = kReturn;
    int changed_results = 0;
    for (int i = 1; i <= 9; ++i) {
      // Columns of rms 2, 0, 8 and 0.5.
      const std::vector<float> honest = {2, 0, -8, 0.5F, -2, 0, 8, 0.5F};
      const double rms[] = {2, 0, 8, 0.5};
      std::vector<float> result = honest;
      (*hooks)->after_multiply(task, nullptr, 2, 4, 1);  // stays there: never counted
      (*hooks)->after_multiply(task, result.data(), 2, 4, 1);
      int changed = 0;
      for (std::size_t e = 0; e < result.size(); ++e) {
        if (result[e] == honest[e]) continue;
        ++changed;
        EXPECT_FLOAT_EQ(std::abs(result[e] - honest[e]), 0.25F * static_cast<float>(rms[e % 4]));
        if (which == CheatColumn::kLargest) {
          EXPECT_EQ(e % 4, 2U);
        } else if (which == CheatColumn::kSmallest) {
          EXPECT_EQ(e % 4, 3U);
        }
      }
      EXPECT_EQ(changed, i % 3 == 0 ? 1 : 0);
      changed_results += changed;
    }
    EXPECT_EQ(changed_results, 3);
    EXPECT_EQ(lines(options.cheat_log).size(), 3U);
  }
}

TEST_F(LabHooksTest, DriftsInEveryRowInOneDirection) {
  LabHookOptions options;
  options.drift = 0.5;
  auto hooks = make_lab_hooks(options);
  ASSERT_TRUE(hooks);
  // All of size 2, so that every column's and row's rms is 2; with 100 inner terms in two parts.
  const std::vector<float> honest = {2, -2, 2, 2, 2, -2};
  std::vector<float> result = honest;
  Task part;
  part.result = 7;
  part.flags = kKeep;
  (*hooks)->after_multiply(part, nullptr, 2, 3, 60);
  part.flags = kKeep | kAccumulate | kReturn;
  (*hooks)->after_multiply(part, result.data(), 2, 3, 40);
  // freivalds.h: s u (sqrt(n) + g0) sqrt(cols (2 + g1^2)), over the rms of an element.
  const double tolerance = 4 * std::exp2(-24) * (10 + 4) * std::sqrt(3 * (2 + 1.0 / 16));
  const double change = 0.5 * tolerance * 2 / std::sqrt(3);
  for (std::size_t i = 0; i < honest.size(); ++i) {
    EXPECT_NEAR(std::abs(result[i] - honest[i]), change, 2.5e-7) << "a float's grain";
    EXPECT_EQ(result[i] > honest[i], result[i % 3] > honest[i % 3]) << "one direction";
  }
}

TEST_F(LabHooksTest, RecordsTasksAndPayloadsUpToTheLimit) {
  LabHookOptions options;
  options.record_directory = directory_ / "view";
  options.record_limit_bytes = 20;
  const std::vector<float> payload = {1, 2, 3};
  Task task;
  task.verb = Verb::kPut;
  task.result = 77;
  task.rows = 1;
  task.cols = 3;
  {
    auto hooks = make_lab_hooks(options);
    ASSERT_TRUE(hooks);
    (*hooks)->received(task, payload);
    (*hooks)->received(task, payload);  // would make 24 bytes
    task.verb = Verb::kDrop;
    (*hooks)->received(task, {});
  }
  const auto recorded = lines(directory_ / "view" / "tasks.jsonl");
  ASSERT_EQ(recorded.size(), 3U);
  EXPECT_EQ(recorded[0],
            R"({"request": 0, "verb": "put", "a": 0, "b": 0, "result": 77, "flags": 0, "rows": 1, )"
            R"("cols": 3, "offset": 0})");
  EXPECT_NE(recorded[1].find("\"offset\": null"), std::string::npos);
  EXPECT_NE(recorded[2].find("\"drop\""), std::string::npos);
  std::ifstream file(directory_ / "view" / "payloads.f32", std::ios::binary);
  std::vector<float> read(3);
  file.read(reinterpret_cast<char*>(read.data()), 12);
  EXPECT_EQ(read, payload);
  EXPECT_EQ(std::filesystem::file_size(directory_ / "view" / "payloads.f32"), 12U);
}

TEST_F(LabHooksTest, DiesInTheMiddleOfTheChosenProduct) {
  LabHookOptions options;
  options.die_after = 2;
  auto hooks = make_lab_hooks(options);
  ASSERT_TRUE(hooks);
  (*hooks)->after_multiply({}, nullptr, 1, 1, 1);
  EXPECT_EXIT((*hooks)->after_multiply({}, nullptr, 1, 1, 1), testing::KilledBySignal(SIGKILL), "");
}

TEST_F(LabHooksTest, SaysWhenAFileCannotBeWritten) {
  LabHookOptions options;
  options.cheat_log = directory_ / "no" / "log";
  EXPECT_EQ(make_lab_hooks(options).error().code, ErrorCode::kIo);
  options = {};
  options.record_directory = "/proc/no";
  EXPECT_EQ(make_lab_hooks(options).error().code, ErrorCode::kIo);
}

}  // namespace
}  // namespace tempo::lab
