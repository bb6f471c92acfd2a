#include "enclave/job/plan_report.h"

#include <gtest/gtest.h>

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
}

}  // namespace
}  // namespace tempo
