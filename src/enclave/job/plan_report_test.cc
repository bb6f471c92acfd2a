#include "enclave/job/plan_report.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "enclave/nn/executor.h"
#include "enclave/nn/graph_builder.h"

namespace tempo {
namespace {

constexpr std::int64_t kBatch = 2;

// Images of 4 channels and 6x6: depthwise convolution, normalisation twice, pooling, attention-like
// product, classes.
Graph make_graph() {
  GraphBuilder b;
  TensorId x = b.conv(b.input({4, 6, 6}), 4, 4, 3, 1, 1, 1, false, 4);
  x = b.relu(b.batch_norm(x, 4));
  x = b.batch_norm(x, 4);
  x = b.node("MaxPool", {x},
             {{"kernel_shape", {std::vector<std::int64_t>{2, 2}}},
              {"strides", {std::vector<std::int64_t>{2, 2}}}});
  x = b.node("Sigmoid", {b.node("MatMul", {x, x})});
  return b.finish(b.gemm(b.node("Flatten", {x}), 36, 3, 1));
}

std::vector<KindWork> work_of(const Graph& graph) {
  const auto shapes = infer_shapes(graph, kBatch);
  EXPECT_TRUE(shapes.ok());
  return non_linear_work(graph, *shapes);
}

// Worked out by hand: an image has 4 x 36 elements before the pool, 4 x 9 after it.
TEST(NonLinearWork, CountsByKindInOrder) {
  struct Want {
    std::string type;
    int nodes;
    double flops, floats;
  };
  const double before = 144 * kBatch, after = 36 * kBatch;
  const std::vector<Want> wants = {
      {"BatchNormalization", 2, 2 * 7 * before, 2 * (2 * before + 16)},
      {"Relu", 1, before, 2 * before},
      {"MaxPool", 1, 4 * after, before + after},
      {"MatMul", 1, 2 * 3 * after, 3 * after},
      {"Sigmoid", 1, (1 + kFunctionFlops) * after, 2 * after},
      {"Flatten", 1, 0, 2 * after},
  };
  const std::vector<KindWork> kinds = work_of(make_graph());
  ASSERT_EQ(kinds.size(), wants.size());
  for (std::size_t i = 0; i < wants.size(); ++i) {
    EXPECT_EQ(kinds[i].type, wants[i].type);
    EXPECT_EQ(kinds[i].nodes, wants[i].nodes) << wants[i].type;
    EXPECT_EQ(kinds[i].forward.flops, wants[i].flops) << wants[i].type;
    EXPECT_EQ(kinds[i].forward.bytes, wants[i].floats * 4) << wants[i].type;
  }
}

TEST(PlanReport, SaysWhatStaysInside) {
  Graph graph = make_graph();
  const auto ops = Executor::linear_ops(graph, {.batch = kBatch});
  ASSERT_TRUE(ops.ok()) << ops.error().one_line();
  PlanOptions options;
  options.policy = OffloadPolicy::kAll;
  options.parallelism = {{"", ParallelismChoice::kInFeatures}};
  options.workers.resize(1);
  options.workers[0].memory_limit_bytes = 1 << 30;
  options.max_slot_bytes = 1 << 20;
  const auto plan = make_plan(*ops, options);
  ASSERT_TRUE(plan.ok()) << plan.error().one_line();
  PlanSummary summary;
  summary.plan = &*plan;
  summary.scheme = options.scheme;
  summary.batch = kBatch;
  summary.steps = 1;
  summary.non_linear = work_of(graph);

  const std::string text = plan_text(summary);
  EXPECT_NE(text.find("grouped 3x3"), std::string::npos) << text;
  EXPECT_NE(text.find("grouped convolution"), std::string::npos) << text;
  EXPECT_NE(text.find("BatchNormalization"), std::string::npos) << text;
  EXPECT_NE(text.find("in-features"), std::string::npos) << text;

  const auto json = nlohmann::json::parse(plan_json(summary));
  EXPECT_EQ(json["operators"][0]["groups"], 4);
  EXPECT_EQ(json["operators"][0]["where"], "enclave");
  EXPECT_EQ(json["operators"][0]["parallelism"], "-");
  EXPECT_EQ(json["operators"][1]["where"], "workers");
  EXPECT_EQ(json["operators"][1]["parallelism"], "in-features");
  EXPECT_EQ(json["non_linear"][0]["operator"], "BatchNormalization");
  EXPECT_EQ(json["non_linear"][0]["nodes"], 2);
  EXPECT_TRUE(json["predicted"].is_null());
  EXPECT_EQ(text.find("predicted"), std::string::npos);

  summary.times = {.link = 1e8, .local_s = 0.25, .offloaded_s = 0.125, .break_even = 4e7};
  EXPECT_NE(plan_text(summary).find("at 100 MB/s each way: 0.125 s with this plan, 0.25 s with "
                                    "scheme local; offloading pays above 40 MB/s\n"),
            std::string::npos)
      << plan_text(summary);
  const auto predicted = nlohmann::json::parse(plan_json(summary))["predicted"];
  EXPECT_EQ(predicted["link_bytes_per_s"], 1e8);
  EXPECT_EQ(predicted["local_s"], 0.25);
  EXPECT_EQ(predicted["offloaded_s"], 0.125);
  EXPECT_EQ(predicted["break_even_bytes_per_s"], 4e7);
  summary.times->break_even = std::numeric_limits<double>::infinity();
  EXPECT_NE(plan_text(summary).find("does not pay"), std::string::npos);
  EXPECT_TRUE(
      nlohmann::json::parse(plan_json(summary))["predicted"]["break_even_bytes_per_s"].is_null());
}

TEST(PlanReport, PromisesInOneLine) {
  Plan plan;
  plan.ops.resize(3);
  for (int i = 0; i < 2; ++i) {
    plan.ops[i].offloaded = true;
    plan.ops[i].rounds_forward = 3;
    plan.ops[i].rounds_weight_gradient = 3 + i;
  }
  plan.ops[1].rounds_input_gradient = 5;  // the first operator's input has no gradient
  plan.ops[2].rounds_forward = 9;         // stays inside
  SoundnessGoal goal{.t = 1e-6, .e = 0.02};
  EXPECT_EQ(integrity_line(plan, goal), "") << "nothing to check";
  plan.products = 4;
  plan.checks_planned = 1.59e6;
  EXPECT_EQ(integrity_line(plan, goal),
            "t=1e-06, e=0.02: a result that is off by 0.02 of its rms passes anywhere in the job "
            "with a chance below 1e-06; 1590000 checks planned, uniform rounds: forward 3, weight "
            "gradient 3 to 4, input gradient 5");
  // The paper's figure for as many checks: k > 40.5.
  goal.distribution = CheckDistribution::kBinary;
  EXPECT_NE(integrity_line(plan, goal).find("binary rounds: forward 3"), std::string::npos);
  EXPECT_NE(integrity_line(plan, goal).find("(Theorem V.2 asks for 41)"), std::string::npos);
}

}  // namespace
}  // namespace tempo
