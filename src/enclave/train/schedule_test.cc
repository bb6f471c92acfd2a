#include "enclave/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tempo {
namespace {

ScheduleSpec spec_of(ScheduleKind kind) {
  ScheduleSpec spec;
  spec.kind = kind;
  return spec;
}

TEST(Schedule, Constant) {
  const Schedule schedule(spec_of(ScheduleKind::kConstant), 0.1, 10, 3);
  EXPECT_EQ(schedule.rate(0), 0.1);
  EXPECT_EQ(schedule.rate(29), 0.1);
}

TEST(Schedule, StepDropsAtTheStartOfAnEpoch) {
  ScheduleSpec spec = spec_of(ScheduleKind::kStep);
  spec.step_epochs = 2;
  spec.step_gamma = 0.1;
  const Schedule schedule(spec, 1.0, 10, 6);
  EXPECT_DOUBLE_EQ(schedule.rate(19), 1.0);
  EXPECT_DOUBLE_EQ(schedule.rate(20), 0.1);
  EXPECT_DOUBLE_EQ(schedule.rate(39), 0.1);
  EXPECT_DOUBLE_EQ(schedule.rate(59), 0.01);
}

TEST(Schedule, CosineFromBaseToItsFinalFraction) {
  ScheduleSpec spec = spec_of(ScheduleKind::kCosine);
  spec.final_fraction = 0.2;
  const Schedule schedule(spec, 2.0, 50, 2);
  EXPECT_DOUBLE_EQ(schedule.rate(0), 2.0);
  EXPECT_NEAR(schedule.rate(50), 2.0 * (0.2 + 0.8 * 0.5), 1e-12);
  EXPECT_NEAR(schedule.rate(100), 2.0 * 0.2, 1e-12);
  for (int s = 1; s < 100; ++s) EXPECT_LT(schedule.rate(s), schedule.rate(s - 1));
}

TEST(Schedule, WarmUpReachesTheBaseRate) {
  ScheduleSpec spec = spec_of(ScheduleKind::kCosine);
  spec.warmup_epochs = 0.5;
  const Schedule schedule(spec, 1.0, 8, 3);
  EXPECT_DOUBLE_EQ(schedule.rate(0), 0.25);
  EXPECT_DOUBLE_EQ(schedule.rate(1), 0.5);
  EXPECT_DOUBLE_EQ(schedule.rate(3), 1.0);
  EXPECT_DOUBLE_EQ(schedule.rate(4), 1.0);  // the cosine begins here
  EXPECT_LT(schedule.rate(5), 1.0);
  EXPECT_NEAR(schedule.rate(14), 0.5, 1e-12);
}

TEST(Schedule, WarmUpLongerThanTheJob) {
  ScheduleSpec spec = spec_of(ScheduleKind::kCosine);
  spec.warmup_epochs = 10;
  const Schedule schedule(spec, 1.0, 4, 2);
  EXPECT_DOUBLE_EQ(schedule.rate(7), 8.0 / 40.0);
}

TEST(Schedule, RefusesNonsense) {
  const auto refused = [](auto change) {
    ScheduleSpec spec;
    change(spec);
    const Status status = check_schedule(spec);
    return !status.ok() && status.error().code == ErrorCode::kUsage;
  };
  EXPECT_TRUE(check_schedule({}).ok());
  EXPECT_TRUE(refused([](ScheduleSpec& s) { s.warmup_epochs = -1; }));
  EXPECT_TRUE(refused([](ScheduleSpec& s) { s.warmup_epochs = NAN; }));
  EXPECT_TRUE(refused([](ScheduleSpec& s) { s.warmup_epochs = INFINITY; }));
  EXPECT_TRUE(refused([](ScheduleSpec& s) { s.step_epochs = 0; }));
  EXPECT_TRUE(refused([](ScheduleSpec& s) { s.step_gamma = -0.1; }));
  EXPECT_TRUE(refused([](ScheduleSpec& s) { s.final_fraction = 1.5; }));
}

}  // namespace
}  // namespace tempo
