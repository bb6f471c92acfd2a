#include "enclave/job/memory_estimate.h"

#include <gtest/gtest.h>

#include "enclave/nn/executor.h"
#include "enclave/nn/graph_builder.h"
#include "enclave/offload/fake_link.h"
#include "enclave/train/test_graphs.h"

namespace tempo {
namespace {

constexpr std::uint64_t kWeights = (24 * 6 + 24 + 3 * 24 + 3) * sizeof(float);
constexpr std::uint64_t kProgram = std::uint64_t{20} << 20;
constexpr std::uint64_t kData = 1000;

Graph network() {
  return test::GraphBuilder({kBatchDim, 6})
      .gemm(6, 24, 0.5F)
      .simple("Relu")
      .gemm(24, 3, 0.5F)
      .build();
}

MemoryEstimate estimate(JobSpec spec, std::int64_t train_samples, std::int64_t test_samples,
                        std::uint64_t model_bytes = 0, FakeLink* link = nullptr,
                        const Graph& graph = network()) {
  spec.scheme = link == nullptr ? "local" : "tempo";
  ThreadPool pool(1);
  TimeLedger ledger;
  const EnclaveHooks hooks;
  const JobEngines engines(spec, *parse_scheme(spec.scheme), link, 1, 1, hooks, pool, ledger);
  const auto memory = estimate_memory(graph, spec, engines,
                                      {run_length(spec, train_samples), test_samples, model_bytes,
                                       kData, kProgram + kWeights + kData});
  EXPECT_TRUE(memory.ok()) << memory.error().one_line();
  return *memory;
}

std::uint64_t arena(std::int64_t batch, StepMode mode) {
  return static_cast<std::uint64_t>(
      *Executor::arena_bytes(network(), {.batch = batch, .mode = mode}));
}

TEST(MemoryEstimate, AddsUpEveryExecutorAndItsGradients) {
  JobSpec spec;
  spec.batch = 8;
  const MemoryEstimate full = estimate(spec, 16, 0);
  EXPECT_EQ(full.activations, arena(8, StepMode::kTraining));
  EXPECT_EQ(full.parameters, 2 * kWeights);
  EXPECT_EQ(full.optimizer, kWeights);
  EXPECT_EQ(full.data, kData);
  EXPECT_EQ(full.engine, 0U);

  spec.accumulate = 2;
  spec.optimizer.kind = OptimizerKind::kAdam;
  const MemoryEstimate rest = estimate(spec, 19, 5);
  EXPECT_EQ(rest.activations, arena(8, StepMode::kTraining) + arena(3, StepMode::kTraining) +
                                  arena(5, StepMode::kInference));
  EXPECT_EQ(rest.parameters, 4 * kWeights) << "weights, those of two executors, their sum";
  EXPECT_EQ(rest.optimizer, 2 * kWeights);
}

TEST(MemoryEstimate, CountsASecondGradientOfTheFirstLayerAndWhatItIsMadeOf) {
  JobSpec spec;
  spec.batch = 8;
  spec.offload = OffloadPolicy::kAll;
  FakeLink link(1, std::uint64_t{1} << 20);
  const MemoryEstimate sync = estimate(spec, 16, 0, 0, &link);
  spec.update = UpdateMode::kAsync;
  const MemoryEstimate async = estimate(spec, 16, 0, 0, &link);
  EXPECT_EQ(async.parameters - sync.parameters, 24 * 6 * sizeof(float));
  // X, D and one more set of keys, each with a permutation, its inverse and two factors an index.
  const std::uint64_t operands = (8 * 6 + 8 * 24) * sizeof(float);
  const std::uint64_t keys = (8 + 6 + 24) * 4 * sizeof(float);
  EXPECT_GE(async.engine - sync.engine, operands + keys);
  EXPECT_LE(async.engine - sync.engine, operands + 4 * keys) << "and check sums";
  spec.offload = OffloadPolicy::kNone;
  EXPECT_EQ(estimate(spec, 16, 0, 0, &link).parameters, sync.parameters) << "nobody is waited for";
}

TEST(MemoryEstimate, OfAPredictionHoldsNoGradients) {
  JobSpec spec;
  spec.kind = JobKind::kInfer;
  spec.batch = 8;
  const MemoryEstimate memory = estimate(spec, 0, 20);
  EXPECT_EQ(memory.activations, arena(8, StepMode::kInference));
  EXPECT_EQ(memory.parameters, kWeights);
  EXPECT_EQ(memory.optimizer, 0U);
  EXPECT_EQ(memory.data, kData + 20 * 3 * 2 * sizeof(float));
}

// Weights, message and file of a large model come to more than a step on a small batch.
TEST(MemoryEstimate, CountsTheModelsFileWhereItIsThePeak) {
  JobSpec spec;
  spec.batch = 8;
  EXPECT_EQ(estimate(spec, 8, 0).model_file, 0U);
  constexpr std::uint64_t kFile = std::uint64_t{100} << 20;
  const MemoryEstimate memory = estimate(spec, 8, 0, kFile);
  EXPECT_EQ(memory.total(), memory.program + kData + kWeights + 2 * kFile);
}

// A copy of the file is gone before the first step loads anything.
TEST(MemoryEstimate, OfAPredictionReadsTheModelBeforeItComputes) {
  JobSpec spec;
  spec.kind = JobKind::kInfer;
  spec.batch = 8;
  constexpr std::uint64_t kFile = std::uint64_t{100} << 20;
  const MemoryEstimate memory = estimate(spec, 0, 20, kFile);
  EXPECT_EQ(memory.total(), kProgram + memory.data + kWeights + 2 * kFile);
  spec.kind = JobKind::kPlan;
  spec.inference = true;
  EXPECT_EQ(estimate(spec, 0, 20, kFile).total(), memory.total()) << "the plan of it";
}

TEST(MemoryEstimate, LoadsTheCodeOfProductsOnlyForThoseInside) {
  JobSpec spec;
  spec.batch = 8;
  spec.offload = OffloadPolicy::kAll;
  FakeLink link(1, std::uint64_t{16} << 20);
  EXPECT_EQ(estimate(spec, 8, 0, 0, &link).program, kProgram);
  const std::uint64_t products = estimate(spec, 8, 0).program;
  EXPECT_GT(products, kProgram);
  const Graph convolution =
      test::GraphBuilder({kBatchDim, 2, 4, 4}).conv3x3(2, 2, 1).simple("Flatten").build();
  EXPECT_GT(estimate(spec, 8, 0, 0, nullptr, convolution).program, products);
}

// The gradient of an operand, before it is added to what is there.
TEST(MemoryEstimate, CountsTheScratchOfProductsOfActivationsInside) {
  JobSpec spec;
  spec.batch = 8;
  const auto scratch = [&](bool with_product, FakeLink* link) {
    GraphBuilder b;
    TensorId x = b.gemm(b.input({16}), 16, 32, 1);
    x = b.node("Reshape", {x, b.ints({-1, 2, 4, 4})});
    if (with_product) x = b.node("MatMul", {x, b.node("Sigmoid", {x})});
    return estimate(spec, 8, 0, 0, link, b.finish(b.node("Flatten", {x}))).scratch;
  };
  EXPECT_EQ(scratch(true, nullptr) - scratch(false, nullptr), 8 * 2 * 4 * 4 * sizeof(float));
  spec.offload = OffloadPolicy::kAll;
  FakeLink link(1, std::uint64_t{16} << 20);
  EXPECT_EQ(scratch(true, &link), 0U);
}

TEST(MemoryEstimate, CountsKeysOfWhatIsOffloaded) {
  JobSpec spec;
  spec.batch = 8;
  spec.offload = OffloadPolicy::kAll;
  FakeLink link(1, std::uint64_t{16} << 20);
  const MemoryEstimate memory = estimate(spec, 8, 0, 0, &link);
  // Four 4-byte numbers an entry of a key, on every axis of both layers.
  EXPECT_GE(memory.engine, 16U * ((24 + 6 + 8) + (3 + 24 + 8)));
  EXPECT_LT(memory.engine, 64U << 10);
}

}  // namespace
}  // namespace tempo
