#include "lab/device_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

namespace tempo::lab {
namespace {

constexpr const char* kWhole =
    "tflops = 2\nmemory_gb_s = 100 # a comment\nlaunch_us = 0\nlink_to_device_gb_s = 4.5\n"
    "link_from_device_gb_s = 8\nlink_latency_us = 3\n";

class DeviceModelTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/tempo-model-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  Result<DeviceModel> read(const std::string& text) const {
    const std::filesystem::path path = directory_ / "device.toml";
    std::ofstream(path, std::ios::binary) << text;
    return read_device_model(path);
  }

  std::filesystem::path directory_;
};

TEST_F(DeviceModelTest, ReadsAllKeys) {
  const auto model = read(kWhole);
  ASSERT_TRUE(model) << model.error().one_line();
  EXPECT_EQ(model->tflops, 2);
  EXPECT_EQ(model->memory_gb_s, 100);
  EXPECT_EQ(model->launch_us, 0);
  EXPECT_EQ(model->link_to_device_gb_s, 4.5);
  EXPECT_EQ(model->link_from_device_gb_s, 8);
  EXPECT_EQ(model->link_latency_us, 3);
}

TEST_F(DeviceModelTest, SaysWhatIsWrong) {
  const std::string whole = kWhole;
  EXPECT_EQ(read_device_model(directory_ / "none").error().code, ErrorCode::kNotFound);
  for (const std::string& text :
       {whole + "colour = 3\n", whole.substr(whole.find('\n') + 1),
        "tflops = 0\n" + whole.substr(11), "tflops = -1\n" + whole.substr(11),
        "tflops = inf\n" + whole.substr(11), "tflops = \"2\"\n" + whole.substr(11),
        std::string("tflops = ")}) {
    const auto model = read(text);
    ASSERT_FALSE(model) << text;
    EXPECT_EQ(model.error().code, ErrorCode::kUsage) << text;
  }
}

TEST_F(DeviceModelTest, AllPresetsAreModels) {
  int count = 0;
  for (const auto& preset : std::filesystem::directory_iterator(TEMPO_DEVICES)) {
    const auto model = read_device_model(preset.path());
    EXPECT_TRUE(model) << model.error().one_line();
    ++count;
  }
  EXPECT_GE(count, 3);
}

TEST(DeviceModel, AProductTakesTheLongerOfArithmeticAndMemory) {
  DeviceModel model;
  model.tflops = 1;
  model.memory_gb_s = 1;
  model.launch_us = 7;
  // 2 * 2000^3 operations at 10^12 a second; 3 matrices of 16 MB at 10^9 bytes a second.
  EXPECT_NEAR(model.product_s(2000, 2000, 2000, false), 0.048 + 7e-6, 1e-12);
  EXPECT_NEAR(model.product_s(2000, 2000, 2000, true), 0.064 + 7e-6, 1e-12);
  model.memory_gb_s = 1000;
  EXPECT_NEAR(model.product_s(2000, 2000, 2000, true), 0.016 + 7e-6, 1e-12);
  // Sizes beyond 32 bits.
  EXPECT_NEAR(model.product_s(100000, 100000, 100, false), 2.0 + 7e-6, 1e-9);
}

class TimelineTest : public testing::Test {
 protected:
  static DeviceModel model() { return {1, 1, 0, 1, 0.5, 10}; }  // 1 and 0.5 bytes a nanosecond
  static DeviceTimeline::Time at(double us) {
    return DeviceTimeline::Time(std::chrono::nanoseconds(std::llround(1000 * us)));
  }
  DeviceTimeline timeline_{model()};
};

TEST_F(TimelineTest, ALinkCarriesOneThingAfterTheOtherAndItsLatencyOverlaps) {
  EXPECT_EQ(timeline_.arrives(at(0), 5000), at(15));
  EXPECT_EQ(timeline_.arrives(at(1), 5000), at(20));
  EXPECT_EQ(timeline_.arrives(at(30), 0), at(40));
}

TEST_F(TimelineTest, DirectionsAndQueueOverlap) {
  const auto a = timeline_.arrives(at(0), 20000);  // until 20
  const auto b = timeline_.arrives(at(0), 20000);  // until 40
  EXPECT_EQ(timeline_.computes(a, 15e-6), at(45));
  EXPECT_EQ(timeline_.computes(b, 15e-6), at(65));      // waits for its operand
  EXPECT_EQ(timeline_.computes(at(0), 5e-6), at(70));   // and this one for its turn
  EXPECT_EQ(timeline_.returns(at(45), 10000), at(75));  // 20 at half the rate, 10
  EXPECT_EQ(timeline_.returns(at(65), 10000), at(95));
  EXPECT_EQ(timeline_.arrives(at(50), 1000), at(61));  // full duplex
  EXPECT_NEAR(timeline_.busy().to_device_s, 41e-6, 1e-12);
  EXPECT_NEAR(timeline_.busy().device_s, 35e-6, 1e-12);
  EXPECT_NEAR(timeline_.busy().from_device_s, 40e-6, 1e-12);
  EXPECT_EQ(timeline_.busy().bytes_to_device, 41000U);
  EXPECT_EQ(timeline_.busy().bytes_from_device, 20000U);
}

}  // namespace
}  // namespace tempo::lab
