#include "enclave/offload/plan.h"

#include <gtest/gtest.h>

#include <set>

namespace tempo {
namespace {

LinearOp make_op(int index, ConvGeometry geometry) {
  LinearOp op;
  op.index = index;
  op.name = "op" + std::to_string(index);
  op.geometry = geometry;
  return op;
}

ConvGeometry conv3x3(int batch, int hw, int in_c, int out_c) {
  ConvGeometry g;
  g.batch = batch;
  g.in_h = g.in_w = g.out_h = g.out_w = hw;
  g.in_c = in_c;
  g.out_c = out_c;
  g.kernel_h = g.kernel_w = 3;
  g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = 1;
  return g;
}

ConvGeometry dense(int batch, int in, int out) {
  ConvGeometry g;
  g.batch = batch;
  g.in_c = in;
  g.out_c = out;
  return g;
}

LinearOp heads(int index, std::int64_t instances, std::int64_t tokens, std::int64_t width) {
  LinearOp op = make_op(
      index, dense(static_cast<int>(tokens), static_cast<int>(width), static_cast<int>(tokens)));
  op.instances = instances;
  op.of_activations = true;
  return op;
}

PlanOptions options(int workers) {
  PlanOptions o;
  o.workers.resize(workers);
  for (auto& w : o.workers) w.memory_limit_bytes = std::uint64_t{1} << 40;
  o.max_slot_bytes = std::uint64_t{16} << 20;
  return o;
}

TEST(Plan, CoversEveryPositionAndFeatureOnce) {
  for (const int workers : {1, 2, 5}) {
    PlanOptions o = options(workers);
    o.policy = OffloadPolicy::kAll;
    const auto plan =
        make_plan({make_op(0, conv3x3(32, 16, 64, 64)), make_op(1, dense(128, 4096, 1000)),
                   make_op(2, dense(1, 10, 3)), make_op(3, conv3x3(1, 3, 2, 2))},
                  o);
    ASSERT_TRUE(plan.ok()) << plan.error().one_line();
    for (const OpPlan& op : plan->ops) {
      std::int64_t area = 0;
      for (const Tile& tile : op.tiles) {
        area += op.p_slices[tile.p_slice].size() * op.m_slices[tile.m_slice].size();
        EXPECT_LT(tile.worker, workers);
      }
      EXPECT_EQ(area, op.op.geometry.p() * op.op.geometry.m());
      std::multiset<int> grouped;
      for (const GradientGroup& group : op.groups) {
        std::int64_t inner = 0;
        for (const int tile : group.tiles) {
          grouped.insert(tile);
          EXPECT_EQ(op.tiles[tile].worker, group.worker);
          EXPECT_EQ(op.tiles[tile].m_slice, group.m_slice);
          inner += op.p_slices[op.tiles[tile].p_slice].size();
        }
        EXPECT_LE(inner, o.max_gradient_inner);
      }
      EXPECT_EQ(grouped.size(), op.tiles.size());
      EXPECT_EQ(std::set<int>(grouped.begin(), grouped.end()).size(), op.tiles.size());
    }
  }
}

TEST(Plan, FitsEveryPayloadIntoASlot) {
  PlanOptions o = options(2);
  o.policy = OffloadPolicy::kAll;
  o.max_slot_bytes = 1 << 20;
  const auto plan =
      make_plan({make_op(0, conv3x3(64, 32, 64, 128)), make_op(1, dense(512, 9216, 4096))}, o);
  ASSERT_TRUE(plan.ok());
  for (const OpPlan& op : plan->ops) {
    for (const Tile& tile : op.tiles) {
      const auto n = op.in_features_of(tile.m_slice);
      const auto rows = op.p_slices[tile.p_slice].size();
      const auto features = op.m_slices[tile.m_slice].size();
      EXPECT_LE(static_cast<std::uint64_t>(rows * n * 4), o.max_slot_bytes);
      EXPECT_LE(static_cast<std::uint64_t>(rows * features * 4), o.max_slot_bytes);
      EXPECT_LE(static_cast<std::uint64_t>(features * n * 4), o.max_slot_bytes);
    }
  }
}

TEST(Plan, ConvolutionsAreDataParallelAndDenseLayersTensorParallel) {
  PlanOptions o = options(2);
  o.policy = OffloadPolicy::kAll;
  const auto plan =
      make_plan({make_op(0, conv3x3(32, 16, 64, 64)), make_op(1, dense(128, 512, 512))}, o);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->ops[0].m_slices.size(), 1U);
  EXPECT_GE(plan->ops[0].p_slices.size(), 2U);
  EXPECT_EQ(plan->ops[1].m_slices.size(), 2U);
  for (const Tile& tile : plan->ops[1].tiles) EXPECT_EQ(tile.worker, tile.m_slice);
}

// Every in-feature of every position and out-feature once; each slice is one worker's, and has
// positions and out-features of its own.
TEST(Plan, CutsInFeatures) {
  for (const int workers : {1, 2, 3}) {
    PlanOptions o = options(workers);
    o.policy = OffloadPolicy::kAll;
    o.parallelism = {{"", ParallelismChoice::kInFeatures}};
    o.max_slot_bytes = std::uint64_t{1} << 16;
    if (workers == 3) o.workers[1].speed = 2;
    const auto plan = make_plan({make_op(0, dense(300, 400, 100))}, o);
    ASSERT_TRUE(plan.ok()) << plan.error().one_line();
    const OpPlan& op = plan->ops[0];
    EXPECT_EQ(op.parallelism, Parallelism::kInFeatures);
    ASSERT_EQ(op.n_slices.size(), static_cast<std::size_t>(workers));
    if (workers == 3) {
      EXPECT_EQ(op.in_features(1), 200);
    }
    const std::size_t p_each = op.p_slices.size() / op.n_slices.size();
    std::int64_t volume = 0;
    for (const Tile& tile : op.tiles) {
      const std::size_t slice = op.instance_of(tile.m_slice);
      EXPECT_EQ(static_cast<std::size_t>(tile.p_slice) / p_each, slice);
      EXPECT_EQ(tile.worker, static_cast<int>(slice));
      volume += op.p_slices[tile.p_slice].size() * op.m_slices[tile.m_slice].size() *
                op.in_features(slice);
    }
    EXPECT_EQ(volume, op.op.multiply_adds());
  }
}

// X' and W' go out once, whoever shares them; D' and Z' cross for every slice.
TEST(Plan, RepeatsOnlyGradientsOfOutputsForSlicesOfInFeatures) {
  PlanOptions o = options(4);
  o.policy = OffloadPolicy::kAll;
  o.parallelism = {{"", ParallelismChoice::kInFeatures}};
  const auto plan = make_plan({make_op(0, dense(32, 4096, 1000))}, o);
  ASSERT_TRUE(plan.ok());
  const std::uint64_t x = 32 * 4096, w = 4096 * 1000, d = 32 * 1000;
  EXPECT_EQ(plan->bytes_to_workers, (x + w + 4 * d) * 4);
  EXPECT_EQ(plan->bytes_from_workers, (x + w + 4 * d) * 4);
  EXPECT_GE(plan->engine_bytes, 4 * d * 4) << "the parts of Z";
}

// Every slice has a product of its own in the enclave: who joins later must not make it run out of
// memory.
TEST(Plan, CutsNoMoreSlicesOfInFeaturesThanAtFirst) {
  PlanOptions o = options(2);
  o.policy = OffloadPolicy::kAll;
  o.parallelism = {{"", ParallelismChoice::kInFeatures}};
  const auto plan = make_plan({make_op(0, dense(32, 4096, 1000))}, o);
  ASSERT_TRUE(plan.ok());
  o.workers.resize(8, {std::uint64_t{1} << 30, 1});
  o.workers[7].speed = 3;
  const auto again = deal_again(*plan, o);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->ops[0].n_slices.size(), 2U);
  EXPECT_EQ(again->ops[0].in_features(1), 3072) << "the quickest ones get them";
  EXPECT_LE(again->engine_bytes, plan->engine_bytes + plan->engine_bytes / 10);
}

// Where many workers would have a large matrix repeated, gathering columns is cheaper; with few, or
// where Z is no smaller, it is not, and a convolution cannot be cut so.
TEST(Plan, AutoCutsInFeaturesWhereThatIsCheaper) {
  const auto cut_of = [](const ConvGeometry& g, int workers) {
    PlanOptions o = options(workers);
    o.policy = OffloadPolicy::kAll;
    const auto plan = make_plan({make_op(0, g)}, o);
    EXPECT_TRUE(plan.ok());
    return plan->ops[0].parallelism;
  };
  EXPECT_EQ(cut_of(dense(512, 8192, 640), 8), Parallelism::kInFeatures);
  EXPECT_EQ(cut_of(dense(512, 8192, 640), 2), Parallelism::kOutFeatures);
  EXPECT_EQ(cut_of(dense(512, 8192, 640), 1), Parallelism::kOutFeatures);
  EXPECT_EQ(cut_of(dense(32, 8192, 4096), 8), Parallelism::kOutFeatures);
  EXPECT_EQ(cut_of(dense(4096, 512, 512), 8), Parallelism::kData);
  EXPECT_EQ(cut_of(conv3x3(2, 16, 2048, 640), 8), Parallelism::kOutFeatures);
}

// W' on every worker does not fit beside its gradient; with a slice of it on each, it does.
TEST(Plan, CutsOtherwiseWhatNoWorkerHolds) {
  PlanOptions o = options(2);
  o.policy = OffloadPolicy::kAll;
  const std::vector<LinearOp> ops = {make_op(0, dense(1024, 2048, 1024)),
                                     make_op(1, conv3x3(8, 12, 128, 128))};
  const auto roomy = make_plan(ops, o);
  ASSERT_TRUE(roomy.ok());
  ASSERT_EQ(roomy->ops[0].parallelism, Parallelism::kData);
  for (PlannedWorker& worker : o.workers) worker.memory_limit_bytes = std::uint64_t{20} << 20;
  const auto tight = make_plan(ops, o);
  ASSERT_TRUE(tight.ok()) << tight.error().one_line();
  EXPECT_EQ(tight->ops[0].parallelism, Parallelism::kInFeatures);
  EXPECT_EQ(tight->ops[1].parallelism, Parallelism::kData);
  for (const std::uint64_t bytes : tight->resident_bytes) EXPECT_LE(bytes, std::uint64_t{20} << 20);
  o.parallelism = {{"op0", ParallelismChoice::kData}};
  const auto ruled = make_plan(ops, o);
  ASSERT_FALSE(ruled.ok()) << "not against the user's will";
  EXPECT_EQ(ruled.error().code, ErrorCode::kOutOfMemory);
}

TEST(Plan, FollowsRules) {
  PlanOptions o = options(2);
  o.policy = OffloadPolicy::kAll;
  LinearOp stack = make_op(2, dense(64, 96, 64));
  stack.parts = {{"q", 32}, {"k", 32}};
  const std::vector<LinearOp> ops = {make_op(0, conv3x3(8, 8, 64, 64)),
                                     make_op(1, dense(64, 96, 64)), stack};
  o.parallelism = {{"k", ParallelismChoice::kOutFeatures}, {"", ParallelismChoice::kInFeatures}};
  auto plan = make_plan(ops, o);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->ops[0].parallelism, Parallelism::kData) << "as without a rule";
  EXPECT_EQ(plan->ops[1].parallelism, Parallelism::kInFeatures);
  EXPECT_EQ(plan->ops[2].parallelism, Parallelism::kOutFeatures) << "a name goes before all";
  EXPECT_TRUE(check_parallelism(*plan, o.parallelism).ok());
  o.parallelism = {{"op0", ParallelismChoice::kOutFeatures},
                   {"op1", ParallelismChoice::kOutFeatures},
                   {"op1", ParallelismChoice::kData}};
  plan = make_plan(ops, o);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->ops[0].parallelism, Parallelism::kOutFeatures);
  EXPECT_EQ(plan->ops[1].parallelism, Parallelism::kData) << "the last one";
  EXPECT_TRUE(check_parallelism(*plan, o.parallelism).ok());
  // Dealt again, it is cut as it was.
  o.workers[0].speed = 3;
  plan = deal_again(*plan, o);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->ops[0].parallelism, Parallelism::kOutFeatures);
  EXPECT_EQ(plan->ops[0].m_slices[0].size(), 48);
}

TEST(Plan, RefusesRulesThatFitNothing) {
  PlanOptions o = options(2);
  const auto plan = make_plan({make_op(0, conv3x3(32, 16, 128, 128)), make_op(1, dense(32, 64, 10)),
                               heads(2, 128, 512, 256)},
                              o);
  ASSERT_TRUE(plan.ok());
  ASSERT_TRUE(plan->ops[0].offloaded && !plan->ops[1].offloaded && plan->ops[2].offloaded);
  const auto what = [&](const ParallelismRule& rule) {
    const Status status = check_parallelism(*plan, {rule});
    if (status.ok()) return std::string();
    EXPECT_EQ(status.error().code, ErrorCode::kUsage);
    return status.error().what;
  };
  EXPECT_EQ(what({"op0", ParallelismChoice::kOutFeatures}), "");
  EXPECT_EQ(what({"op0", ParallelismChoice::kAuto}), "");
  EXPECT_EQ(what({"", ParallelismChoice::kData}), "");
  EXPECT_NE(what({"op0", ParallelismChoice::kInFeatures}), "");
  EXPECT_NE(what({"", ParallelismChoice::kInFeatures}), "");
  EXPECT_NE(what({"op1", ParallelismChoice::kData}), "");
  EXPECT_NE(what({"op2", ParallelismChoice::kData}), "");
  EXPECT_NE(what({"op3", ParallelismChoice::kAuto}), "");
}

TEST(Plan, AutoKeepsNarrowOperatorsInside) {
  const auto plan =
      make_plan({make_op(0, conv3x3(32, 32, 3, 16)), make_op(1, conv3x3(32, 16, 128, 128)),
                 make_op(2, dense(32, 64, 10))},
                options(2));
  ASSERT_TRUE(plan.ok());
  EXPECT_FALSE(plan->ops[0].offloaded);
  EXPECT_TRUE(plan->ops[1].offloaded);
  EXPECT_FALSE(plan->ops[2].offloaded);
}

TEST(Plan, DealsInstancesToWorkers) {
  PlanOptions o = options(3);
  o.policy = OffloadPolicy::kAll;
  o.max_slot_bytes = 64 * 200 * 4;  // an operand of 300 x 64 takes two
  const auto plan = make_plan({heads(0, 7, 65, 64), heads(1, 4, 300, 64)}, o);
  ASSERT_TRUE(plan.ok()) << plan.error().one_line();
  const OpPlan& small = plan->ops[0];
  ASSERT_EQ(small.tiles.size(), 7U);
  EXPECT_EQ(small.groups.size(), 7U);
  EXPECT_EQ(small.products, 3 * 7);
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(small.tiles[i].p_slice, i);
    EXPECT_EQ(small.instance_of(small.tiles[i].m_slice), static_cast<std::size_t>(i));
    EXPECT_EQ(small.tiles[i].worker, i % 3);
  }
  EXPECT_EQ(small.bytes_to_workers, 7U * (2 * 65 * 64 + 65 * 65) * 4);
  EXPECT_EQ(small.bytes_from_workers, 7U * (2 * 65 * 64 + 65 * 65) * 4);

  const OpPlan& large = plan->ops[1];
  EXPECT_EQ(large.m_slices_each(), 2U);
  const std::size_t p_each = large.p_slices.size() / 4;
  EXPECT_EQ(large.tiles.size(), 4 * p_each * 2);
  for (const Tile& tile : large.tiles) {
    const std::size_t instance = large.instance_of(tile.m_slice);
    EXPECT_EQ(instance, static_cast<std::size_t>(tile.p_slice) / p_each)
        << "no tile joins two instances";
    EXPECT_EQ(tile.worker, static_cast<int>(instance % 3));
  }
  EXPECT_EQ(plan->multiply_adds, (7 * 65 * 65 + 4 * 300 * 300) * 64);
}

// A model may ask for more products than anybody could keep book of.
TEST(Plan, KeepsTooManyProductsInside) {
  PlanOptions o = options(1);
  o.policy = OffloadPolicy::kAll;
  const std::int64_t many = std::int64_t{1} << 32;
  const auto plan = make_plan({heads(0, 1, 8, 8), heads(1, many, 1, 1), heads(2, 1, 8, 8)}, o);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->ops[0].offloaded);
  EXPECT_TRUE(plan->ops[2].offloaded);
  EXPECT_FALSE(plan->ops[1].offloaded);
  EXPECT_TRUE(plan->ops[1].tiles.empty());
}

TEST(Plan, AutoOffloadsWideHeadsOnly) {
  const auto plan = make_plan({heads(0, 128, 65, 64), heads(1, 128, 512, 256)}, options(2));
  ASSERT_TRUE(plan.ok());
  EXPECT_FALSE(plan->ops[0].offloaded);
  EXPECT_TRUE(plan->ops[1].offloaded);
}

TEST(Plan, KeepsGroupedConvolutionsInside) {
  PlanOptions o = options(2);
  o.policy = OffloadPolicy::kAll;
  ConvGeometry grouped = conv3x3(32, 16, 128, 128);
  grouped.groups = 128;
  const auto plan = make_plan({make_op(0, grouped), make_op(1, conv3x3(32, 16, 128, 128))}, o);
  ASSERT_TRUE(plan.ok()) << plan.error().one_line();
  EXPECT_FALSE(plan->ops[0].offloaded);
  EXPECT_EQ(plan->ops[0].reason, "grouped convolution");
  EXPECT_TRUE(plan->ops[0].tiles.empty());
  EXPECT_TRUE(plan->ops[1].offloaded);
  EXPECT_EQ(plan->multiply_adds, (9 + 9 * 128) * 128 * 32 * 16 * 16);
  EXPECT_EQ(plan->offloaded_multiply_adds, 9 * 128 * 128 * 32 * 16 * 16);
}

TEST(Plan, KeepsInsideWhatNoSlotHolds) {
  PlanOptions o = options(2);
  o.policy = OffloadPolicy::kAll;
  o.max_slot_bytes = 4096;  // 1,024 values
  const auto plan = make_plan({make_op(0, dense(8, 1024, 64)), make_op(1, dense(8, 1025, 64)),
                               make_op(2, dense(8, 64, 1025))},
                              o);
  ASSERT_TRUE(plan.ok()) << plan.error().one_line();
  EXPECT_TRUE(plan->ops[0].offloaded);
  EXPECT_FALSE(plan->ops[1].offloaded);
  EXPECT_FALSE(plan->ops[2].offloaded);
  for (const Slice& slice : plan->ops[0].m_slices) {
    EXPECT_LE(slice.size() * plan->ops[0].widest_input(), 1024);
  }
}

// W' crosses with the first batch; a product of activations has none.
TEST(Plan, CountsKeptWeightsOnce) {
  PlanOptions o = options(2);
  o.policy = OffloadPolicy::kAll;
  o.mode = StepMode::kInference;
  o.products_factor = 10;
  const std::vector<LinearOp> ops = {make_op(0, conv3x3(32, 16, 128, 64)), heads(1, 4, 65, 64)};
  const auto fresh = make_plan(ops, o);
  o.keeps_weights = true;
  const auto kept = make_plan(ops, o);
  ASSERT_TRUE(fresh.ok() && kept.ok());
  constexpr std::uint64_t kWeights = 2 * 64 * 9 * 128 * sizeof(float);  // both workers get them
  EXPECT_EQ(fresh->bytes_to_workers_once, 0U);
  EXPECT_EQ(kept->bytes_to_workers_once, kWeights);
  EXPECT_EQ(kept->bytes_to_workers, fresh->bytes_to_workers - kWeights);
  EXPECT_EQ(kept->ops[0].tasks, fresh->ops[0].tasks - 2);
  EXPECT_LT(kept->ops[0].offloaded_cost_ms, fresh->ops[0].offloaded_cost_ms);
  EXPECT_EQ(kept->ops[1].bytes_to_workers_once, 0U);
  EXPECT_EQ(kept->ops[1].offloaded_cost_ms, fresh->ops[1].offloaded_cost_ms);

  o.products_factor = 1;
  EXPECT_GT(make_plan(ops, o)->ops[0].offloaded_cost_ms, kept->ops[0].offloaded_cost_ms)
      << "one batch bears the whole of it";
}

// Keys and sums of a training step wait for backward; a prediction's go with its operator, while
// those of the next one come.
TEST(Plan, HoldsTwoOperatorsKeysWhenPredicting) {
  const auto bytes = [](std::size_t layers, StepMode mode, bool keeps_weights = false) {
    PlanOptions o = options(1);
    o.policy = OffloadPolicy::kAll;
    o.mode = mode;
    o.keeps_weights = keeps_weights;
    std::vector<LinearOp> ops;
    for (std::size_t i = 0; i < layers; ++i) {
      ops.push_back(make_op(static_cast<int>(i), dense(512, 64, 64)));
    }
    return make_plan(ops, o)->engine_bytes;
  };
  EXPECT_EQ(bytes(4, StepMode::kInference), 2 * bytes(1, StepMode::kInference));
  EXPECT_GT(bytes(4, StepMode::kTraining), 2 * bytes(1, StepMode::kTraining));
  EXPECT_EQ(bytes(4, StepMode::kInference, true) - bytes(4, StepMode::kInference),
            4U * 16 * (64 + 64))
      << "four numbers for each row and column of W";
}

// A worker that is refused leaves rows behind; the more of them there may be, the harder the goal.
TEST(Plan, CountsRowsOfRefusedProducts) {
  const auto rounds = [](std::size_t workers, StepMode mode) {
    PlanOptions o = options(static_cast<int>(workers));
    o.policy = OffloadPolicy::kAll;
    o.mode = mode;
    const auto plan = make_plan({make_op(0, dense(4096, 64, 64))}, o);
    EXPECT_TRUE(plan.ok());
    return plan->ops[0].rounds_forward;
  };
  EXPECT_GT(rounds(2, StepMode::kTraining), rounds(2, StepMode::kInference));
}

TEST(Plan, RefusesWhatCannotBe) {
  PlanOptions o = options(0);
  o.policy = OffloadPolicy::kAll;
  auto plan = make_plan({make_op(0, dense(8, 64, 64))}, o);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().code, ErrorCode::kNoWorker);

  o = options(2);
  o.policy = OffloadPolicy::kAll;
  for (auto& w : o.workers) w.memory_limit_bytes = 1000;
  plan = make_plan({make_op(0, dense(8, 64, 64))}, o);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfMemory);

  o = options(2);
  o.policy = OffloadPolicy::kAll;
  o.goal.e = 1e-9;
  plan = make_plan({make_op(0, dense(8, 64, 64))}, o);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tempo
