#include "enclave/offload/step_time.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tempo {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
// Of 100 positions, 10 in-features and 20 out-features, in elements.
constexpr double kX = 1000, kW = 200, kZ = 2000;

LinearOp dense(int index) {
  LinearOp op;
  op.index = index;
  op.geometry = {.batch = 100, .in_c = 10, .out_c = 20};
  return op;
}

// Offloaded to one worker in two tiles each.
Plan offloaded(const std::vector<LinearOp>& ops) {
  PlanOptions options;
  options.policy = OffloadPolicy::kAll;
  options.workers = {{std::uint64_t{1} << 30}};
  options.max_slot_bytes = 1 << 20;
  auto plan = make_plan(ops, options);
  EXPECT_TRUE(plan.ok());
  for (const OpPlan& op : plan->ops) EXPECT_EQ(op.tiles.size(), 2U);
  return std::move(*plan);
}

Plan offloaded(int count) {
  std::vector<LinearOp> ops;
  for (int i = 0; i < count; ++i) ops.push_back(dense(i));
  return offloaded(ops);
}

StepCosts costs(int ops) {
  StepCosts costs;
  costs.local = {std::vector<double>(static_cast<std::size_t>(ops), 3.0), 5.0};
  costs.beside = {std::vector<double>(static_cast<std::size_t>(ops), 4.0), 7.0};
  return costs;
}

void without_passes(Plan& plan) {
  for (OpPlan& op : plan.ops) op.offloaded_cost_ms = 0;
}

TEST(StepTime, OfAnEndlessLinkIsThatOfTheEnclave) {
  Plan plan = offloaded(2);
  EXPECT_EQ(local_step_s(costs(2)), 3 + 3 + 5);
  plan.ops[0].offloaded_cost_ms = 1000;
  plan.ops[1].offloaded_cost_ms = 500;
  StepCosts slow = costs(2);
  slow.pass_factor = 2;
  EXPECT_DOUBLE_EQ(offloaded_step_s(plan, slow, kInfinite), 7 + 2 * 1.5);
  plan.ops[1].offloaded = false;
  EXPECT_DOUBLE_EQ(offloaded_step_s(plan, slow, kInfinite), 7 + 2 * 1.0 + 4);
}

// X' and Z' of two tiles each overlap but for one tile of the smaller, and so do D' and dX'; W' and
// dW' of the only operator overlap with nothing.
TEST(StepTime, OfTheLinkAloneIsThatOfItsBusierDirection) {
  Plan plan = offloaded(1);
  without_passes(plan);
  const double forward = kZ + kX / 2;
  const double backward = kZ + kX / 2;
  EXPECT_DOUBLE_EQ(offloaded_step_s(plan, costs(1), sizeof(float)),
                   7 + forward + backward + 2 * kW);
}

// W' of the second operator goes beside the larger Z' of the first; so does dW', but backward. Of
// larger ones there is something left when the first operator is done, and so is a quarter of what
// the enclave does alone.
TEST(StepTime, WeightsOfTheNextOperatorRideAlong) {
  Plan plan = offloaded(2);
  without_passes(plan);
  const double first = 2 * (kZ + kX / 2) + 2 * kW;
  EXPECT_DOUBLE_EQ(offloaded_step_s(plan, costs(2), sizeof(float)), 7 + first + 2 * (kZ + kX / 2));

  LinearOp wide = dense(1);
  wide.geometry.in_c = 1000;
  plan = offloaded({dense(0), wide});
  without_passes(plan);
  const double second = 2 * (100 * kX + kZ / 2);
  const double left = 100 * kW + kX - (kZ + kX / 2) - 7.0 / 4;
  EXPECT_DOUBLE_EQ(offloaded_step_s(plan, costs(2), sizeof(float)), 7 + first + second + 2 * left);
}

// Two workers with half of the in-features each: X', W' and their gradients cross once, D' and Z'
// twice, in four tiles.
TEST(StepTime, OfSlicesOfInFeaturesCountsWhatCrosses) {
  PlanOptions options;
  options.policy = OffloadPolicy::kAll;
  options.parallelism = {{"", ParallelismChoice::kInFeatures}};
  options.workers.resize(2, {std::uint64_t{1} << 30});
  options.max_slot_bytes = 1 << 20;
  LinearOp wide = dense(0);
  wide.geometry.in_c = 1000;
  auto plan = make_plan({wide}, options);
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->ops[0].n_slices.size(), 2U);
  ASSERT_EQ(plan->ops[0].tiles.size(), 4U);
  without_passes(*plan);
  const double pass = 100 * kX + 2 * kZ / 4;
  EXPECT_DOUBLE_EQ(offloaded_step_s(*plan, costs(1), sizeof(float)), 7 + 2 * pass + 2 * 100 * kW);
}

TEST(StepTime, AnEnclaveThatIsBusyHidesTheLink) {
  Plan plan = offloaded(1);
  plan.ops[0].offloaded_cost_ms = 1e9;  // both passes, as their bytes
  const double link = (kX + kZ) / 2 + (kZ + kX) / 2 + 2 * kW;
  EXPECT_DOUBLE_EQ(offloaded_step_s(plan, costs(1), sizeof(float)), 7 + 1e6 + link);
}

TEST(StepTime, BreaksEvenWhereBothTakeTheSame) {
  Plan plan = offloaded(3);
  StepCosts both = costs(3);
  both.local.rest_s = 8;
  const double bandwidth = break_even_bandwidth(plan, both);
  ASSERT_TRUE(std::isfinite(bandwidth));
  EXPECT_NEAR(offloaded_step_s(plan, both, bandwidth), local_step_s(both), 1e-6);
  EXPECT_LT(offloaded_step_s(plan, both, bandwidth * 2), local_step_s(both));
  EXPECT_GT(offloaded_step_s(plan, both, bandwidth / 2), local_step_s(both));
}

TEST(StepTime, NeverBreaksEvenWhenTheEnclaveHasMoreToDoOrNothingIsOffloaded) {
  Plan plan = offloaded(1);
  StepCosts dear = costs(1);
  dear.pass_factor = 1e9;
  EXPECT_EQ(break_even_bandwidth(plan, dear), kInfinite);
  plan.ops[0].offloaded = false;
  StepCosts cheap = costs(1);
  cheap.beside = {{0.0}, 0};
  EXPECT_EQ(break_even_bandwidth(plan, cheap), kInfinite);
}

}  // namespace
}  // namespace tempo
