#include "enclave/train/trainer.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "enclave/offload/local_engine.h"
#include "enclave/train/freeze.h"
#include "enclave/train/test_files.h"
#include "enclave/train/test_graphs.h"

namespace tempo {
namespace {

using test::GraphBuilder;

// Engines that compute everything in the process; counts what it was asked for.
class LocalFactory final : public EngineFactory {
 public:
  LocalFactory(ThreadPool& pool, TimeLedger& ledger) : pool_(pool), ledger_(ledger) {}
  Result<LinearEngine*> engine_for(const std::vector<LinearOp>& ops, StepMode mode) override {
    modes.push_back(mode);
    batches.push_back(ops.empty() ? 0 : ops[0].geometry.batch);
    engines_.push_back(std::make_unique<LocalEngine>(pool_, ledger_));
    return engines_.back().get();
  }
  int channel_block() const override { return 0; }
  CheckCounts checks() const override { return {7, 1}; }

  std::vector<StepMode> modes;
  std::vector<std::int64_t> batches;

 private:
  ThreadPool& pool_;
  TimeLedger& ledger_;
  std::vector<std::unique_ptr<LinearEngine>> engines_;
};

constexpr std::int64_t kToyClasses = 3;

// Points around three centres, far apart compared with their spread; labels go round.
Dataset toy_points(std::int64_t count, float phase) {
  test::Bytes bytes;
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto label = static_cast<std::int32_t>(i % kToyClasses);
    const float angle = 2.1F * static_cast<float>(label);
    const auto wobble = static_cast<float>(i) + phase;
    test::append_values(bytes,
                        std::vector<float>{3 * std::cos(angle) + 0.5F * std::sin(12.9F * wobble),
                                           3 * std::sin(angle) + 0.5F * std::sin(78.2F * wobble)});
    labels.push_back(label);
  }
  std::vector<Dataset::Part> parts(1);
  parts[0] = {std::move(bytes), 0, 8, count};
  Dataset data("toy", SampleShape::row(2), ValueType::kFloat32, std::move(parts));
  data.set_labels(std::move(labels), "y");
  return data;
}

// 8 x 8 images of upright stripes, level stripes or squares: cutting and mirroring keep the class.
Dataset toy_images(std::int64_t count, int phase) {
  test::Bytes bytes;
  std::vector<std::int32_t> labels;
  for (int i = 0; i < count; ++i) {
    const int label = i % 3;
    for (int y = 0; y < 8; ++y) {
      for (int x = 0; x < 8; ++x) {
        const bool right = x % 4 < 2;
        const bool lower = y % 4 < 2;
        const bool bright = label == 0 ? right : label == 1 ? lower : right != lower;
        bytes.push_back(
            static_cast<std::byte>((bright ? 160 : 20) + (i * 31 + phase + x * 7 + y * 3) % 60));
      }
    }
    labels.push_back(label);
  }
  std::vector<Dataset::Part> parts(1);
  parts[0] = {std::move(bytes), 0, 64, count};
  Dataset data("images", {1, 8, 8, true}, ValueType::kUint8, std::move(parts));
  data.set_labels(std::move(labels), "y");
  return data;
}

Normalisation identity() {
  return {{0}, {1}, "given"};
}

Graph mlp() {
  return GraphBuilder({kBatchDim, 2}).gemm(2, 16, 0.7F).simple("Relu").gemm(16, 3, 0.4F).build();
}

JobSpec toy_spec() {
  JobSpec spec;
  spec.batch = 32;
  spec.epochs = 8;
  spec.learning_rate = 0.1;
  spec.seed = 5;
  return spec;
}

struct Outcome {
  Status status;
  TrainingHistory history;
  std::vector<TrainProgress> progress;
  std::vector<std::int64_t> batches;
};

// Trains `graph`; cancels once `cancel_after` steps are done.
Outcome train(Graph& graph, const Datasets& data, const JobSpec& spec,
              const Normalisation& normalisation = identity(), std::int64_t cancel_after = -1) {
  ThreadPool pool(2);
  TimeLedger ledger;
  LocalFactory factory(pool, ledger);
  Outcome outcome;
  auto trainer = Trainer::create(graph, data, normalisation, spec, factory, pool, ledger);
  if (!trainer.ok()) {
    outcome.status = trainer.error();
    return outcome;
  }
  std::atomic<bool> cancel{cancel_after == 0};
  outcome.status = (*trainer)->run(
      cancel,
      [&](const TrainProgress& p) {
        outcome.progress.push_back(p);
        if (p.step == cancel_after) cancel = true;
      },
      outcome.history);
  outcome.batches = factory.batches;
  return outcome;
}

TEST(Trainer, LearnsASeparableSet) {
  const Datasets data{toy_points(203, 0), toy_points(50, 1000)};
  Graph graph = mlp();
  const Outcome outcome = train(graph, data, toy_spec());
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().one_line();
  const TrainingHistory& history = outcome.history;
  EXPECT_EQ(history.loss.size(), 8U * 7U);  // the partial batch is kept
  EXPECT_EQ(history.images, 8 * 203);
  EXPECT_EQ(history.epochs_done, 8);
  ASSERT_EQ(history.test.size(), 8U);
  EXPECT_EQ(history.test.back().accuracy, 1.0);
  EXPECT_LT(history.test.back().loss, 0.1);
  EXPECT_EQ(history.train.size(), 8U);
  EXPECT_GT(history.train.back().accuracy, 0.99);
  EXPECT_GT(history.loss.front(), history.loss.back());
  // Full batches, the last one of 203 mod 32, evaluation.
  EXPECT_EQ(outcome.batches, (std::vector<std::int64_t>{32, 11, 32}));
}

TEST(Trainer, LearnsImagesThroughAConvolution) {
  const Datasets data{toy_images(96, 0), toy_images(30, 5)};
  Graph graph = GraphBuilder({kBatchDim, 1, 8, 8})
                    .conv3x3(1, 8, 0.5F)
                    .simple("Relu")
                    .simple("GlobalAveragePool")
                    .simple("Flatten")
                    .gemm(8, 3, 0.5F)
                    .build();
  JobSpec spec = toy_spec();
  spec.epochs = 14;
  spec.data.random_crop = true;
  spec.data.random_flip = true;
  const Outcome outcome = train(graph, data, spec, {{0.4F}, {0.3F}, "given"});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().one_line();
  EXPECT_EQ(outcome.history.test.back().accuracy, 1.0);
}

TEST(Trainer, SameSeedSameLosses) {
  const Datasets data{toy_points(100, 0), {}};
  JobSpec spec = toy_spec();
  spec.epochs = 3;
  Graph first = mlp();
  Graph second = mlp();
  Graph third = mlp();
  const Outcome a = train(first, data, spec);
  const Outcome b = train(second, data, spec);
  spec.seed = 6;
  const Outcome c = train(third, data, spec);
  ASSERT_TRUE(a.status.ok() && b.status.ok() && c.status.ok());
  EXPECT_EQ(a.history.loss, b.history.loss);
  EXPECT_NE(a.history.loss, c.history.loss);
  for (std::size_t i = 0; i < first.tensors.size(); ++i) {
    EXPECT_EQ(first.tensors[i].floats, second.tensors[i].floats) << i;
  }
  EXPECT_TRUE(a.history.test.empty());
}

// One linear layer in float64, straight from the definitions of loss and SGD.
std::vector<double> reference_losses(const Graph& graph, const Dataset& data, const JobSpec& spec) {
  std::array<std::array<double, 3>, 3> w{};  // by class: two weights and the bias
  std::array<std::array<double, 3>, 3> v{};
  for (std::size_t k = 0; k < 3; ++k) {
    w[k] = {static_cast<double>(graph.tensors[1].floats[2 * k]),
            static_cast<double>(graph.tensors[1].floats[2 * k + 1]),
            static_cast<double>(graph.tensors[2].floats[k])};
  }
  std::vector<double> losses;
  for (std::uint32_t epoch = 0; epoch < static_cast<std::uint32_t>(spec.epochs); ++epoch) {
    const auto order = epoch_order(spec.seed, epoch, data.size());
    for (std::size_t first = 0; first < order.size();
         first += static_cast<std::size_t>(spec.batch)) {
      const std::size_t count =
          std::min(order.size() - first, static_cast<std::size_t>(spec.batch));
      std::array<std::array<double, 3>, 3> g{};
      double loss = 0;
      for (std::size_t i = first; i < first + count; ++i) {
        std::array<float, 2> point;
        std::memcpy(point.data(), data.sample(order[i]), 8);
        const std::array<double, 3> x{static_cast<double>(point[0]), static_cast<double>(point[1]),
                                      1.0};
        std::array<double, 3> p;
        double sum = 0;
        for (std::size_t k = 0; k < 3; ++k) {
          p[k] = std::exp(std::inner_product(x.begin(), x.end(), w[k].begin(), 0.0));
          sum += p[k];
        }
        const auto label = static_cast<std::size_t>(data.labels()[order[i]]);
        loss -= std::log(p[label] / sum);
        for (std::size_t k = 0; k < 3; ++k) {
          const double d = p[k] / sum - (k == label ? 1.0 : 0.0);
          for (std::size_t j = 0; j < 3; ++j) g[k][j] += d * x[j] / static_cast<double>(count);
        }
      }
      losses.push_back(loss / static_cast<double>(count));
      for (std::size_t k = 0; k < 3; ++k) {
        for (std::size_t j = 0; j < 3; ++j) {
          v[k][j] =
              spec.optimizer.momentum * v[k][j] + g[k][j] + spec.optimizer.weight_decay * w[k][j];
          w[k][j] -= spec.learning_rate * v[k][j];
        }
      }
    }
  }
  return losses;
}

TEST(Trainer, MatchesAFloat64Reference) {
  const Datasets data{toy_points(50, 0), {}};
  JobSpec spec = toy_spec();
  spec.batch = 16;
  spec.epochs = 5;
  spec.optimizer.weight_decay = 0.01;
  // With a Softmax and without: the loss is that of the logits.
  for (const bool softmax : {false, true}) {
    GraphBuilder builder({kBatchDim, 2});
    builder.gemm(2, 3, 0.5F);
    if (softmax) builder.softmax(-1);
    Graph graph = builder.build();
    const auto expected = reference_losses(graph, data.train, spec);
    const Outcome outcome = train(graph, data, spec);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().one_line();
    ASSERT_EQ(outcome.history.loss.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // Logits of up to 10 in float32 after at most 20 steps of a convex problem: each step adds
      // about ten roundings of relative size 2^-24.
      const double tolerance = 10.0 * 10.0 * static_cast<double>(i + 1) * 0x1p-24;
      ASSERT_NEAR(outcome.history.loss[i], expected[i], tolerance) << "step " << i;
    }
    EXPECT_EQ(graph.nodes.size(), softmax ? 2U : 1U);
  }
}

using Json = nlohmann::json;

Dataset fixture_data(const Json& c) {
  const auto samples = c.at("samples").get<std::int64_t>();
  test::Bytes bytes;
  test::append_values(bytes, c.at("x").get<std::vector<float>>());
  std::vector<Dataset::Part> parts(1);
  parts[0] = {std::move(bytes), 0, 12, samples};
  Dataset data("x", SampleShape::row(3), ValueType::kFloat32, std::move(parts));
  if (c.at("loss") == "cross-entropy") {
    data.set_labels(c.at("t").get<std::vector<std::int32_t>>(), "y");
  } else {
    test::Bytes targets;
    test::append_values(targets, c.at("t").get<std::vector<float>>());
    data.set_target_values(std::move(targets), 0, c.at("outputs"), "y");
  }
  return data;
}

JobSpec fixture_spec(const Json& c) {
  JobSpec spec;
  spec.batch = c.at("batch");
  spec.accumulate = c.at("accumulate");
  spec.epochs = static_cast<std::int64_t>(c.at("losses").size());
  spec.loss = *parse_loss_kind(c.at("loss").get<std::string>());
  spec.label_smoothing = c.at("label_smoothing");
  spec.optimizer.kind = *parse_optimizer_kind(c.at("optimizer").get<std::string>());
  spec.optimizer.weight_decay = c.at("weight_decay");
  spec.learning_rate = c.at("lr");
  spec.clip_norm = c.at("clip_norm");
  spec.frozen.freeze = c.at("frozen").get<std::vector<std::string>>();
  return spec;
}

// Losses, optimisers, accumulation, clipping and frozen parameters together.
TEST(Trainer, MatchesPyTorch) {
  std::ifstream file(std::string(TEMPO_SOURCE_DIR) + "/tests/fixtures/training_fixture.json");
  const Json cases = Json::parse(file).at("cases");
  ASSERT_FALSE(cases.empty());
  for (const Json& c : cases) {
    SCOPED_TRACE(c.at("loss").get<std::string>() + " " + c.at("optimizer").get<std::string>());
    Graph graph = GraphBuilder({kBatchDim, 3})
                      .gemm(3, 8, 1)
                      .simple("Relu")
                      .gemm(8, c.at("outputs"), 1)
                      .build();
    for (const auto& [name, values] : c.at("before").items()) {
      graph.tensors[static_cast<std::size_t>(graph.find(name))].floats =
          values.get<std::vector<float>>();
    }
    const JobSpec spec = fixture_spec(c);
    ASSERT_TRUE(freeze_parameters(graph, spec.frozen).ok());
    const Datasets data{fixture_data(c), {}};
    const Outcome outcome = train(graph, data, spec);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().one_line();
    const auto want = c.at("losses").get<std::vector<double>>();
    ASSERT_EQ(outcome.history.loss.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(outcome.history.loss[i], want[i], 1e-5 * want[i]) << "step " << i;
    }
    for (const auto& [name, json] : c.at("after").items()) {
      const auto& got = graph.tensors[static_cast<std::size_t>(graph.find(name))].floats;
      const auto values = json.get<std::vector<float>>();
      const bool is_frozen = json == c.at("before").at(name);
      for (std::size_t i = 0; i < values.size(); ++i) {
        // Ten steps of Adam, which turns roundings of small gradients into shares of the rate.
        EXPECT_NEAR(got[i], values[i], is_frozen ? 0 : 2e-5) << name << " " << i;
      }
    }
    EXPECT_EQ(outcome.history.images, spec.epochs * data.train.size());
  }
}

TEST(Trainer, AccumulatedBatchesMakeTheStepOfOneLargeBatch) {
  const Datasets data{toy_points(100, 0), toy_points(40, 50)};
  JobSpec large = toy_spec();
  large.batch = 48;
  large.epochs = 3;
  JobSpec small = large;
  small.batch = 16;
  small.accumulate = 3;  // 100 = 2 * 48 + 4: the last step of an epoch has one small batch
  Graph first = mlp();
  Graph second = mlp();
  const Outcome whole = train(first, data, large);
  const Outcome pieces = train(second, data, small);
  ASSERT_TRUE(whole.status.ok() && pieces.status.ok());
  ASSERT_EQ(pieces.history.loss.size(), 9U);
  EXPECT_EQ(whole.history.loss.size(), 9U);
  for (std::size_t i = 0; i < 9; ++i) {
    // The same sums in another order, over nine steps.
    EXPECT_NEAR(pieces.history.loss[i], whole.history.loss[i], 1e-5 * whole.history.loss[i]);
  }
  EXPECT_EQ(pieces.history.images, 300);
  EXPECT_EQ(pieces.history.epochs_done, 3);
  EXPECT_EQ(pieces.batches, (std::vector<std::int64_t>{16, 4, 16}));
}

Graph mlp_with_norm() {
  return GraphBuilder({kBatchDim, 2})
      .gemm(2, 8, 0.7F)
      .batch_norm(8)
      .simple("Relu")
      .gemm(8, 3, 0.4F)
      .build();
}

std::vector<std::vector<float>> statistics_of(const Graph& graph) {
  std::vector<std::vector<float>> statistics;
  for (const char* name : {"M6", "V7"}) {
    statistics.push_back(graph.tensors[static_cast<std::size_t>(graph.find(name))].floats);
  }
  return statistics;
}

// With weights that stay as they are, the running statistics tell what was normalised together.
TEST(Trainer, NormalizesEachAccumulatedBatchOnItsOwn) {
  const Datasets data{toy_points(96, 0), {}};
  const auto statistics_after = [&](std::int64_t batch, std::int64_t accumulate) {
    JobSpec spec = toy_spec();
    spec.learning_rate = 0;
    spec.epochs = 1;
    spec.batch = batch;
    spec.accumulate = accumulate;
    Graph graph = mlp_with_norm();
    EXPECT_TRUE(train(graph, data, spec).status.ok());
    return statistics_of(graph);
  };
  EXPECT_EQ(statistics_after(16, 3), statistics_after(16, 1));
  EXPECT_NE(statistics_after(48, 1), statistics_after(16, 1));
}

TEST(Trainer, FrozenNormalizationsKeepTheirStatisticsWhenAsked) {
  const Datasets data{toy_points(96, 0), {}};
  const auto initial = statistics_of(mlp_with_norm());
  for (const bool keeps : {false, true}) {
    Graph graph = mlp_with_norm();
    ASSERT_TRUE(freeze_parameters(graph, {{"Gemm0", "BatchNormalization1"}, {}, keeps}).ok());
    const Outcome outcome = train(graph, data, toy_spec());
    ASSERT_TRUE(outcome.status.ok());
    EXPECT_LT(outcome.history.loss.back(), outcome.history.loss.front());
    EXPECT_EQ(statistics_of(graph) == initial, keeps);
  }
}

TEST(Trainer, TopFiveWhereThereAreMoreThanFiveClasses) {
  const Datasets data{toy_points(60, 0), toy_points(30, 50)};
  Graph wide = GraphBuilder({kBatchDim, 2}).gemm(2, 6, 0.5F).build();
  const Outcome outcome = train(wide, data, toy_spec());
  ASSERT_TRUE(outcome.status.ok());
  ASSERT_TRUE(outcome.history.test.back().top5_accuracy.has_value());
  EXPECT_GE(outcome.history.test.back().top5_accuracy, outcome.history.test.back().accuracy);
  Graph narrow = mlp();
  EXPECT_FALSE(train(narrow, data, toy_spec()).history.test.back().top5_accuracy.has_value());
}

TEST(Trainer, AFrozenModelKeepsWhatIsFrozen) {
  const Datasets data{toy_points(60, 0), {}};
  Graph graph = mlp();
  const Graph before = graph;
  ASSERT_TRUE(freeze_parameters(graph, {{}, {"Gemm2"}, false}).ok());
  ASSERT_TRUE(train(graph, data, toy_spec()).status.ok());
  for (const auto& [name, is_trained] :
       {std::pair{"W1", false}, {"B2", false}, {"W5", true}, {"B6", true}}) {
    const auto id = static_cast<std::size_t>(graph.find(name));
    EXPECT_EQ(graph.tensors[id].floats != before.tensors[id].floats, is_trained) << name;
  }
}

TEST(Trainer, StopsAtTheLimitOfSteps) {
  const Datasets data{toy_points(100, 0), toy_points(9, 50)};
  JobSpec spec = toy_spec();
  spec.steps = 6;  // four steps an epoch
  Graph graph = mlp();
  const Outcome outcome = train(graph, data, spec);
  ASSERT_TRUE(outcome.status.ok());
  EXPECT_EQ(outcome.history.loss.size(), 6U);
  EXPECT_EQ(outcome.history.epochs_done, 1);
  EXPECT_EQ(outcome.history.test.size(), 2U);
  // The same steps as those of a run without a limit.
  spec.steps = 0;
  Graph other = mlp();
  const Outcome whole = train(other, data, spec);
  ASSERT_TRUE(whole.status.ok());
  EXPECT_TRUE(std::equal(outcome.history.loss.begin(), outcome.history.loss.end(),
                         whole.history.loss.begin()));
}

TEST(Trainer, CancelsBetweenSteps) {
  const Datasets data{toy_points(100, 0), toy_points(9, 50)};
  Graph graph = mlp();
  const Outcome outcome = train(graph, data, toy_spec(), identity(), 3);
  ASSERT_FALSE(outcome.status.ok());
  EXPECT_EQ(outcome.status.error().code, ErrorCode::kInterrupted);
  EXPECT_EQ(outcome.history.loss.size(), 3U);
  EXPECT_TRUE(outcome.history.test.empty());
  // The model is that of three steps.
  JobSpec spec = toy_spec();
  spec.steps = 3;
  Graph other = mlp();
  ASSERT_TRUE(train(other, data, spec).status.ok());
  for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
    EXPECT_EQ(graph.tensors[i].floats, other.tensors[i].floats) << i;
  }
  // Cancelled in the last step of an epoch: evaluation does not start either.
  Graph third = mlp();
  const Outcome late = train(third, data, toy_spec(), identity(), 4);
  EXPECT_EQ(late.history.loss.size(), 4U);
  EXPECT_TRUE(late.history.test.empty());
  EXPECT_EQ(late.status.error().code, ErrorCode::kInterrupted);
}

TEST(Trainer, TellsHowFarItIs) {
  const Datasets data{toy_points(100, 0), toy_points(40, 50)};
  JobSpec spec = toy_spec();
  spec.epochs = 2;
  Graph graph = mlp();
  const Outcome outcome = train(graph, data, spec);
  ASSERT_TRUE(outcome.status.ok());
  ASSERT_EQ(outcome.progress.size(), 2U * (4U + 2U));  // steps and evaluated batches
  const TrainProgress& first = outcome.progress[0];
  EXPECT_EQ(first.epoch, 1);
  EXPECT_EQ(first.epochs, 2);
  EXPECT_EQ(first.step, 1);
  EXPECT_EQ(first.total_steps, 8);
  EXPECT_EQ(first.loss, outcome.history.loss[0]);
  EXPECT_EQ(first.learning_rate, 0.1);
  EXPECT_FALSE(first.test.has_value());
  EXPECT_GT(first.images_per_second, 0);
  EXPECT_EQ(first.checks.done, 7U);
  EXPECT_EQ(first.checks.failed, 1U);
  EXPECT_EQ(outcome.progress[5].phase, TrainProgress::Phase::kEvaluation);
  EXPECT_EQ(outcome.progress[5].epoch_so_far.accuracy, outcome.history.test[0].accuracy);
  ASSERT_TRUE(outcome.progress[6].test.has_value());
  EXPECT_EQ(outcome.progress[6].test->accuracy, outcome.history.test[0].accuracy);
  EXPECT_EQ(outcome.progress.back().step, 8);
}

TEST(Trainer, DivergedLossIsAnError) {
  const Datasets data{toy_points(100, 0), {}};
  JobSpec spec = toy_spec();
  spec.learning_rate = 1e30;
  Graph graph = mlp();
  const Outcome outcome = train(graph, data, spec);
  ASSERT_FALSE(outcome.status.ok());
  EXPECT_EQ(outcome.status.error().code, ErrorCode::kDiverged);
  EXPECT_NE(outcome.status.error().where.find("epoch 1, step "), std::string::npos);
  EXPECT_FALSE(outcome.history.loss.empty());
}

TEST(Trainer, SmallerThanABatch) {
  const Datasets data{toy_points(5, 0), toy_points(3, 9)};
  JobSpec spec = toy_spec();
  spec.epochs = 2;
  Graph graph = mlp();
  const Outcome outcome = train(graph, data, spec);
  ASSERT_TRUE(outcome.status.ok());
  EXPECT_EQ(outcome.history.loss.size(), 2U);
  EXPECT_EQ(outcome.batches, (std::vector<std::int64_t>{5, 3}));
}

TEST(Trainer, RefusesWhatMakesNoSense) {
  const auto code_of = [](const Datasets& data, const std::function<void(JobSpec&)>& change) {
    JobSpec spec = toy_spec();
    change(spec);
    Graph graph = mlp();
    const Outcome outcome = train(graph, data, spec);
    return outcome.status.ok() ? -1 : static_cast<int>(outcome.status.error().code);
  };
  const Datasets good{toy_points(9, 0), {}};
  const int usage = static_cast<int>(ErrorCode::kUsage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.batch = 0; }), usage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.epochs = 0; }), usage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.steps = -1; }), usage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.learning_rate = NAN; }), usage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.optimizer.momentum = -1; }), usage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.data.random_flip = true; }), usage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.accumulate = 0; }), usage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.clip_norm = NAN; }), usage);
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.label_smoothing = 2; }), usage);
  const int bad_data = static_cast<int>(ErrorCode::kBadData);
  const auto nothing = [](JobSpec&) {};
  EXPECT_EQ(code_of(good, [](JobSpec& s) { s.loss = LossKind::kMse; }), bad_data);
  EXPECT_EQ(code_of(Datasets{{}, toy_points(9, 0)}, nothing), bad_data);
  EXPECT_EQ(code_of(Datasets{toy_images(9, 0), {}}, nothing), bad_data);
  Dataset high = toy_points(9, 0);
  high.set_labels(std::vector<std::int32_t>(9, 3), "y");
  EXPECT_EQ(code_of(Datasets{std::move(high), {}}, nothing), bad_data);
  std::vector<Dataset::Part> parts(1);
  parts[0] = {test::Bytes(16), 0, 8, 2};
  Dataset unlabelled("u", SampleShape::row(2), ValueType::kFloat32, std::move(parts));
  EXPECT_EQ(code_of(Datasets{std::move(unlabelled), {}}, nothing), bad_data);
}

TEST(Infer, GivesTheModelsOutputForEverySample) {
  const Datasets data{toy_points(100, 0), toy_points(45, 50)};
  Graph graph = GraphBuilder({kBatchDim, 2}).gemm(2, 3, 0.5F).softmax(-1).build();
  const Outcome outcome = train(graph, data, toy_spec());
  ASSERT_TRUE(outcome.status.ok());

  ThreadPool pool(2);
  TimeLedger ledger;
  LocalFactory factory(pool, ledger);
  InferOptions options;
  options.batch = 16;
  std::vector<std::int64_t> seen;
  options.on_progress = [&](const InferProgress& p) {
    seen.push_back(p.samples);
    EXPECT_EQ(p.total_samples, 45);
  };
  const auto predictions = infer(graph, data.test, identity(), options, factory, pool, ledger);
  ASSERT_TRUE(predictions.ok()) << predictions.error().one_line();
  EXPECT_EQ(predictions->samples, 45);
  EXPECT_EQ(predictions->classes, 3);
  ASSERT_TRUE(predictions->accuracy.has_value());
  EXPECT_EQ(predictions->accuracy, outcome.history.test.back().accuracy);
  EXPECT_EQ(seen, (std::vector<std::int64_t>{16, 32, 45}));
  ASSERT_EQ(predictions->values.size(), 135U);
  const auto& weights = graph.tensors[1].floats;
  const auto& bias = graph.tensors[2].floats;
  for (std::size_t i = 0; i < 45; ++i) {
    std::array<float, 2> x;
    std::memcpy(x.data(), data.test.sample(static_cast<std::int64_t>(i)), 8);
    std::array<double, 3> p;
    double sum = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      p[k] = std::exp(static_cast<double>(weights[2 * k]) * static_cast<double>(x[0]) +
                      static_cast<double>(weights[2 * k + 1]) * static_cast<double>(x[1]) +
                      static_cast<double>(bias[k]));
      sum += p[k];
    }
    for (std::size_t k = 0; k < 3; ++k) {
      // Logits below 32 in three float32 roundings, then exp and a division.
      ASSERT_NEAR(predictions->values[3 * i + k], p[k] / sum, 1e-5);
    }
  }

  std::atomic<bool> cancelled{true};
  options.cancel = &cancelled;
  const auto stopped = infer(graph, data.test, identity(), options, factory, pool, ledger);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kInterrupted);
}

TEST(Infer, DoesNotScoreTargetValues) {
  ThreadPool pool(1);
  TimeLedger ledger;
  LocalFactory factory(pool, ledger);
  Graph graph = mlp();
  std::vector<Dataset::Part> parts(1);
  parts[0] = {test::Bytes(40), 0, 8, 5};
  Dataset data("x", SampleShape::row(2), ValueType::kFloat32, std::move(parts));
  test::Bytes values;
  test::append_values(values, std::vector<float>(5, 0.5F));
  data.set_target_values(std::move(values), 0, 1, "y");
  const auto predictions = infer(graph, data, identity(), {}, factory, pool, ledger);
  ASSERT_TRUE(predictions.ok()) << predictions.error().one_line();
  EXPECT_FALSE(predictions->accuracy.has_value());
}

TEST(Infer, RefusesDataThatDoesNotFit) {
  ThreadPool pool(1);
  TimeLedger ledger;
  LocalFactory factory(pool, ledger);
  Graph graph = mlp();
  const auto images = infer(graph, toy_images(3, 0), identity(), {}, factory, pool, ledger);
  ASSERT_FALSE(images.ok());
  EXPECT_EQ(images.error().code, ErrorCode::kBadData);
  EXPECT_FALSE(infer(graph, Dataset(), identity(), {}, factory, pool, ledger).ok());
  InferOptions options;
  options.batch = 0;
  EXPECT_FALSE(infer(graph, toy_points(3, 0), identity(), options, factory, pool, ledger).ok());
}

}  // namespace
}  // namespace tempo
