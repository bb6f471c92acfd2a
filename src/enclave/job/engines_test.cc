#include "enclave/job/engines.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "enclave/offload/fake_link.h"
#include "enclave/train/freeze.h"
#include "enclave/train/run_length.h"
#include "enclave/train/test_files.h"
#include "enclave/train/test_graphs.h"
#include "enclave/train/trainer.h"

namespace tempo {
namespace {

constexpr std::int64_t kIn = 6;
constexpr std::int64_t kHidden = 24;

Dataset points(std::int64_t count) {
  test::Bytes bytes;
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < count; ++i) {
    std::vector<float> row;
    for (std::int64_t j = 0; j < kIn; ++j) row.push_back(std::sin(static_cast<float>(7 * i + j)));
    test::append_values(bytes, row);
    labels.push_back(static_cast<std::int32_t>(i % 3));
  }
  std::vector<Dataset::Part> parts(1);
  parts[0] = {std::move(bytes), 0, kIn * sizeof(float), count};
  Dataset data("x", SampleShape::row(kIn), ValueType::kFloat32, std::move(parts));
  data.set_labels(std::move(labels), "y");
  return data;
}

Graph network() {
  return test::GraphBuilder({kBatchDim, kIn})
      .gemm(kIn, kHidden, 0.5F)
      .simple("Relu")
      .gemm(kHidden, 3, 0.5F)
      .build();
}

struct Outcome {
  TrainingHistory history;
  Graph graph;
  std::vector<FakeLink::Received> received;
  std::size_t weight_gradients = 0;  // products
};

// Everything offloaded to one worker, which remembers what it was sent.
Outcome train(const JobSpec& spec) {
  Outcome outcome;
  outcome.graph = network();
  EXPECT_TRUE(freeze_parameters(outcome.graph, spec.frozen).ok());
  const Datasets data{points(24), {}};
  FakeLink link(1, std::uint64_t{16} << 20);
  link.record = true;
  link.after_multiply = [&](const Task& task, std::vector<float>&) {
    outcome.weight_gradients += (task.flags & kTransposeA) != 0 ? 1 : 0;
  };
  ThreadPool pool(1);
  TimeLedger ledger;
  const EnclaveHooks hooks;
  JobEngines engines(spec, *parse_scheme(spec.scheme), &link,
                     run_length(spec, data.train.size()).batches, 1, hooks, pool, ledger);
  auto trainer =
      Trainer::create(outcome.graph, data, {{0}, {1}, "given"}, spec, engines, pool, ledger);
  EXPECT_TRUE(trainer.ok()) << trainer.error().one_line();
  const std::atomic<bool> cancel{false};
  EXPECT_TRUE((*trainer)->run(cancel, {}, outcome.history).ok());
  trainer->reset();
  outcome.received = std::move(link.received);
  return outcome;
}

JobSpec one_step_of_three_batches(const std::string& scheme) {
  JobSpec spec;
  spec.scheme = scheme;
  spec.offload = OffloadPolicy::kAll;
  spec.batch = 8;
  spec.accumulate = 3;
  return spec;
}

// The weights of the first layer, 24 rows of 6, as the worker was sent them in each batch. Sorted:
// every scheme may permute.
std::vector<std::vector<float>> weights_seen(const Outcome& outcome) {
  std::vector<std::vector<float>> seen;
  for (const FakeLink::Received& received : outcome.received) {
    if (received.task.rows != kHidden || received.task.cols != kIn) continue;
    seen.push_back(received.payload);
    std::sort(seen.back().begin(), seen.back().end());
  }
  return seen;
}

// The weights stay as they are while a step accumulates: only keys can make a difference.
TEST(Accumulation, EveryBatchOfAStepHasKeysOfItsOwn) {
  const auto plain = weights_seen(train(one_step_of_three_batches("plain")));
  ASSERT_EQ(plain.size(), 3U);
  EXPECT_EQ(std::set(plain.begin(), plain.end()).size(), 1U) << "without coefficients";
  const auto encoded = weights_seen(train(one_step_of_three_batches("tempo")));
  ASSERT_EQ(encoded.size(), 3U);
  EXPECT_EQ(std::set(encoded.begin(), encoded.end()).size(), 3U);
}

TEST(Freeze, WorkersComputeNoGradientOfFrozenWeights) {
  JobSpec spec = one_step_of_three_batches("tempo");
  EXPECT_EQ(train(spec).weight_gradients, 6U);  // two layers, three batches
  spec.frozen.freeze = {"Gemm0"};
  const Outcome head = train(spec);
  EXPECT_EQ(head.weight_gradients, 3U);
  // W', X' of both layers, and D' of the second alone.
  EXPECT_EQ(head.received.size(), 3U * 5U);
  spec.frozen.freeze = {"Gemm2"};
  EXPECT_EQ(train(spec).weight_gradients, 3U);
}

// Everything at once gives what it gives inside the enclave.
TEST(Training, OfEveryKindUnderTempoIsThatOfLocal) {
  JobSpec spec = one_step_of_three_batches("local");
  spec.epochs = 8;
  spec.batch = 5;  // 24 = 15 + 5 + 4
  spec.optimizer.kind = OptimizerKind::kAdamW;
  spec.optimizer.weight_decay = 0.1;
  spec.learning_rate = 0.02;
  spec.clip_norm = 0.2;
  spec.label_smoothing = 0.1;
  spec.frozen.freeze = {"B2"};
  const Outcome local = train(spec);
  spec.scheme = "tempo";
  const Outcome tempo = train(spec);
  ASSERT_EQ(local.history.loss.size(), 16U);
  ASSERT_EQ(tempo.history.loss.size(), 16U);
  EXPECT_LT(local.history.loss.back(), local.history.loss.front());
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(tempo.history.loss[i], local.history.loss[i], 1e-4);
  }
  EXPECT_TRUE(local.received.empty());
  EXPECT_FALSE(tempo.received.empty());
  const auto bias = static_cast<std::size_t>(tempo.graph.find("B2"));
  EXPECT_EQ(tempo.graph.tensors[bias].floats, network().tensors[bias].floats);
}

// The whole loop with one weight's gradient a step late, and none at the end of an epoch.
TEST(Training, AsyncUnderTempoIsAStepLate) {
  JobSpec spec;
  spec.offload = OffloadPolicy::kAll;
  spec.batch = 8;
  spec.epochs = 2;
  spec.learning_rate = 0.1;
  spec.update = UpdateMode::kAsync;
  const Outcome tempo = train(spec);

  Graph graph = network();
  const Dataset data = points(24);
  ThreadPool pool(1);
  TimeLedger ledger;
  const EnclaveHooks hooks;
  spec.update = UpdateMode::kSync;
  JobEngines engines(spec, Scheme::kLocal, nullptr, 6, 1, hooks, pool, ledger);
  const auto executor =
      make_executor(graph, 8, StepMode::kTraining, spec.seed, engines, pool, ledger).value();
  std::vector<std::vector<float>> momenta(graph.tensors.size());
  const auto follow = [&](std::size_t id, const std::vector<float>& gradient) {
    momenta[id].resize(gradient.size());
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      momenta[id][i] = 0.9F * momenta[id][i] + gradient[i];
      graph.tensors[id].floats[i] -= 0.1F * momenta[id][i];
    }
  };
  const auto late = static_cast<std::size_t>(graph.nodes[0].inputs[1]);
  std::vector<double> losses;
  for (std::uint32_t epoch = 0; epoch < 2; ++epoch) {
    const auto order = epoch_order(spec.seed, epoch, 24);
    std::vector<float> waiting;
    for (std::size_t first = 0; first < 24; first += 8) {
      const auto samples = std::span(order).subspan(first, 8);
      for (std::size_t i = 0; i < 8 * kIn; ++i) {
        executor->input()[i] = std::sin(static_cast<float>(7 * samples[i / kIn] + i % kIn));
      }
      EXPECT_TRUE(executor->forward(losses.size()).ok());
      Targets targets;
      data.targets(samples, targets);
      losses.push_back(
          evaluate_loss({spec.loss, 0}, executor->output(), 3, targets, 8, executor->d_output())
              ->mean_loss());
      EXPECT_TRUE(executor->backward().ok());
      for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
        if (graph.tensors[id].kind != TensorKind::kParameter) continue;
        const auto gradient = executor->gradient(static_cast<TensorId>(id));
        std::vector<float> values(gradient.begin(), gradient.end());
        if (id == late) std::swap(values, waiting);
        if (!values.empty()) follow(id, values);
      }
    }
    follow(late, waiting);
  }
  ASSERT_EQ(tempo.history.loss.size(), losses.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    EXPECT_NEAR(tempo.history.loss[i], losses[i], 1e-5) << i;
  }
  for (std::size_t i = 0; i < graph.tensors[late].floats.size(); ++i) {
    EXPECT_NEAR(tempo.graph.tensors[late].floats[i], graph.tensors[late].floats[i], 1e-5) << i;
  }
}

}  // namespace
}  // namespace tempo
