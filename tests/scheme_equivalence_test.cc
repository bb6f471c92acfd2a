// The schemes compute the same training: from the same weights, every gradient that comes through
// encoded, checked and decoded products agrees with the one computed inside the enclave.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/philox.h"
#include "client/models/model_zoo.h"
#include "enclave/graph/onnx.h"
#include "enclave/job/engines.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/graph_builder.h"
#include "enclave/obfuscation/seeded_random.h"
#include "enclave/offload/fake_link.h"
#include "enclave/train/loss.h"
#include "enclave/train/optimizer.h"
#include "lab/reordered_engine.h"
#include "tests/norms.h"

namespace tempo {
namespace {

constexpr std::int64_t kBatch = 16;
constexpr int kClasses = 10;
// Slow enough for the loss to stay away from zero, where softmax - onehot is all cancellation.
constexpr double kLearningRate = 0.01;

OptimizerSpec sgd_spec() {
  OptimizerSpec spec;
  spec.weight_decay = 5e-4;
  return spec;
}

// Remembers where the inputs of linear operators are zero. Behind a rectifier that is its mask: two
// runs whose masks differ at one element stand on two sides of a kink of the loss, where gradients
// jump and cannot be compared.
class MaskRecorder final : public LinearEngine {
 public:
  explicit MaskRecorder(LinearEngine& engine) : engine_(engine) {}
  std::vector<std::vector<bool>> masks;

  bool takes(const LinearOp& op) const override { return engine_.takes(op); }
  Status begin_step(StepMode mode) override {
    masks.clear();
    return engine_.begin_step(mode);
  }
  void announce(const LinearOp& op, const std::vector<const float*>& weights) override {
    engine_.announce(op, weights);
  }
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override {
    if (op.of_activations) return engine_.forward(op, input, parts);  // in some engines only
    std::vector<bool> mask(op.geometry.input_elements());
    for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = input[i] > 0;
    masks.push_back(std::move(mask));
    return engine_.forward(op, input, parts);
  }
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input, bool may_defer) override {
    return engine_.backward(op, input, parts, d_input, accumulate_input, may_defer);
  }
  Status end_step() override { return engine_.end_step(); }

 private:
  LinearEngine& engine_;
};

// One way to compute a step: an executor over a graph that all of them share.
class Runner {
 public:
  // `reordered`: the products inside the enclave in another summation order.
  Runner(Graph& graph, const std::string& scheme, bool reordered = false)
      : pool_(2),
        link_(2, std::uint64_t{256} << 20),
        engines_(spec_for(scheme), *parse_scheme(scheme), scheme == "local" ? nullptr : &link_, 100,
                 1, seeded_hooks(), pool_, ledger_) {
    ExecutorOptions options;
    options.batch = kBatch;
    const auto ops = Executor::linear_ops(graph, options);
    EXPECT_TRUE(ops.ok());
    const auto engine = engines_.engine_for(*ops, StepMode::kTraining);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().one_line());
    LinearEngine* base = reordered ? static_cast<LinearEngine*>(&reordered_) : *engine;
    recorder_ = std::make_unique<MaskRecorder>(*base);
    auto executor = Executor::create(graph, options, *recorder_, pool_, ledger_);
    EXPECT_TRUE(executor.ok()) << (executor.ok() ? "" : executor.error().one_line());
    executor_ = std::move(executor).value();
  }

  double step(std::uint64_t number, const std::vector<float>& input,
              const std::vector<std::int32_t>& labels) {
    std::copy(input.begin(), input.end(), executor_->input().begin());
    EXPECT_TRUE(executor_->forward(number).ok());
    const auto loss =
        evaluate_loss({}, executor_->output(), kClasses, {labels, {}},
                      static_cast<std::int64_t>(labels.size()), executor_->d_output());
    EXPECT_TRUE(loss.ok());
    EXPECT_TRUE(executor_->backward().ok());
    return loss->mean_loss();
  }
  std::span<const float> gradient(TensorId id) const { return executor_->gradient(id); }
  const std::vector<std::vector<bool>>& masks() const { return recorder_->masks; }
  EngineStats stats() const { return engines_.stats(); }
  const Plan& plan() const { return *engines_.plans()[0]; }
  ThreadPool& pool() { return pool_; }

 private:
  // Keys of a fixed seed, so that the bars below hold on every run or on none.
  const EnclaveHooks& seeded_hooks() {
    hooks_.make_random = [] { return std::make_unique<SeededRandom>(1); };
    return hooks_;
  }
  const JobSpec& spec_for(const std::string& scheme) {
    spec_.scheme = scheme;
    spec_.offload = OffloadPolicy::kAll;
    return spec_;
  }
  JobSpec spec_;
  EnclaveHooks hooks_;
  ThreadPool pool_;
  TimeLedger ledger_;
  FakeLink link_;
  JobEngines engines_;
  lab::ReorderedEngine reordered_;
  std::unique_ptr<MaskRecorder> recorder_;
  std::unique_ptr<Executor> executor_;
};

// Ten classes of smooth patterns under noise: learnable, and never the same batch twice.
void make_batch(std::uint32_t number, std::int64_t elements, std::vector<float>& input,
                std::vector<std::int32_t>& labels) {
  input.resize(kBatch * elements);
  labels.resize(kBatch);
  for (std::int64_t s = 0; s < kBatch; ++s) {
    labels[s] = static_cast<std::int32_t>((number * 7 + s * 3) % kClasses);
    for (std::int64_t i = 0; i < elements; ++i) {
      const auto words =
          philox4x32(99, {number, static_cast<std::uint32_t>(s), static_cast<std::uint32_t>(i), 0});
      const double noise = philox_unit(words[0]) + philox_unit(words[1]) - 1.0;
      const double pattern = std::sin(0.02 * static_cast<double>((labels[s] + 1) * i) + labels[s]);
      input[s * elements + i] = static_cast<float>(0.3 * pattern + noise);
    }
  }
}

// Largest relative distance over all parameters, and which it is.
double gradient_distance(const Graph& graph, const Runner& got, const Runner& want,
                         std::string* where) {
  double global = 0;
  for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
    if (graph.tensors[id].kind != TensorKind::kParameter) continue;
    const double n = norm(want.gradient(static_cast<TensorId>(id)));
    global += n * n;
  }
  global = std::sqrt(global);
  double worst = 0;
  for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
    if (graph.tensors[id].kind != TensorKind::kParameter) continue;
    // Softmax cancels what is added to all keys: the gradient is zero, and what comes is rounding.
    if (graph.tensors[id].name.ends_with(".k.bias")) continue;
    const auto g = got.gradient(static_cast<TensorId>(id));
    const auto w = want.gradient(static_cast<TensorId>(id));
    const double relative = distance(g, w) / std::max(norm(w), 1e-6 * global);
    if (relative > worst) {
      worst = relative;
      *where = graph.tensors[id].name;
    }
  }
  return worst;
}

// Puts a convolution with zero weights beside the input of the global average pool: the network
// computes what it did, and the mask of its last rectifier shows as the input of a linear operator.
void show_last_mask(Graph& graph) {
  const auto pool = std::find_if(graph.nodes.begin(), graph.nodes.end(), [](const Node& node) {
    return node.op_type == "GlobalAveragePool";
  });
  if (pool == graph.nodes.end()) return;
  const auto add_tensor = [&](const std::string& name, TensorKind kind) {
    Tensor tensor;
    tensor.name = name;
    tensor.kind = kind;
    graph.tensors.push_back(std::move(tensor));
    return static_cast<TensorId>(graph.tensors.size() - 1);
  };
  const TensorId input = pool->inputs[0];
  const auto shapes = infer_shapes(graph, kBatch);
  ASSERT_TRUE(shapes.ok());
  const std::int64_t channels = (*shapes)[input][1];
  const TensorId weights = add_tensor("probe.weight", TensorKind::kParameter);
  graph.tensors[weights].storage = Storage::kConvWeights;
  graph.tensors[weights].declared = {channels, channels, 1, 1};
  graph.tensors[weights].floats.assign(channels * channels, 0.0F);
  const TensorId zeros = add_tensor("probe.zeros", TensorKind::kActivation);
  const TensorId sum = add_tensor("probe.sum", TensorKind::kActivation);
  pool->inputs[0] = sum;
  Node conv{"Conv", "probe.conv", graph.opset, {}, {input, weights}, {zeros}};
  Node add{"Add", "probe.add", graph.opset, {}, {input, zeros}, {sum}};
  const auto at = graph.nodes.insert(pool, std::move(add));
  graph.nodes.insert(at, std::move(conv));
}

Result<OnnxModel> make_model(const std::string& kind) {
  ModelRequest request;
  request.kind = kind;
  request.channels = 1;
  request.height = request.width = 28;
  request.classes = kClasses;
  request.seed = 5;
  const auto file = build_model(request);
  if (!file.ok()) return file.error();
  return OnnxModel::import(*file, {});
}

// Layers that share their input. With `apart`, each reads a copy of its own, so that none are
// stacked: the same function of the same parameters.
Graph sharing_network(bool apart) {
  GraphBuilder b;
  const auto input_of = [&](TensorId x) { return apart ? b.node("Identity", {x}) : x; };
  const auto linear = [&](TensorId x, std::int64_t n, std::int64_t m) {
    const TensorId weights = b.parameter({n, m}, 0.3F, 0, Storage::kTransposed);
    return b.node("MatMul", {x, weights, b.parameter({m}, 0.2F)});
  };
  // A bottleneck whose shortcut is a convolution: moments go to two normalisations.
  TensorId x = b.relu(b.batch_norm(b.conv(b.input({1, 12, 12}), 1, 12, 3, 1, 1, 0.5F), 12));
  const TensorId inner = b.relu(b.batch_norm(b.conv(input_of(x), 12, 8, 1, 1, 0, 0.5F), 8));
  const TensorId shortcut = b.batch_norm(b.conv(input_of(x), 12, 20, 1, 1, 0, 0.5F), 20);
  x = b.relu(b.add(b.batch_norm(b.conv(inner, 8, 20, 3, 1, 1, 0.3F), 20), shortcut));
  // Three layers that attention asks for, of different widths, and a fourth reader.
  x = b.node("Flatten", {b.node("GlobalAveragePool", {x})});
  const TensorId product =
      b.node("Mul", {linear(input_of(x), 20, 36), linear(input_of(x), 20, 36)});
  x = b.add(b.gemm(product, 36, 20, 0.3F), x);
  x = b.add(linear(input_of(x), 20, 20), b.gemm(input_of(x), 20, 20, 0.3F));
  return b.finish(b.gemm(x, 20, kClasses, 0.5F));
}

TEST(Stacks, ComputeWhatTheirLayersCompute) {
  Graph apart = sharing_network(true);
  Runner reference(apart, "local");
  std::vector<float> input;
  std::vector<std::int32_t> labels;
  make_batch(1, 12 * 12, input, labels);
  const double want = reference.step(0, input, labels);
  for (const char* scheme : {"local", "plain", "tempo"}) {
    Graph stacked = sharing_network(false);
    Runner runner(stacked, scheme);
    EXPECT_NEAR(runner.step(0, input, labels), want, 1e-6 * want) << scheme;
    EXPECT_EQ(reference.masks().size(), 10U);
    EXPECT_EQ(runner.masks().size(), 7U) << "three operators less";
    // Identity nodes have no parameters: the tensors are the same ones in the same order.
    double worst = 0;
    std::vector<TensorId> of_apart;
    for (std::size_t id = 0; id < apart.tensors.size(); ++id) {
      if (apart.tensors[id].kind == TensorKind::kParameter)
        of_apart.push_back(static_cast<TensorId>(id));
    }
    std::size_t next = 0;
    for (std::size_t id = 0; id < stacked.tensors.size(); ++id) {
      if (stacked.tensors[id].kind != TensorKind::kParameter) continue;
      const auto g = runner.gradient(static_cast<TensorId>(id));
      const auto w = reference.gradient(of_apart.at(next++));
      worst = std::max(worst, distance(g, w) / norm(w));
    }
    EXPECT_EQ(next, of_apart.size());
    EXPECT_LT(worst, 1e-5) << scheme;
    for (std::size_t id = 0, k = 0; id < stacked.tensors.size(); ++id) {
      if (stacked.tensors[id].kind != TensorKind::kStatistic) continue;
      while (apart.tensors[k].kind != TensorKind::kStatistic) ++k;
      EXPECT_LT(distance(stacked.tensors[id].floats, apart.tensors[k].floats),
                1e-6 * norm(apart.tensors[k].floats))
          << scheme << ": running statistics";
      ++k;
    }
    EXPECT_EQ(runner.stats().checks_failed, 0U);
    EXPECT_EQ(runner.stats().checks_done > 0, std::string(scheme) != "local");
  }
}

// Attention of four heads, a product of a tensor with itself, and one by a fixed left operand,
// which no worker does.
Graph attention_network() {
  constexpr std::int64_t kTokens = 24;
  constexpr std::int64_t kWidth = 32;
  GraphBuilder b;
  const auto linear = [&](TensorId x) {
    return b.node("MatMul", {x, b.parameter({kWidth, kWidth}, 0.3F, 0, Storage::kTransposed)});
  };
  const auto turned = [&](TensorId x, const std::vector<std::int64_t>& order) {
    return b.node("Transpose", {x}, {{"perm", {order}}});
  };
  const TensorId split = b.ints({0, kTokens, 4, kWidth / 4});
  const TensorId join = b.ints({0, kTokens, kWidth});
  const auto heads = [&](TensorId x, const std::vector<std::int64_t>& order) {
    return turned(b.node("Reshape", {linear(x), split}), order);
  };
  const TensorId x = b.node("Reshape", {b.input({1, kTokens, kWidth}), join});
  const TensorId queries = heads(x, {0, 2, 1, 3});
  const TensorId keys = heads(x, {0, 2, 3, 1});
  const TensorId values = heads(x, {0, 2, 1, 3});
  TensorId y =
      b.node("Softmax", {b.node("MatMul", {queries, keys})}, {{"axis", {std::int64_t{-1}}}});
  y = turned(b.node("MatMul", {y, values}), {0, 2, 1, 3});
  y = b.add(b.node("Reshape", {y, join}), x);
  const TensorId itself = b.node("MatMul", {y, turned(y, {0, 2, 1})});  // tokens by tokens
  y = b.node("MatMul", {b.node("Softmax", {itself}, {{"axis", {std::int64_t{-1}}}}), y});
  y = b.node("MatMul", {b.parameter({kTokens, kTokens}, 0.2F), y});
  return b.finish(b.gemm(b.node("Flatten", {y}), kTokens * kWidth, kClasses, 0.1F));
}

double step_distance(Graph& graph, Runner& runner, Runner& reference, std::int64_t elements,
                     std::string* where) {
  std::vector<float> input;
  std::vector<std::int32_t> labels;
  make_batch(3, elements, input, labels);
  const double want = reference.step(0, input, labels);
  EXPECT_NEAR(runner.step(0, input, labels), want, 1e-5 * want);
  return gradient_distance(graph, runner, reference, where);
}

TEST(Attention, IsTheSameUnderEveryScheme) {
  for (const bool is_fused : {false, true}) {
    Graph graph = attention_network();
    if (is_fused) fuse_patterns(&graph);  // keys unturned
    Runner local(graph, "local");
    for (const char* scheme : {"plain", "tempo"}) {
      Runner runner(graph, scheme);
      std::string where;
      EXPECT_LT(step_distance(graph, runner, local, 24 * 32, &where), 1e-5)
          << scheme << ", " << where << ", " << is_fused;
      EXPECT_EQ(runner.stats().checks_done, static_cast<std::uint64_t>(runner.plan().products));
      EXPECT_EQ(runner.stats().checks_failed, 0U);
      std::vector<std::int64_t> instances;
      for (const OpPlan& op : runner.plan().ops) {
        if (op.op.of_activations) instances.push_back(op.op.instances);
      }
      EXPECT_EQ(instances, (std::vector<std::int64_t>{4 * kBatch, 4 * kBatch, kBatch, kBatch}));
    }
  }
}

TEST(Attention, EveryProductOfAVisionTransformerCanBeOffloaded) {
  auto model = make_model("vit");
  ASSERT_TRUE(model.ok()) << model.error().one_line();
  Runner local(model->graph, "local");
  Runner tempo(model->graph, "tempo");
  std::string where;
  EXPECT_LT(step_distance(model->graph, tempo, local, 28 * 28, &where), 1e-5) << where;
  // A layer has scores and values for 8 heads: each forward and two gradients.
  std::int64_t products = 0;
  for (const OpPlan& op : tempo.plan().ops) {
    EXPECT_TRUE(op.offloaded) << op.op.name;
    if (op.op.of_activations) products += op.products;
  }
  EXPECT_EQ(products, 8 * 2 * 8 * kBatch * 3);
  EXPECT_EQ(tempo.stats().checks_done, static_cast<std::uint64_t>(tempo.plan().products));
  EXPECT_EQ(tempo.stats().checks_failed, 0U);
  int reported = 0;
  for (const ProductSoundness& product : tempo.stats().soundness) {
    if (product.operator_name.find(".scores") == std::string::npos) continue;
    ++reported;
    EXPECT_EQ(product.checks, 8U * kBatch);
    EXPECT_GT(product.tolerance_over_rms, 0);
    EXPECT_LT(product.tolerance_over_rms, 1e-3);
  }
  EXPECT_EQ(reported, 8 * 3);
}

class SchemeEquivalence : public testing::TestWithParam<std::string> {};

void expect_equal_gradients_along_a_run(Graph& graph, const std::string& name) {
  show_last_mask(graph);

  Runner local(graph, "local");
  std::map<std::string, std::unique_ptr<Runner>> offloading;
  for (const char* scheme : {"plain", "tempo"}) {
    offloading[scheme] = std::make_unique<Runner>(graph, scheme);
  }
  const Parameters parameters(graph, local.pool());
  auto sgd = Optimizer::create(parameters, sgd_spec());
  ASSERT_TRUE(sgd.ok());

  constexpr int kPoints = 20;
  constexpr int kMaxSteps = 120;
  std::map<std::string, int> compared;
  std::map<std::string, double> worst;
  int kinks = 0;
  std::vector<float> input;
  std::vector<std::int32_t> labels;
  for (int step = 0; step < kMaxSteps; ++step) {
    make_batch(static_cast<std::uint32_t>(step), 28 * 28, input, labels);
    local.step(step, input, labels);
    if (step % 2 == 0) {
      for (auto& [scheme, runner] : offloading) {
        if (compared[scheme] >= kPoints) continue;
        runner->step(step, input, labels);
        if (runner->masks() != local.masks()) {
          ++kinks;
          continue;
        }
        std::string where;
        const double relative = gradient_distance(graph, *runner, local, &where);
        EXPECT_LT(relative, 1e-5) << scheme << ", step " << step << ", " << where;
        worst[scheme] = std::max(worst[scheme], relative);
        ++compared[scheme];
      }
    }
    if (compared["plain"] >= kPoints && compared["tempo"] >= kPoints) break;
    sgd->step(kLearningRate, parameters.gradients([&](TensorId id) { return local.gradient(id); }));
    for (Tensor& tensor : graph.tensors) {
      if (tensor.name == "probe.weight")
        std::fill(tensor.floats.begin(), tensor.floats.end(), 0.0F);
    }
  }
  for (auto& [scheme, runner] : offloading) {
    EXPECT_EQ(compared[scheme], kPoints);
    EXPECT_GT(runner->stats().checks_done, 0U);
    EXPECT_EQ(runner->stats().checks_failed, 0U);
    std::printf("%s, %s: largest relative distance of a gradient at %d points: %.2e\n",
                name.c_str(), scheme.c_str(), compared[scheme], worst[scheme]);
  }
  std::printf("%s: %d points lay on a kink and were replaced\n", name.c_str(), kinks);
}

TEST_P(SchemeEquivalence, GradientsAgreeAlongARun) {
  auto model = make_model(GetParam());
  ASSERT_TRUE(model.ok()) << model.error().one_line();
  expect_equal_gradients_along_a_run(model->graph, GetParam());
}

// An inverted residual of MobileNetV2 (Sandler et al., 2018): its depthwise convolution stays
// inside, between products that workers do.
TEST(GroupedConvolutions, GradientsAgreeAlongARun) {
  GraphBuilder b;
  const auto relu6 = [&](TensorId x) {
    return b.node("Clip", {x, b.filled({}, 0, TensorKind::kConstant),
                           b.filled({}, 6, TensorKind::kConstant)});
  };
  const TensorId x = relu6(b.batch_norm(b.conv(b.input({1, 28, 28}), 1, 16, 3, 2, 1, 0.8F), 16));
  TensorId y = relu6(b.batch_norm(b.conv(x, 16, 64, 1, 1, 0, 0.6F), 64));
  y = relu6(b.batch_norm(b.conv(y, 64, 64, 3, 1, 1, 0.8F, false, 64), 64));
  y = b.batch_norm(b.conv(y, 64, 16, 1, 1, 0, 0.3F), 16);
  y = b.node("Flatten", {b.node("GlobalAveragePool", {b.add(x, y)})});
  Graph graph = b.finish(b.gemm(y, 16, kClasses, 0.6F));
  expect_equal_gradients_along_a_run(graph, "inverted residual");
}

// The losses of a whole training run in one way of computing.
std::vector<double> loss_curve(const std::string& kind, const std::string& scheme, bool reordered) {
  constexpr int kSteps = 100;
  auto model = make_model(kind);
  EXPECT_TRUE(model.ok());
  Runner runner(model->graph, scheme, reordered);
  const Parameters parameters(model->graph, runner.pool());
  auto sgd = Optimizer::create(parameters, sgd_spec());
  EXPECT_TRUE(sgd.ok());
  std::vector<double> losses;
  std::vector<float> input;
  std::vector<std::int32_t> labels;
  for (int step = 0; step < kSteps; ++step) {
    make_batch(static_cast<std::uint32_t>(step), 28 * 28, input, labels);
    losses.push_back(runner.step(step, input, labels));
    sgd->step(kLearningRate,
              parameters.gradients([&](TensorId id) { return runner.gradient(id); }));
  }
  EXPECT_EQ(runner.stats().checks_failed, 0U);
  EXPECT_EQ(runner.stats().checks_done > 0, scheme != "local");
  return losses;
}

double rms_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

TEST_P(SchemeEquivalence, LossCurvesDifferAsSummationOrdersDo) {
  const auto local = loss_curve(GetParam(), "local", false);
  const double itself = rms_distance(local, loss_curve(GetParam(), "local", true));
  ASSERT_GT(itself, 0);
  EXPECT_LT(local.back(), 0.9 * local.front()) << "the run learns";
  for (const char* scheme : {"plain", "tempo"}) {
    const double distance = rms_distance(local, loss_curve(GetParam(), scheme, false));
    std::printf(
        "%s, %s: losses of 100 steps differ by %.2e rms from local, which differs from itself "
        "in another summation order by %.2e\n",
        GetParam().c_str(), scheme, distance, itself);
    EXPECT_LE(distance, 3 * itself) << scheme;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, SchemeEquivalence, testing::Values("mlp", "resnet20"));

}  // namespace
}  // namespace tempo
