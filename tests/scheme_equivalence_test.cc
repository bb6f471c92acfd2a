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
#include "enclave/offload/fake_link.h"
#include "enclave/train/loss.h"
#include "enclave/train/sgd.h"

namespace tempo {
namespace {

constexpr std::int64_t kBatch = 16;
constexpr int kClasses = 10;

// Remembers where the inputs of linear operators are zero. Behind a rectifier that is its mask: two
// runs whose masks differ at one element stand on two sides of a kink of the loss, where gradients
// jump and cannot be compared.
class MaskRecorder final : public LinearEngine {
 public:
  explicit MaskRecorder(LinearEngine& engine) : engine_(engine) {}
  std::vector<std::vector<bool>> masks;

  Status begin_step(StepMode mode) override {
    masks.clear();
    return engine_.begin_step(mode);
  }
  Status forward(const LinearOp& op, const float* input, const float* weights, const float* bias,
                 float* output, ColumnMoments* moments) override {
    std::vector<bool> mask(op.geometry.input_elements());
    for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = input[i] > 0;
    masks.push_back(std::move(mask));
    return engine_.forward(op, input, weights, bias, output, moments);
  }
  Status backward(const LinearOp& op, const float* input, const float* weights,
                  const float* d_output, float* d_weights, float* d_input,
                  bool accumulate_input) override {
    return engine_.backward(op, input, weights, d_output, d_weights, d_input, accumulate_input);
  }
  Status end_step() override { return engine_.end_step(); }

 private:
  LinearEngine& engine_;
};

// One way to compute a step: an executor over a graph that all of them share.
class Runner {
 public:
  Runner(Graph& graph, const std::string& scheme)
      : pool_(2),
        link_(2, std::uint64_t{256} << 20),
        engines_(spec_for(scheme), *parse_scheme(scheme), scheme == "local" ? nullptr : &link_, 100,
                 1, hooks_, pool_, ledger_) {
    ExecutorOptions options;
    options.batch = kBatch;
    const auto ops = Executor::linear_ops(graph, options);
    EXPECT_TRUE(ops.ok());
    const auto engine = engines_.engine_for(*ops, StepMode::kTraining);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().one_line());
    recorder_ = std::make_unique<MaskRecorder>(**engine);
    auto executor = Executor::create(graph, options, *recorder_, pool_, ledger_);
    EXPECT_TRUE(executor.ok()) << (executor.ok() ? "" : executor.error().one_line());
    executor_ = std::move(executor).value();
  }

  double step(std::uint64_t number, const std::vector<float>& input,
              const std::vector<std::int32_t>& labels) {
    std::copy(input.begin(), input.end(), executor_->input().begin());
    EXPECT_TRUE(executor_->forward(number).ok());
    const auto loss =
        softmax_cross_entropy(executor_->output(), labels, kClasses, executor_->d_output());
    EXPECT_TRUE(loss.ok());
    EXPECT_TRUE(executor_->backward().ok());
    return loss->mean_loss;
  }
  std::span<const float> gradient(TensorId id) const { return executor_->gradient(id); }
  const std::vector<std::vector<bool>>& masks() const { return recorder_->masks; }
  EngineStats stats() const { return engines_.stats(); }
  ThreadPool& pool() { return pool_; }

 private:
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
      const auto words = philox4x32(99, {number, static_cast<std::uint32_t>(s),
                                         static_cast<std::uint32_t>(i), 0});
      const double noise = philox_unit(words[0]) + philox_unit(words[1]) - 1.0;
      const double pattern = std::sin(0.02 * static_cast<double>((labels[s] + 1) * i) + labels[s]);
      input[s * elements + i] = static_cast<float>(pattern + 2.0 * noise);
    }
  }
}

double norm(std::span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += double{v} * v;
  return std::sqrt(sum);
}

double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(sum);
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

class SchemeEquivalence : public testing::TestWithParam<std::string> {};

TEST_P(SchemeEquivalence, GradientsAgreeAlongARun) {
  ModelRequest request;
  request.kind = GetParam();
  request.channels = 1;
  request.height = request.width = 28;
  request.classes = kClasses;
  request.seed = 5;
  const auto file = build_model(request);
  ASSERT_TRUE(file.ok()) << file.error().one_line();
  auto model = OnnxModel::import(*file, {});
  ASSERT_TRUE(model.ok()) << model.error().one_line();
  Graph& graph = model->graph;

  Runner local(graph, "local");
  std::map<std::string, std::unique_ptr<Runner>> offloading;
  for (const char* scheme : {"plain", "tempo"}) {
    offloading[scheme] = std::make_unique<Runner>(graph, scheme);
  }
  auto sgd = Sgd::create(graph, {0.9, 5e-4}, local.pool());
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
    sgd->step(0.05, [&](TensorId id) { return local.gradient(id); });
  }
  for (auto& [scheme, runner] : offloading) {
    EXPECT_EQ(compared[scheme], kPoints);
    EXPECT_GT(runner->stats().checks_done, 0U);
    EXPECT_EQ(runner->stats().checks_failed, 0U);
    std::printf("%s, %s: largest relative distance of a gradient at %d points: %.2e\n",
                GetParam().c_str(), scheme.c_str(), compared[scheme], worst[scheme]);
  }
  std::printf("%s: %d points lay on a kink and were replaced\n", GetParam().c_str(), kinks);
}

INSTANTIATE_TEST_SUITE_P(Models, SchemeEquivalence, testing::Values("mlp", "resnet20"));

}  // namespace
}  // namespace tempo
