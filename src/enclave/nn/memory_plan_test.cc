#include "enclave/nn/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "enclave/nn/graph_builder.h"
#include "enclave/nn/step_plan.h"

namespace tempo {
namespace {

void expect_no_overlap(const std::vector<Lifetime>& buffers, const MemoryPlan& plan) {
  ASSERT_EQ(plan.offsets.size(), buffers.size());
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    ASSERT_EQ(plan.offsets[i] % 64, 0);
    ASSERT_LE(plan.offsets[i] + buffers[i].bytes, plan.arena_bytes);
    for (std::size_t j = 0; j < i; ++j) {
      const bool same_time =
          buffers[i].first <= buffers[j].last && buffers[j].first <= buffers[i].last;
      const bool same_place = plan.offsets[i] < plan.offsets[j] + buffers[j].bytes &&
                              plan.offsets[j] < plan.offsets[i] + buffers[i].bytes;
      ASSERT_FALSE(same_time && same_place && buffers[i].bytes > 0 && buffers[j].bytes > 0)
          << i << " " << j;
    }
  }
}

TEST(MemoryPlan, BuffersThatLiveTogetherDoNotOverlap) {
  std::mt19937 rng(5);
  for (int round = 0; round < 50; ++round) {
    std::vector<Lifetime> buffers(60);
    for (Lifetime& buffer : buffers) {
      buffer.bytes = static_cast<std::int64_t>(rng() % 5000);
      buffer.first = static_cast<int>(rng() % 40);
      buffer.last = buffer.first + static_cast<int>(rng() % 15);
    }
    const MemoryPlan plan = plan_memory(buffers);
    expect_no_overlap(buffers, plan);
    EXPECT_GE(plan.arena_bytes, peak_bytes(buffers));
    // What first fit without any thought would need at most.
    std::int64_t sum = 0;
    for (const Lifetime& buffer : buffers) sum += (buffer.bytes + 63) / 64 * 64;
    EXPECT_LE(plan.arena_bytes, sum);
  }
}

TEST(MemoryPlan, ReusesPlacesAndFillsTheTightestGap) {
  const std::vector<Lifetime> buffers = {{.bytes = 640, .first = 0, .last = 1},
                                         {.bytes = 640, .first = 2, .last = 3}};
  EXPECT_EQ(plan_memory(buffers).arena_bytes, 640);
  EXPECT_EQ(plan_memory({}).arena_bytes, 0);
}

TEST(MemoryPlan, PeakCountsLastStepsAsAlive) {
  const std::vector<Lifetime> buffers = {{.bytes = 64, .first = 0, .last = 2},
                                         {.bytes = 128, .first = 2, .last = 5}};
  EXPECT_EQ(peak_bytes(buffers), 192);
}

TEST(MemoryPlan, IsNearTheLowerBoundOnResNets) {
  for (const bool large : {false, true}) {
    for (const StepMode mode : {StepMode::kTraining, StepMode::kInference}) {
      const Graph graph = large ? resnet50(10) : resnet20(10);
      const auto plan = make_step_plan(graph, {.batch = 4, .mode = mode});
      ASSERT_TRUE(plan.ok()) << plan.error().one_line();
      EXPECT_LE(static_cast<double>(plan->arena_bytes),
                1.3 * static_cast<double>(plan->peak_bytes));
      RecordProperty(large ? "resnet50" : "resnet20", std::to_string(plan->arena_bytes));
      std::printf("%s %s: arena %.2f MB an image, peak %.2f MB\n", large ? "resnet50" : "resnet20",
                  mode == StepMode::kTraining ? "training" : "inference",
                  static_cast<double>(plan->arena_bytes) / 4e6,
                  static_cast<double>(plan->peak_bytes) / 4e6);
    }
  }
}

}  // namespace
}  // namespace tempo
