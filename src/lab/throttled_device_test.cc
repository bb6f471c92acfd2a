#include "lab/throttled_device.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

namespace tempo::lab {
namespace {

using Clock = std::chrono::steady_clock;

// 60 multiply-adds whatever is transposed, at 1000 a second: never sooner than in 60 ms.
TEST(ThrottledDevice, ComputesWhatTheProcessorDoesAndNoSoonerThanItMay) {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      ThrottledDevice device(1000, 1);
      const auto a = ta ? device.allocate(5, 3) : device.allocate(3, 5);
      const auto b = tb ? device.allocate(4, 5) : device.allocate(5, 4);
      const std::vector<float> ones(20, 1.0F);
      device.upload(reinterpret_cast<const std::byte*>(ones.data()), *a);
      device.upload(reinterpret_cast<const std::byte*>(ones.data()), *b);
      const Transpose trans_a = ta ? Transpose::kYes : Transpose::kNo;
      const Transpose trans_b = tb ? Transpose::kYes : Transpose::kNo;
      std::vector<float> result(12);
      auto* host = reinterpret_cast<std::byte*>(result.data());

      auto begin = Clock::now();
      ASSERT_TRUE(device.multiply_to_host(*a, trans_a, *b, trans_b, host));
      EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(60));
      EXPECT_EQ(result, std::vector<float>(12, 5.0F));

      const auto sum = device.allocate(3, 4);
      device.multiply(*a, trans_a, *b, trans_b, false, *sum);
      begin = Clock::now();
      device.multiply(*a, trans_a, *b, trans_b, true, *sum);
      EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(60));
      device.download(*sum, host);
      EXPECT_EQ(result, std::vector<float>(12, 10.0F));
    }
  }
}

}  // namespace
}  // namespace tempo::lab
