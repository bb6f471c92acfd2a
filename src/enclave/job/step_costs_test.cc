#include "enclave/job/step_costs.h"

#include <gtest/gtest.h>

#include "enclave/nn/graph_builder.h"
#include "enclave/offload/local_engine.h"

namespace tempo {
namespace {

void expect_measured(const InsideTimes& times, std::size_t ops) {
  ASSERT_EQ(times.linear_s.size(), ops);
  for (const double seconds : times.linear_s) EXPECT_GT(seconds, 0);
  EXPECT_GT(times.rest_s, 0);
}

TEST(StepCosts, MeasuresEveryLinearOperatorAndTheRest) {
  GraphBuilder b;
  const TensorId image = b.relu(b.conv(b.input({4, 6, 6}), 4, 8, 3, 1, 1, 1));
  Graph graph = b.finish(b.gemm(b.node("Flatten", {image}), 8 * 36, 3, 1));
  for (const int threads : {1, 2}) {
    for (const StepMode mode : {StepMode::kTraining, StepMode::kInference}) {
      ThreadPool pool(threads);
      const auto costs =
          measure_step_costs(graph, {.batch = 4, .mode = mode}, preferred_channel_block(), pool);
      ASSERT_TRUE(costs.ok()) << costs.error().one_line();
      expect_measured(costs->local, 2);
      expect_measured(costs->beside, 2);
      EXPECT_GT(costs->pass_factor, 0);
    }
  }
}

TEST(StepCosts, TakesTokensAndProductsOfActivations) {
  GraphBuilder b;
  const TensorId tokens = b.input({5}, DataType::kInt64);
  const TensorId x = b.node("Gather", {b.parameter({7, 6}, 1), tokens});
  const TensorId scores = b.node(
      "MatMul", {x, b.node("Transpose", {x}, {{"perm", {std::vector<std::int64_t>{0, 2, 1}}}})});
  Graph graph = b.finish(b.gemm(b.node("Flatten", {scores}), 25, 3, 1));
  ThreadPool pool(1);
  const auto ops = Executor::linear_ops(graph, {.batch = 2});
  ASSERT_TRUE(ops.ok()) << ops.error().one_line();
  const auto costs = measure_step_costs(graph, {.batch = 2}, 0, pool);
  ASSERT_TRUE(costs.ok()) << costs.error().one_line();
  ASSERT_EQ(costs->local.linear_s.size(), ops->size());
  for (const LinearOp& op : *ops) {
    const double seconds = costs->local.linear_s[static_cast<std::size_t>(op.index)];
    EXPECT_EQ(seconds > 0, !op.of_activations) << "the executor does those itself, as the rest";
  }
}

}  // namespace
}  // namespace tempo
