#include "enclave/train/step_update.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "enclave/offload/local_engine.h"
#include "enclave/train/test_files.h"
#include "enclave/train/test_graphs.h"
#include "enclave/train/trainer.h"

namespace tempo {
namespace {

using test::GraphBuilder;

// The local engine, which keeps every weight gradient back for as long as it may and leaves NaN in
// its place until then. Whoever updates too early, or not at all, is found out.
class LateEngine final : public LinearEngine {
 public:
  explicit LateEngine(LinearEngine& inner) : inner_(inner) {}

  void offer(IdleWork* work) override { idle_work_ = work; }
  Status begin_step(StepMode mode) override { return inner_.begin_step(mode); }
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override {
    return inner_.forward(op, input, parts);
  }
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input, bool may_defer) override {
    TEMPO_RETURN_IF_ERROR(inner_.backward(op, input, parts, d_input, accumulate_input, may_defer));
    write();
    if (may_defer && parts.size() == 1 && parts[0].d_weights != nullptr) keep(op, parts[0]);
    while (idle_work_ != nullptr && idle_work_->do_some()) ++idle_calls;
    return {};
  }
  Status end_step() override {
    write();
    return inner_.end_step();
  }
  bool defers(const LinearOp& /*op*/) const override { return true; }
  Status end_step_early() override { return inner_.end_step(); }
  Status settle() override {
    write();
    return {};
  }

  int idle_calls = 0;

 private:
  void keep(const LinearOp& op, const BackwardPart& part) {
    const std::int64_t size = op.geometry.m() * op.geometry.n();
    to_ = part.d_weights;
    kept_.assign(to_, to_ + size);
    std::fill_n(to_, size, std::numeric_limits<float>::quiet_NaN());
  }
  void write() {
    std::copy(kept_.begin(), kept_.end(), to_);
    kept_.clear();
  }

  LinearEngine& inner_;
  IdleWork* idle_work_ = nullptr;
  float* to_ = nullptr;
  std::vector<float> kept_;
};

class Engines final : public EngineFactory {
 public:
  Engines(ThreadPool& pool, TimeLedger& ledger, bool defers, UpdateMode mode)
      : local_(pool, ledger), defers_(defers), mode_(mode) {}
  Result<LinearEngine*> engine_for(const std::vector<LinearOp>& /*ops*/, StepMode mode) override {
    if (!defers_ || mode == StepMode::kInference) return &local_;
    late.push_back(std::make_unique<LateEngine>(local_));
    return late.back().get();
  }
  int channel_block() const override { return 0; }
  bool defers_weight_gradients() const override { return defers_; }
  bool allows_late_gradients() const override { return mode_ == UpdateMode::kAsync; }

  std::vector<std::unique_ptr<LateEngine>> late;

 private:
  LocalEngine local_;
  const bool defers_;
  const UpdateMode mode_;
};

constexpr std::int64_t kIn = 5, kClasses = 3, kBatch = 8;

Graph network() {
  return GraphBuilder({kBatchDim, kIn})
      .gemm(kIn, 12, 0.7F)
      .batch_norm(12)
      .simple("Relu")
      .gemm(12, 9, 0.5F)
      .simple("Relu")
      .gemm(9, kClasses, 0.4F)
      .build();
}

float wave(std::int64_t i) {
  return std::sin(0.37F * static_cast<float>(i) + 0.11F * static_cast<float>(i % 7));
}

void fill(Executor& executor, std::int64_t step) {
  const std::span<float> input = executor.input();
  for (std::size_t i = 0; i < input.size(); ++i) {
    input[i] = wave(static_cast<std::int64_t>(i) + 101 * step);
  }
}

// A gradient that follows the output, so that weights that differ show.
void fill_d_output(Executor& executor) {
  const std::span<float> d_output = executor.d_output();
  for (std::size_t i = 0; i < d_output.size(); ++i) {
    d_output[i] = 0.02F * (executor.output()[i] - wave(static_cast<std::int64_t>(i)));
  }
}

OptimizerSpec optimizer_of(OptimizerKind kind) {
  OptimizerSpec spec;
  spec.kind = kind;
  spec.weight_decay = 0.01;
  return spec;
}

double rate_of(std::int64_t step) {
  return 0.05 / static_cast<double>(1 + step);
}

constexpr std::int64_t kSteps = 5;

// Steps of the product, then what is late.
Graph trained(bool defers, UpdateMode mode, OptimizerKind kind, int* idle_calls = nullptr) {
  Graph graph = network();
  ThreadPool pool(2);
  TimeLedger ledger;
  Engines engines(pool, ledger, defers, mode);
  auto executor =
      make_executor(graph, kBatch, StepMode::kTraining, 1, engines, pool, ledger).value();
  Parameters parameters(graph, pool);
  Optimizer optimizer = Optimizer::create(parameters, optimizer_of(kind)).value();
  StepUpdate update(parameters, optimizer, pool, ledger);
  for (std::int64_t step = 0; step < kSteps; ++step) {
    fill(*executor, step);
    EXPECT_TRUE(executor->forward(static_cast<std::uint64_t>(step)).ok());
    fill_d_output(*executor);
    update.begin(rate_of(step), *executor);
    EXPECT_TRUE(executor->backward(&update).ok());
    update.finish(*executor);
  }
  EXPECT_TRUE(executor->settle().ok());
  update.settle(*executor);
  EXPECT_TRUE(executor->settle().ok());
  update.settle(*executor);  // nothing is applied twice
  if (idle_calls != nullptr) *idle_calls = engines.late[0]->idle_calls;
  return graph;
}

// The definition, from plain passes without anything early or late in executor and engine: every
// parameter follows its step's gradient at the end of it, that of the late one a step later.
Graph reference(bool is_late, OptimizerKind kind) {
  Graph graph = network();
  ThreadPool pool(1);
  TimeLedger ledger;
  Engines engines(pool, ledger, false, UpdateMode::kSync);
  auto executor =
      make_executor(graph, kBatch, StepMode::kTraining, 1, engines, pool, ledger).value();
  const OptimizerSpec spec = optimizer_of(kind);
  const TensorId late = graph.nodes[0].inputs[1];
  std::vector<std::vector<float>> first(graph.tensors.size()), second = first;
  std::vector<float> waiting;
  const auto follow = [&](TensorId id, std::int64_t step, std::span<const float> gradient) {
    const auto at = static_cast<std::size_t>(id);
    first[at].resize(gradient.size());
    second[at].resize(kind == OptimizerKind::kSgd ? 0 : gradient.size());
    update(spec, {rate_of(step), 1, step + 1},
           {graph.tensors[at].floats, gradient, first[at], second[at]});
  };
  for (std::int64_t step = 0; step < kSteps; ++step) {
    fill(*executor, step);
    EXPECT_TRUE(executor->forward(static_cast<std::uint64_t>(step)).ok());
    fill_d_output(*executor);
    EXPECT_TRUE(executor->backward().ok());
    for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
      const auto id = static_cast<TensorId>(i);
      if (graph.tensors[i].kind != TensorKind::kParameter) continue;
      const std::span<const float> gradient = executor->gradient(id);
      if (!is_late || id != late) {
        follow(id, step, gradient);
        continue;
      }
      if (!waiting.empty()) follow(id, step - 1, waiting);
      waiting.assign(gradient.begin(), gradient.end());
    }
  }
  if (is_late) follow(late, kSteps - 1, waiting);
  return graph;
}

void expect_same_weights(const Graph& got, const Graph& want) {
  for (std::size_t i = 0; i < want.tensors.size(); ++i) {
    if (want.tensors[i].kind != TensorKind::kParameter) continue;
    EXPECT_EQ(got.tensors[i].floats, want.tensors[i].floats) << want.tensors[i].name;
  }
}

class EveryOptimizer : public testing::TestWithParam<OptimizerKind> {};

TEST_P(EveryOptimizer, EarlyUpdatesGiveTheBitsOfUpdatesAtTheEnd) {
  int idle_calls = 0;
  const Graph early = trained(true, UpdateMode::kSync, GetParam(), &idle_calls);
  EXPECT_GT(idle_calls, kSteps) << "nothing was updated early";
  const Graph want = reference(false, GetParam());
  expect_same_weights(early, want);
  expect_same_weights(trained(false, UpdateMode::kSync, GetParam()), want);
}

TEST_P(EveryOptimizer, AsyncIsTheFirstLayerAStepLate) {
  const Graph got = trained(true, UpdateMode::kAsync, GetParam());
  expect_same_weights(got, reference(true, GetParam()));
  const auto first_layer = static_cast<std::size_t>(got.nodes[0].inputs[1]);
  EXPECT_NE(got.tensors[first_layer].floats,
            reference(false, GetParam()).tensors[first_layer].floats);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryOptimizer,
                         testing::Values(OptimizerKind::kSgd, OptimizerKind::kAdam,
                                         OptimizerKind::kAdamW));

// ---- the loop ----------------------------------------------------------------------------------

Dataset points(std::int64_t count) {
  test::Bytes bytes;
  std::vector<float> values;
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t k = 0; k < kIn; ++k) values.push_back(wave(i * kIn + k));
    labels.push_back(static_cast<std::int32_t>(i % kClasses));
  }
  test::append_values(bytes, values);
  std::vector<Dataset::Part> parts(1);
  parts[0] = {std::move(bytes), 0, kIn * 4, count};
  Dataset data("points", SampleShape::row(kIn), ValueType::kFloat32, std::move(parts));
  data.set_labels(std::move(labels), "y");
  return data;
}

struct Outcome {
  Graph graph;
  TrainingHistory history;
};

Outcome train(const Datasets& data, UpdateMode mode, std::int64_t epochs,
              std::int64_t cancel_after = -1) {
  JobSpec spec;
  spec.batch = kBatch;
  spec.epochs = epochs;
  spec.seed = 3;
  spec.update = mode;
  Outcome outcome{network(), {}};
  ThreadPool pool(2);
  TimeLedger ledger;
  Engines engines(pool, ledger, true, mode);
  const Normalisation identity{{0}, {1}, "given"};
  auto trainer =
      Trainer::create(outcome.graph, data, identity, spec, engines, pool, ledger).value();
  std::atomic<bool> cancel{false};
  const Status status = trainer->run(
      cancel, [&](const TrainProgress& p) { cancel = p.step == cancel_after; }, outcome.history);
  EXPECT_EQ(status.ok(), cancel_after < 0);
  return outcome;
}

// Each executor runs once an epoch and is settled before the other one, and before evaluation.
TEST(StepUpdate, NothingIsLateAcrossExecutorsAndEvaluations) {
  const Datasets data{points(kBatch + 3), points(10)};
  const Outcome sync = train(data, UpdateMode::kSync, 4);
  const Outcome async = train(data, UpdateMode::kAsync, 4);
  expect_same_weights(async.graph, sync.graph);
  EXPECT_EQ(async.history.loss, sync.history.loss);
  ASSERT_EQ(async.history.test.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(async.history.test[i].loss, sync.history.test[i].loss);
  }
}

TEST(StepUpdate, AStepLaterWithinAnEpoch) {
  const Datasets data{points(4 * kBatch), {}};
  const Outcome sync = train(data, UpdateMode::kSync, 2);
  const Outcome async = train(data, UpdateMode::kAsync, 2);
  EXPECT_EQ(async.history.loss[0], sync.history.loss[0]);
  EXPECT_NE(async.history.loss[1], sync.history.loss[1]);
  EXPECT_TRUE(std::isfinite(async.history.loss.back()));
}

TEST(StepUpdate, AnInterruptedRunHasAllItsUpdates) {
  const Datasets data{points(4 * kBatch), {}};
  expect_same_weights(train(data, UpdateMode::kAsync, 2, 1).graph,
                      train(data, UpdateMode::kSync, 2, 1).graph);
}

}  // namespace
}  // namespace tempo
