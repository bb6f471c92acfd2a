#include "enclave/nn/executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <optional>

#include "base/philox.h"
#include "enclave/graph/storage.h"
#include "enclave/nn/graph_builder.h"
#include "enclave/nn/op_oracles.h"
#include "enclave/offload/local_engine.h"

namespace tempo {
namespace {

// What an executor needs, in one place.
struct Rig {
  ThreadPool pool;
  TimeLedger ledger;
  LocalEngine engine;
  std::unique_ptr<Executor> executor;

  Rig(Graph& graph, const ExecutorOptions& options, int threads = 2)
      : pool(threads), engine(pool, ledger) {
    auto made = Executor::create(graph, options, engine, pool, ledger);
    if (!made.ok()) throw std::runtime_error(made.error().one_line());
    executor = std::move(*made);
  }
};

// --- ResNet-20 against PyTorch ---

constexpr std::uint32_t kProjectionStream = 2000;

struct GradientSummary {
  std::int32_t elements = 0;
  double norm = 0;
  std::array<double, 8> projections{};
  std::vector<float> samples;
};

// tests/fixtures/resnet20_grad.bin; gen_resnet20_grad.py describes the format.
struct Fixture {
  std::int32_t batch = 0;
  std::int32_t stream = 0;  // of the images' hashed values
  double loss = 0;
  std::vector<GradientSummary> tensors;

  static std::optional<Fixture> read() {
    std::ifstream file(TEMPO_SOURCE_DIR "/tests/fixtures/resnet20_grad.bin", std::ios::binary);
    const auto take = [&](auto& value) {
      file.read(reinterpret_cast<char*>(&value), sizeof(value));
    };
    Fixture fixture;
    std::int32_t count = 0;
    take(fixture.batch);
    take(fixture.stream);
    take(fixture.loss);
    take(count);
    for (std::int32_t i = 0; i < count && file; ++i) {
      GradientSummary& tensor = fixture.tensors.emplace_back();
      std::int32_t samples = 0;
      take(tensor.elements);
      take(tensor.norm);
      take(tensor.projections);
      take(samples);
      tensor.samples.resize(static_cast<std::size_t>(samples));
      for (float& sample : tensor.samples) take(sample);
    }
    if (!file || count == 0) return std::nullopt;
    return fixture;
  }
};

// Cross-entropy of softmax; fills d_output with its gradient.
double loss_and_gradient(Executor& executor, const std::vector<std::int64_t>& labels) {
  const auto classes = static_cast<std::size_t>(executor.classes());
  const auto output = executor.output();
  double loss = 0;
  for (std::size_t row = 0; row < labels.size(); ++row) {
    double sum = 0;
    for (std::size_t c = 0; c < classes; ++c) sum += std::exp(double{output[row * classes + c]});
    for (std::size_t c = 0; c < classes; ++c) {
      const double share = std::exp(double{output[row * classes + c]}) / sum;
      const bool is_label = static_cast<std::int64_t>(c) == labels[row];
      if (is_label) loss -= std::log(share) / static_cast<double>(labels.size());
      executor.d_output()[row * classes + c] =
          static_cast<float>((share - (is_label ? 1 : 0)) / static_cast<double>(labels.size()));
    }
  }
  return loss;
}

class ResNet20 : public testing::TestWithParam<int> {};

TEST_P(ResNet20, GradientIsPyTorchs) {
  const auto fixture = Fixture::read();
  ASSERT_TRUE(fixture.has_value());
  Graph graph = resnet20(10);
  Rig rig(graph, {.batch = fixture->batch, .channel_block = GetParam()});
  Executor& executor = *rig.executor;
  const auto input = executor.input();  // channels last
  for (std::int32_t image = 0; image < fixture->batch; ++image) {
    for (int c = 0; c < 3; ++c) {
      for (int position = 0; position < 1024; ++position) {
        input[static_cast<std::size_t>((image * 1024 + position) * 3 + c)] =
            hashed_value(static_cast<std::uint32_t>(fixture->stream),
                         static_cast<std::uint32_t>((image * 3 + c) * 1024 + position));
      }
    }
  }
  std::vector<std::int64_t> labels;
  for (std::int32_t i = 0; i < fixture->batch; ++i) labels.push_back(i * 3 % 10);
  ASSERT_TRUE(executor.forward(0).ok());
  EXPECT_NEAR(loss_and_gradient(executor, labels), fixture->loss, 1e-5 * fixture->loss);
  ASSERT_TRUE(executor.backward().ok());

  std::size_t next = 0;
  for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
    const Tensor& tensor = graph.tensors[id];
    if (tensor.kind != TensorKind::kParameter) continue;
    SCOPED_TRACE("tensor " + std::to_string(next) + " " + shape_to_string(tensor.declared));
    ASSERT_LT(next, fixture->tensors.size());
    const GradientSummary& want = fixture->tensors[next++];
    const auto stored = executor.gradient(static_cast<TensorId>(id));
    ASSERT_EQ(stored.size(), static_cast<std::size_t>(want.elements));
    std::vector<float> gradient(stored.size());
    from_storage(stored, tensor.declared, tensor.storage, gradient);
    constexpr double kRelative = 1e-4;
    double square = 0;
    for (const float g : gradient) square += double{g} * double{g};
    EXPECT_NEAR(std::sqrt(square), want.norm, kRelative * want.norm);
    for (std::size_t k = 0; k < want.projections.size(); ++k) {
      double projection = 0;
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        projection += double{gradient[i]} *
                      double{hashed_value(kProjectionStream + static_cast<std::uint32_t>(k),
                                          static_cast<std::uint32_t>(i))};
      }
      // An error of relative size r in a random direction changes this by r * norm / sqrt(3).
      EXPECT_NEAR(projection, want.projections[k], kRelative * want.norm) << k;
    }
    double error = 0, size = 0;
    for (std::size_t i = 0; i < want.samples.size(); ++i) {
      const double got = double{gradient[i * gradient.size() / want.samples.size()]};
      error += (got - double{want.samples[i]}) * (got - double{want.samples[i]});
      size += double{want.samples[i]} * double{want.samples[i]};
    }
    EXPECT_LE(std::sqrt(error), kRelative * std::sqrt(size));
  }
  EXPECT_EQ(next, fixture->tensors.size());
}

INSTANTIATE_TEST_SUITE_P(Layouts, ResNet20, testing::Values(0, 8, 16));

// --- What engines rely on ---

// Checks that operands are the same in backward as they were in forward.
class WatchingEngine final : public LinearEngine {
 public:
  explicit WatchingEngine(LinearEngine& inner) : inner_(inner) {}

  Status begin_step(StepMode mode) override {
    EXPECT_FALSE(open_);
    open_ = true;
    seen_.clear();
    next_ = 0;
    return inner_.begin_step(mode);
  }
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override {
    EXPECT_TRUE(open_);
    EXPECT_EQ(op.index, next_++);
    EXPECT_EQ(parts.size(), std::max<std::size_t>(op.parts.size(), 1));
    seen_[op.index] = copy(input, op.geometry.input_elements());
    for (std::size_t k = 0; k < parts.size(); ++k) {
      weights_[{op.index, k}] = copy_weights(op, k, parts[k].weights);
      asked_for_moments_ += parts[k].moments != nullptr ? 1 : 0;
    }
    return inner_.forward(op, input, parts);
  }
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input, bool may_defer) override {
    EXPECT_LT(op.index, next_);
    next_ = op.index;
    EXPECT_EQ(seen_[op.index], copy(input, op.geometry.input_elements()));
    EXPECT_EQ(op.needs_input_gradient, d_input != nullptr);
    for (std::size_t k = 0; k < parts.size(); ++k) {
      EXPECT_EQ((weights_[{op.index, k}]), copy_weights(op, k, parts[k].weights));
      EXPECT_EQ(op.needs_weight_gradient, parts[k].d_weights != nullptr);
    }
    ++backwards_;
    return inner_.backward(op, input, parts, d_input, accumulate_input, may_defer);
  }
  Status end_step() override {
    EXPECT_TRUE(open_);
    open_ = false;
    return inner_.end_step();
  }

  int asked_for_moments_ = 0;
  int backwards_ = 0;

 private:
  static std::vector<float> copy(const float* data, std::int64_t count) {
    return {data, data + count};
  }
  static std::vector<float> copy_weights(const LinearOp& op, std::size_t part, const float* data) {
    const std::int64_t features = op.parts.empty() ? op.geometry.m() : op.parts[part].features;
    return copy(data, features * op.geometry.n());
  }
  LinearEngine& inner_;
  bool open_ = false;
  int next_ = 0;
  std::map<int, std::vector<float>> seen_;
  std::map<std::pair<int, std::size_t>, std::vector<float>> weights_;
};

TEST(Executor, KeepsOperandsUntilTheirBackward) {
  Graph graph = resnet20(10);
  ThreadPool pool(1);
  TimeLedger ledger;
  LocalEngine local(pool, ledger);
  WatchingEngine engine(local);
  auto executor = Executor::create(graph, {.batch = 2}, engine, pool, ledger);
  ASSERT_TRUE(executor.ok());
  for (std::size_t i = 0; i < (*executor)->input().size(); ++i) {
    (*executor)->input()[i] = hashed_value(1, static_cast<std::uint32_t>(i));
  }
  ASSERT_TRUE((*executor)->forward(0).ok());
  loss_and_gradient(**executor, {1, 2});
  ASSERT_TRUE((*executor)->backward().ok());
  EXPECT_EQ(engine.backwards_, 22);
  EXPECT_EQ(engine.asked_for_moments_, 21);  // every convolution goes to one normalisation
  // A step without backward leaves no step open behind.
  ASSERT_TRUE((*executor)->forward(1).ok());
  ASSERT_TRUE((*executor)->forward(2).ok());
  EXPECT_GT(ledger.seconds(TimeKind::kNonLinear), 0);
  EXPECT_GT(ledger.seconds(TimeKind::kLinearTee), 0);
}

TEST(Executor, LinearOpsAreTheEnginesOps) {
  const Graph graph = resnet20(10);
  const auto ops = Executor::linear_ops(graph, {.batch = 4, .channel_block = 8});
  ASSERT_TRUE(ops.ok());
  ASSERT_EQ(ops->size(), 22U);
  EXPECT_FALSE((*ops)[0].needs_input_gradient);
  EXPECT_TRUE((*ops)[0].needs_weight_gradient);
  EXPECT_EQ((*ops)[0].input_block, 0);  // three channels
  EXPECT_EQ((*ops)[0].output_block, 8);
  EXPECT_TRUE((*ops)[1].needs_input_gradient);
  EXPECT_EQ(ops->back().geometry.n(), 64);
  EXPECT_EQ(ops->back().output_block, 0);
  std::int64_t multiply_adds = 0;
  for (const LinearOp& op : *ops) multiply_adds += op.geometry.multiply_adds();
  EXPECT_EQ(multiply_adds / 4, 40813184);
}

std::vector<std::vector<std::string>> parts_of(const Graph& graph, const ExecutorOptions& options) {
  const auto ops = Executor::linear_ops(graph, options);
  if (!ops.ok()) throw std::runtime_error(ops.error().one_line());
  std::vector<std::vector<std::string>> parts;
  for (const LinearOp& op : *ops) {
    std::vector<std::string>& names = parts.emplace_back();
    if (op.parts.empty()) names.push_back(op.name);
    for (const LinearPart& part : op.parts) names.push_back(part.name);
  }
  return parts;
}

TEST(Executor, StacksLayersThatShareTheirInput) {
  GraphBuilder b;
  const TensorId x = b.relu(b.input({16, 8, 8}));
  const TensorId block = b.relu(b.batch_norm(b.conv(x, 16, 8, 1, 1, 0, 1), 8));
  const TensorId wide = b.conv(x, 16, 32, 3, 1, 1, 1);
  const TensorId last = b.conv(block, 8, 32, 1, 1, 0, 1);
  const TensorId shortcut = b.conv(x, 16, 32, 1, 1, 0, 1, true);
  const TensorId sum = b.add(b.add(last, shortcut), wide);
  const Graph graph = b.finish(b.node("Flatten", {b.node("GlobalAveragePool", {sum})}));
  const auto name = [&](TensorId made) {
    return std::ranges::find_if(graph.nodes, [&](const Node& n) { return n.outputs[0] == made; })
        ->name;
  };
  const auto ops = Executor::linear_ops(graph, {.batch = 2});
  ASSERT_TRUE(ops.ok());
  ASSERT_EQ(ops->size(), 3U);
  ASSERT_EQ((*ops)[0].parts.size(), 2U);
  EXPECT_EQ((*ops)[0].parts[0].features, 8);
  EXPECT_EQ((*ops)[0].parts[1].name, name(shortcut));
  EXPECT_EQ((*ops)[0].parts[1].features, 32);
  EXPECT_EQ((*ops)[0].geometry.m(), 40);
  EXPECT_EQ((*ops)[0].name, (*ops)[0].parts[0].name + " + " + name(shortcut));
  EXPECT_EQ((*ops)[1].name, name(wide)) << "another kernel";
  EXPECT_TRUE((*ops)[1].parts.empty());
  EXPECT_EQ((*ops)[2].name, name(last));
  // In blocks of 16, 8 channels lie otherwise than 32.
  EXPECT_EQ(parts_of(graph, {.batch = 2, .channel_block = 16}).size(), 4U);
}

TEST(Executor, StacksOnlyWhatIsTrainedAndUsedAlike) {
  const auto count = [](const std::function<TensorId(GraphBuilder&, TensorId)>& second) {
    GraphBuilder b;
    const TensorId x = b.relu(b.input({6}));
    const TensorId sum = b.add(b.gemm(x, 6, 4, 1), second(b, x));
    return parts_of(b.finish(sum), {.batch = 2}).size();
  };
  using Builder = GraphBuilder;
  EXPECT_EQ(count([](Builder& b, TensorId x) { return b.gemm(x, 6, 4, 1); }), 1U);
  EXPECT_EQ(count([](Builder& b, TensorId x) {
              return b.node("MatMul", {x, b.parameter({6, 4}, 1, 0, Storage::kTransposed)});
            }),
            1U);
  EXPECT_EQ(
      count([](Builder& b, TensorId x) {
        const TensorId frozen = b.parameter({4, 6}, 1, 0, Storage::kOnnx, TensorKind::kConstant);
        return b.node("Gemm", {x, frozen}, {{"transB", {std::int64_t{1}}}});
      }),
      2U)
      << "its weights are not trained";
  EXPECT_EQ(count([](Builder& b, TensorId x) {
              const TensorId shared = b.parameter({4, 6}, 1);
              const auto layer = [&](TensorId in) {
                return b.node("Gemm", {in, shared}, {{"transB", {std::int64_t{1}}}});
              };
              return b.add(layer(x), layer(b.relu(x)));
            }),
            3U)
      << "another layer has the same weights";
  EXPECT_EQ(count([](Builder& b, TensorId x) { return b.gemm(b.relu(x), 6, 4, 1); }), 2U);
}

TEST(Executor, LeavesOutBackwardWhereNoGradientComes) {
  GraphBuilder b;
  const TensorId x = b.relu(b.input({6}));
  const TensorId zero = b.filled({}, 0, TensorKind::kConstant);
  const TensorId gate = b.node("Greater", {b.gemm(x, 6, 4, 1), zero});  // passes no gradient on
  const TensorId y = b.node("Where", {gate, b.gemm(x, 6, 4, 1), zero});
  Graph graph = b.finish(y);
  EXPECT_EQ(parts_of(graph, {.batch = 2}).size(), 2U);
  Rig rig(graph, {.batch = 2});
  std::ranges::fill(rig.executor->input(), 0.5F);
  ASSERT_TRUE(rig.executor->forward(0).ok());
  std::ranges::fill(rig.executor->d_output(), 1.0F);
  ASSERT_TRUE(rig.executor->backward().ok());
}

TEST(Executor, AddsGradientsOfSharedWeights) {
  // y = W (W x): the same weights twice.
  GraphBuilder b;
  const TensorId x = b.input({3});
  const TensorId weights = b.parameter({3, 3}, 1);
  const auto layer = [&](TensorId in) {
    return b.node("Gemm", {in, weights}, {{"transB", {std::int64_t{1}}}});
  };
  Graph graph = b.finish(layer(layer(x)));
  Rig rig(graph, {.batch = 1});
  const std::vector<float> in = {1, -2, 0.5F}, d_out = {0.25F, 1, -1};
  std::ranges::copy(in, rig.executor->input().begin());
  ASSERT_TRUE(rig.executor->forward(0).ok());
  std::ranges::copy(d_out, rig.executor->d_output().begin());
  ASSERT_TRUE(rig.executor->backward().ok());
  const auto w = graph.tensors[static_cast<std::size_t>(weights)].floats;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      double hidden = 0, d_hidden = 0;
      for (std::size_t k = 0; k < 3; ++k) {
        hidden += double{w[j * 3 + k]} * double{in[k]};
        d_hidden += double{w[k * 3 + i]} * double{d_out[k]};
      }
      const double want = double{d_out[i]} * hidden + d_hidden * double{in[j]};
      EXPECT_NEAR(rig.executor->gradient(weights)[i * 3 + j], want, 1e-6);
    }
  }
}

TEST(Executor, NormalisesByRunningStatisticsInInferenceAndUpdatesThemInTraining) {
  GraphBuilder b;
  const TensorId x = b.input({2});
  Graph graph = b.finish(b.batch_norm(x, 2));
  const auto mean = static_cast<std::size_t>(graph.nodes[0].inputs[3]);
  const auto variance = static_cast<std::size_t>(graph.nodes[0].inputs[4]);
  graph.nodes[0].attributes["momentum"] = {0.75F};
  Rig training(graph, {.batch = 3});
  std::ranges::copy(std::vector<float>{1, 10, 2, 20, 6, 0}, training.executor->input().begin());
  ASSERT_TRUE(training.executor->forward(0).ok());
  EXPECT_NEAR(graph.tensors[mean].floats[0], 0.25 * 3, 1e-6);
  EXPECT_NEAR(graph.tensors[mean].floats[1], 0.25 * 10, 1e-6);
  EXPECT_NEAR(graph.tensors[variance].floats[0], 0.75 + 0.25 * 7, 1e-6);  // unbiased: 14 / 2
  EXPECT_NEAR(graph.tensors[variance].floats[1], 0.75 + 0.25 * 100, 1e-5);

  const auto before = graph.tensors[mean].floats;
  Rig inference(graph, {.batch = 1, .mode = StepMode::kInference});
  std::ranges::copy(std::vector<float>{0.5F, -3}, inference.executor->input().begin());
  ASSERT_TRUE(inference.executor->forward(0).ok());
  EXPECT_EQ(graph.tensors[mean].floats, before);
  const auto wide = [](const std::vector<float>& v) { return oracle::Values(v.begin(), v.end()); };
  const auto at = [&](std::size_t i) {
    return wide(graph.tensors[static_cast<std::size_t>(graph.nodes[0].inputs[i])].floats);
  };
  const oracle::Values want =
      oracle::affine_norm({1, 2}, {0.5, -3}, at(1), at(2), at(3), at(4), 1e-5);
  for (std::size_t i = 0; i < 2; ++i) EXPECT_NEAR(inference.executor->output()[i], want[i], 1e-6);
}

TEST(Executor, ABatchOfOneLeavesRunningStatisticsAlone) {
  GraphBuilder b;
  const TensorId x = b.input({2});
  Graph graph = b.finish(b.batch_norm(x, 2));
  const auto mean = static_cast<std::size_t>(graph.nodes[0].inputs[3]);
  const auto variance = static_cast<std::size_t>(graph.nodes[0].inputs[4]);
  const auto means = graph.tensors[mean].floats;
  const auto variances = graph.tensors[variance].floats;
  Rig training(graph, {.batch = 1});
  std::ranges::copy(std::vector<float>{5, -7}, training.executor->input().begin());
  ASSERT_TRUE(training.executor->forward(0).ok());
  EXPECT_EQ(graph.tensors[mean].floats, means);
  EXPECT_EQ(graph.tensors[variance].floats, variances);
}

TEST(Executor, FrozenStatisticsHoldInTraining) {
  GraphBuilder b;
  const TensorId x = b.input({2});
  const TensorId scale = b.parameter({2}, 1), bias = b.parameter({2}, 1);
  const TensorId mean = b.filled({2}, 0.5F, TensorKind::kConstant);
  const TensorId variance = b.filled({2}, 4, TensorKind::kConstant);
  Graph graph = b.finish(b.node("BatchNormalization", {x, scale, bias, mean, variance}));
  Rig rig(graph, {.batch = 2});
  std::ranges::copy(std::vector<float>{1, 2, 3, 4}, rig.executor->input().begin());
  ASSERT_TRUE(rig.executor->forward(0).ok());
  const auto& s = graph.tensors[static_cast<std::size_t>(scale)].floats;
  const auto& t = graph.tensors[static_cast<std::size_t>(bias)].floats;
  EXPECT_NEAR(rig.executor->output()[2], (3 - 0.5) / 2 * s[0] + t[0], 1e-5);
  std::ranges::copy(std::vector<float>{1, 0, 1, 0}, rig.executor->d_output().begin());
  ASSERT_TRUE(rig.executor->backward().ok());
  EXPECT_NEAR(rig.executor->gradient(scale)[0], (0.5 + 2.5) / 2, 1e-5);
  EXPECT_NEAR(rig.executor->gradient(bias)[0], 2, 1e-6);
  EXPECT_EQ(graph.tensors[static_cast<std::size_t>(mean)].floats[0], 0.5F);
}

// --- Threads ---

// Tensors of many chunks, so that every operator's loops are shared between the threads.
Graph many_chunks(bool ends_in_softmax) {
  GraphBuilder b;
  const TensorId zeros = b.node("Identity", {b.input({16, 64, 64})});
  TensorId x = b.node("Identity", {b.add(zeros, b.parameter({4, 16, 64, 64}, 1))});
  x = b.relu(b.batch_norm(x, 16));
  const GraphBuilder::Attributes window = {
      {"kernel_shape", {std::vector<std::int64_t>{3, 3}}},
      {"pads", {std::vector<std::int64_t>{1, 1, 1, 1}}},
  };
  x = b.add(b.node("MaxPool", {x}, window), b.node("AveragePool", {x}, window));
  x = b.node("Dropout", {x, b.filled({}, 0.25F, TensorKind::kConstant)});
  if (!ends_in_softmax) x = b.node("GlobalAveragePool", {x});
  x = b.node("Flatten", {x});
  return b.finish(ends_in_softmax ? b.node("Softmax", {x}) : x);
}

TEST(Executor, GivesTheSameBitsWithAnyNumberOfThreads) {
  for (const bool ends_in_softmax : {false, true}) {
    for (const int block : {0, 8}) {
      std::vector<std::vector<float>> results;  // of one thread, then of three
      for (const int threads : {1, 3}) {
        Graph graph = many_chunks(ends_in_softmax);
        Rig rig(graph, {.batch = 4, .channel_block = block, .seed = 5}, threads);
        std::ranges::fill(rig.executor->input(), 0.0F);
        ASSERT_TRUE(rig.executor->forward(0).ok());
        const auto output = rig.executor->output();
        std::vector<float> values(output.begin(), output.end());
        for (std::size_t i = 0; i < values.size(); ++i) {
          rig.executor->d_output()[i] = hashed_value(9, static_cast<std::uint32_t>(i));
        }
        ASSERT_TRUE(rig.executor->backward().ok());
        for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
          if (graph.tensors[id].kind != TensorKind::kParameter) continue;
          const auto gradient = rig.executor->gradient(static_cast<TensorId>(id));
          values.insert(values.end(), gradient.begin(), gradient.end());
        }
        results.push_back(std::move(values));
      }
      EXPECT_EQ(results[0], results[1]) << "block " << block << ", softmax " << ends_in_softmax;
      EXPECT_GT(std::ranges::count_if(results[0], [](float v) { return v != 0; }), 1000);
    }
  }
}

// --- Dropout ---

Graph dropout_graph(const Shape& rest) {
  GraphBuilder b;
  const TensorId zeros = b.node("Identity", {b.input(rest)});
  Shape shape = rest;
  shape.insert(shape.begin(), 1);
  const TensorId x = b.add(zeros, b.filled(shape, 3, TensorKind::kParameter));
  const TensorId ratio = b.filled({}, 0.25F, TensorKind::kConstant);
  return b.finish(b.node("Flatten", {b.node("Dropout", {x, ratio})}));
}

std::vector<float> dropped(Graph& graph, std::uint64_t seed, std::uint64_t step, int block) {
  Rig rig(graph, {.batch = 2, .channel_block = block, .seed = seed}, 3);
  std::ranges::fill(rig.executor->input(), 0.0F);
  EXPECT_TRUE(rig.executor->forward(step).ok());
  const auto output = rig.executor->output();
  std::vector<float> values(output.begin(), output.end());
  std::ranges::fill(rig.executor->d_output(), 1.0F);
  EXPECT_TRUE(rig.executor->backward().ok());
  // The gradient passes where the value passed, with the same factor, summed over the batch.
  double sum = 0;
  for (const float g : rig.executor->gradient(2)) sum += double{g};
  double kept = 0;
  for (const float v : values) kept += double{v} / 3;
  EXPECT_NEAR(sum, kept, 1e-3 * kept);
  return values;
}

TEST(Dropout, IsAFunctionOfSeedStepAndElement) {
  Graph graph = dropout_graph({8, 30, 30});
  const std::vector<float> values = dropped(graph, 7, 3, 0);
  const auto kept = static_cast<double>(std::ranges::count(values, 4.0F));
  EXPECT_EQ(kept + static_cast<double>(std::ranges::count(values, 0.0F)),
            static_cast<double>(values.size()));
  // 14,400 draws: six standard deviations of the kept share are 0.022.
  EXPECT_NEAR(kept / static_cast<double>(values.size()), 0.75, 0.022);
  EXPECT_EQ(values, dropped(graph, 7, 3, 0));
  EXPECT_EQ(values, dropped(graph, 7, 3, 8));  // whatever the layout in memory
  EXPECT_NE(values, dropped(graph, 8, 3, 0));
  EXPECT_NE(values, dropped(graph, 7, 4, 0));
}

TEST(Dropout, IsInertInInference) {
  Graph graph = dropout_graph({8, 3, 3});
  Rig rig(graph, {.batch = 2, .mode = StepMode::kInference});
  std::ranges::fill(rig.executor->input(), 1.0F);
  ASSERT_TRUE(rig.executor->forward(0).ok());
  EXPECT_EQ(std::ranges::count(rig.executor->output(), 4.0F), 2 * 72);
}

// --- What goes wrong ---

TEST(Executor, RefusesGraphsThatItCannotRun) {
  const auto code_of = [](Graph graph) {
    ThreadPool pool(1);
    TimeLedger ledger;
    LocalEngine engine(pool, ledger);
    const auto made = Executor::create(graph, {.batch = 2}, engine, pool, ledger);
    return made.ok() ? std::optional<ErrorCode>{} : made.error().code;
  };
  {
    GraphBuilder b;  // an output that lies as an image
    EXPECT_EQ(code_of(b.finish(b.relu(b.input({3, 4, 4})))), ErrorCode::kUnsupportedModel);
  }
  {
    GraphBuilder b;
    const TensorId x = b.input({3});
    EXPECT_EQ(code_of(b.finish(x)), ErrorCode::kUnsupportedModel);
  }
  {
    GraphBuilder b;  // shapes that contradict each other
    EXPECT_EQ(code_of(b.finish(b.gemm(b.input({3}), 4, 2, 1))), ErrorCode::kBadModel);
  }
}

TEST(Executor, LeavesOutWhatTheOutputDoesNotNeed) {
  GraphBuilder b;
  const TensorId x = b.input({3});
  b.gemm(x, 3, 50, 1);
  const TensorId y = b.gemm(x, 3, 2, 1);
  const Graph graph = b.finish(y);
  const auto ops = Executor::linear_ops(graph, {.batch = 2});
  ASSERT_TRUE(ops.ok());
  ASSERT_EQ(ops->size(), 1U);
  EXPECT_EQ((*ops)[0].geometry.m(), 2);
}

TEST(Executor, ArenaIsWhatItSays) {
  Graph graph = resnet20(10);
  const auto training = Executor::arena_bytes(graph, {.batch = 4});
  const auto inference = Executor::arena_bytes(graph, {.batch = 4, .mode = StepMode::kInference});
  ASSERT_TRUE(training.ok() && inference.ok());
  EXPECT_LT(*inference * 4, *training);
}

// Two inputs, one of them token numbers, and two outputs, one of them flags.
TEST(Executor, TakesTokensAndGivesEveryOutput) {
  GraphBuilder b;
  const TensorId tokens = b.input({2}, DataType::kInt64);
  const TensorId x = b.input({2, 3});
  const TensorId table = b.parameter({5, 3}, 1);
  const TensorId sum = b.add(b.node("Gather", {table, tokens}), x);
  const TensorId zero = b.filled({}, 0, TensorKind::kConstant);
  const TensorId flags = b.node("Greater", {sum, zero});
  Graph graph = b.finish(sum);
  graph.outputs.push_back(flags);
  const std::vector<float> rows = graph.tensors[static_cast<std::size_t>(table)].floats;

  ThreadPool pool(1);
  TimeLedger ledger;
  LocalEngine engine(pool, ledger);
  auto executor =
      Executor::create(graph, {.batch = 1, .mode = StepMode::kInference}, engine, pool, ledger);
  ASSERT_TRUE(executor.ok()) << executor.error().one_line();
  ASSERT_EQ((*executor)->input_count(), 2U);
  const auto run = [&](std::int64_t first, std::int64_t second) {
    (*executor)->input_ints(0)[0] = first;
    (*executor)->input_ints(0)[1] = second;
    std::ranges::fill((*executor)->input(1), 0.25F);
    return (*executor)->forward(0);
  };
  ASSERT_TRUE(run(4, 1).ok());
  ASSERT_EQ((*executor)->output_count(), 2U);
  EXPECT_EQ((*executor)->output_shape(1), (Shape{1, 2, 3}));
  for (std::size_t i = 0; i < 6; ++i) {
    const float want = rows[(i < 3 ? 12 : 3) + i % 3] + 0.25F;
    EXPECT_EQ((*executor)->output(0)[i], want);
    EXPECT_EQ((*executor)->output_ints(1)[i], want > 0 ? 1 : 0);
  }
  const Status status = run(5, 0);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kBadData);
  EXPECT_EQ(status.error().got, "5");
}

}  // namespace
}  // namespace tempo
