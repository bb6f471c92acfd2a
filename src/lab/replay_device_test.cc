#include "lab/replay_device.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/buffer.h"
#include "wire/task.h"
#include "worker/task_executor.h"

namespace tempo::lab {
namespace {

constexpr std::uint32_t kSize = 24;
using Values = AlignedBuffer<float>;

Values numbers(int seed) {
  Values values(kSize * kSize);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((i * 37 + static_cast<std::size_t>(seed) * 101) % 19) - 9.25F;
  }
  return values;
}

class ReplayDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/tempo-replay-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    std::ofstream(directory_ / "device.toml")
        << "tflops = 1\nmemory_gb_s = 1\nlaunch_us = 1000\nlink_to_device_gb_s = 1\n"
           "link_from_device_gb_s = 1\nlink_latency_us = 100\n";
    options_.model_path = directory_ / "device.toml";
    options_.threads = 1;
    options_.step_log = directory_ / "steps";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // Six products, four of them different: X W^T thrice, D W, and two D^T X added up, on a store of
  // its own; gives all that came back.
  static std::vector<float> step(Device& device, int seed) {
    StoreLimits limits;
    limits.bytes = 1U << 20;
    TaskExecutor executor(device, limits, nullptr);
    std::vector<float> results;
    const auto put = [&](std::uint64_t id, int number) {
      Task task;
      task.verb = Verb::kPut;
      task.result = id;
      task.rows = task.cols = kSize;
      const Values values = numbers(number);
      const auto* payload = reinterpret_cast<const std::byte*>(values.data());
      EXPECT_EQ(executor.execute(task, payload, nullptr).status, TaskStatus::kOk);
    };
    const auto multiply = [&](std::uint64_t a, std::uint64_t b, std::uint32_t flags) {
      Task task;
      task.verb = Verb::kMultiply;
      task.a = a;
      task.b = b;
      task.result = 9;
      task.flags = flags;
      task.rows = task.cols = kSize;
      Values reply(kSize * kSize);
      auto* out = reinterpret_cast<std::byte*>(reply.data());
      EXPECT_EQ(executor.execute(task, nullptr, out).status, TaskStatus::kOk);
      if ((flags & kReturn) != 0)
        results.insert(results.end(), reply.data(), &reply[0] + reply.size());
    };
    put(1, seed);
    put(2, seed + 1);
    put(3, seed + 2);
    multiply(1, 2, kTransposeB | kReturn);
    multiply(3, 2, kReturn);
    multiply(3, 1, kTransposeA | kKeep);
    multiply(1, 2, kTransposeB | kReturn);  // with which the recording is complete
    multiply(3, 2, kTransposeA | kAccumulate | kReturn);
    multiply(1, 2, kTransposeB | kReturn);
    return results;
  }

  std::filesystem::path directory_;
  ReplayOptions options_;
};

TEST_F(ReplayDeviceTest, AnswersWhatItKnowsInTheSameBitsAndComputesTheRest) {
  CpuDevice cpu(1);
  const std::vector<float> first = step(cpu, 5);
  const std::vector<float> other = step(cpu, 6);
  ASSERT_NE(first, other);
  auto device = ReplayDevice::open(options_);
  ASSERT_TRUE(device) << device.error().one_line();
  ReplayDevice& replay = **device;

  EXPECT_EQ(step(replay, 5), first);
  EXPECT_EQ(replay.recorded(), 4U);
  EXPECT_EQ(replay.replayed(), 2U);
  EXPECT_FALSE(replay.is_complete());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(step(replay, 5), first);
  EXPECT_EQ(replay.recorded(), 4U);
  EXPECT_EQ(replay.replayed(), 20U);
  EXPECT_TRUE(replay.is_complete());
  EXPECT_EQ(replay.mismatches(), 0U);

  // What was not recorded is right all the same, and counted, each time.
  for (std::uint64_t i = 1; i <= 2; ++i) {
    EXPECT_EQ(step(replay, 6), other);
    EXPECT_EQ(replay.mismatches(), 6 * i);
  }
  EXPECT_EQ(step(replay, 5), first);
  EXPECT_EQ(replay.mismatches(), 12U);
}

TEST_F(ReplayDeviceTest, StepsThatDifferedBeforeAreNoMismatch) {
  auto device = ReplayDevice::open(options_);
  ASSERT_TRUE(device);
  for (const int seed : {1, 2, 3}) step(**device, seed);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE((*device)->is_complete());
    step(**device, 3);
  }
  EXPECT_TRUE((*device)->is_complete());
  EXPECT_EQ((*device)->mismatches(), 0U);
}

TEST_F(ReplayDeviceTest, AnswersWhenTheModelledDeviceWould) {
  auto device = ReplayDevice::open(options_);
  ASSERT_TRUE(device);
  step(**device, 1);
  const auto begin = Device::Time::clock::now();
  step(**device, 1);
  // Six products of at least a millisecond, for which nobody has waited, and the way there and
  // back.
  const auto least = std::chrono::microseconds(6 * 1000 + 2 * 100);
  EXPECT_GE((*device)->done_at(), begin + least);
  const std::uint64_t bytes = kSize * kSize * sizeof(float);
  for (int i = 0; i < 2; ++i) step(**device, 1);
  std::ifstream log(options_.step_log);
  std::string line;
  ASSERT_TRUE(std::getline(log, line));
  for (const std::string& part :
       {std::string("\"products\": 6,"), std::string("\"mismatches\": 0,"),
        "\"bytes_to_device\": " + std::to_string(3 * bytes) + ",",
        "\"bytes_from_device\": " + std::to_string(5 * bytes) + ","}) {
    EXPECT_NE(line.find(part), std::string::npos) << line;
  }
}

TEST_F(ReplayDeviceTest, ARealLinkIsNotModelledOnTop) {
  constexpr std::chrono::hours kLatency{24};
  std::ofstream(options_.model_path)
      << "tflops = 1\nmemory_gb_s = 1\nlaunch_us = 0\nlink_to_device_gb_s = 1e-9\n"
         "link_from_device_gb_s = 1e-9\nlink_latency_us = 86400e6\n";
  for (const bool has_real_link : {false, true}) {
    options_.has_real_link = has_real_link;
    auto device = ReplayDevice::open(options_);
    ASSERT_TRUE(device) << device.error().one_line();
    step(**device, 1);
    EXPECT_EQ((*device)->done_at() < Device::Time::clock::now() + kLatency, has_real_link);
  }
}

TEST_F(ReplayDeviceTest, ComputesWhatItHasNoRoomToRemember) {
  options_.limit_bytes = 3 * kSize * kSize * sizeof(float);  // the operands of a step
  CpuDevice cpu(1);
  const std::vector<float> first = step(cpu, 5);
  auto device = ReplayDevice::open(options_);
  ASSERT_TRUE(device);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(step(**device, 5), first);
  EXPECT_EQ((*device)->replayed(), 0U);
  EXPECT_EQ((*device)->recorded(), 18U);
}

TEST_F(ReplayDeviceTest, SaysWhenAFileIsMissingOrCannotBeWritten) {
  options_.step_log = directory_ / "no" / "log";
  EXPECT_EQ(ReplayDevice::open(options_).error().code, ErrorCode::kIo);
  options_.model_path = directory_ / "none";
  EXPECT_EQ(ReplayDevice::open(options_).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace tempo::lab
