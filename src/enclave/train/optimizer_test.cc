#include "enclave/train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tempo {
namespace {

using Json = nlohmann::json;
using Values = std::vector<float>;

Json fixture() {
  std::ifstream file(std::string(TEMPO_SOURCE_DIR) + "/tests/fixtures/optimizer_fixture.json");
  return Json::parse(file);
}

Graph graph_with(const std::vector<Values>& parameters) {
  Graph graph;
  Tensor constant;
  constant.kind = TensorKind::kConstant;
  constant.floats = {42};
  graph.tensors.push_back(constant);
  for (const auto& values : parameters) {
    Tensor tensor;
    tensor.kind = TensorKind::kParameter;
    tensor.floats = values;
    graph.tensors.push_back(tensor);
  }
  return graph;
}

OptimizerSpec spec_of(const Json& c) {
  const auto kind = parse_optimizer_kind(c.at("kind").get<std::string>());
  EXPECT_TRUE(kind.ok());
  return {*kind,         c.at("momentum"), c.at("beta1"),
          c.at("beta2"), c.at("epsilon"),  c.at("weight_decay")};
}

// Of `got` from `want`, in units of the larger of |want| and `floor`.
double largest_relative(const Values& got, const Values& want, double floor) {
  EXPECT_EQ(got.size(), want.size());
  double largest = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const auto w = static_cast<double>(want[i]);
    const double size = std::max(std::abs(w), floor);
    largest = std::max(largest, std::abs(static_cast<double>(got[i]) - w) / size);
  }
  return largest;
}

// Each step on its own, from PyTorch's weights and states before it.
TEST(Update, MatchesPyTorchFromTheSameState) {
  const Json all = fixture().at("updates");
  ASSERT_FALSE(all.empty());
  for (const Json& c : all) {
    const OptimizerSpec spec = spec_of(c);
    const auto states = static_cast<std::size_t>(optimizer_state_values(spec));
    auto weights = c.at("weights").get<Values>();
    std::vector<Values> state(2);
    for (std::size_t i = 0; i < states; ++i) state[i].resize(weights.size());
    for (std::size_t s = 0; s < c.at("rates").size(); ++s) {
      SCOPED_TRACE(c.at("kind").get<std::string>() + ", step " + std::to_string(s));
      const auto gradient = c.at("gradients")[s].get<Values>();
      const Values before = weights;
      update(spec, {c.at("rates")[s], 1, static_cast<std::int64_t>(s + 1)},
             {weights, gradient, state[0], state[1]});
      const auto after = c.at("after")[s].get<Values>();
      ASSERT_EQ(c.at("states")[s].size(), states);
      Values moved;
      Values want_moved;
      double roundings = 0;  // of weights, which the difference of two of them carries
      for (std::size_t i = 0; i < after.size(); ++i) {
        moved.push_back(weights[i] - before[i]);
        want_moved.push_back(after[i] - before[i]);
        roundings = std::max(roundings, static_cast<double>(std::abs(after[i])) * 0x1p-22);
      }
      EXPECT_LT(largest_relative(weights, after, 1e-2), 1e-5);
      EXPECT_LT(largest_relative(moved, want_moved, roundings * 1e5), 1e-5);
      for (std::size_t i = 0; i < states; ++i) {
        const auto want = c.at("states")[s][i].get<Values>();
        EXPECT_LT(largest_relative(state[i], want, 1e-3), 1e-5) << "state " << i;
        state[i] = want;
      }
      weights = after;
    }
  }
}

TEST(Optimizer, FollowsPyTorchForManySteps) {
  ThreadPool pool(2);
  for (const Json& c : fixture().at("updates")) {
    Graph graph = graph_with({c.at("weights").get<Values>()});
    const Parameters parameters(graph, pool);
    const OptimizerSpec spec = spec_of(c);
    auto optimizer = Optimizer::create(parameters, spec);
    ASSERT_TRUE(optimizer.ok());
    for (std::size_t s = 0; s < c.at("rates").size(); ++s) {
      const auto gradient = c.at("gradients")[s].get<Values>();
      Values half = gradient;
      for (float& g : half) g /= 2;
      optimizer->step(c.at("rates")[s], {half}, 2);  // exact
      const auto expected = c.at("after")[s].get<Values>();
      for (std::size_t i = 0; i < expected.size(); ++i) {
        // A dozen float32 roundings a step of values below 4, and they add up over the steps.
        const double tolerance = 12.0 * static_cast<double>(s + 1) * 4 * 0x1p-24;
        ASSERT_NEAR(graph.tensors[1].floats[i], expected[i], tolerance)
            << c.at("kind") << ", step " << s;
      }
    }
    EXPECT_EQ(graph.tensors[0].floats[0], 42.0F);  // constants stay
    EXPECT_EQ(optimizer->state_bytes(),
              10 * sizeof(float) * static_cast<std::size_t>(optimizer_state_values(spec)));
  }
}

TEST(Optimizer, SgdByHand) {
  ThreadPool pool(1);
  Graph graph = graph_with({{1.0F}, {-2.0F}});
  const Parameters parameters(graph, pool);
  OptimizerSpec spec;
  spec.momentum = 0.5;
  spec.weight_decay = 0.25;
  auto sgd = Optimizer::create(parameters, spec);
  ASSERT_TRUE(sgd.ok());
  EXPECT_EQ(sgd->state_bytes(), 8U);
  const Values gradient{2.0F};
  sgd->step(0.5, {gradient, gradient});
  // g = 2 + 0.25 * 1 = 2.25, w = 1 - 1.125; g = 2 - 0.5 = 1.5, w = -2 - 0.75
  EXPECT_EQ(graph.tensors[1].floats[0], -0.125F);
  EXPECT_EQ(graph.tensors[2].floats[0], -2.75F);
  sgd->step(0.5, {gradient, gradient});
  // v = 1.125 + 2 - 0.03125 = 3.09375; v = 0.75 + 2 - 0.6875 = 2.0625
  EXPECT_EQ(graph.tensors[1].floats[0], -0.125F - 1.546875F);
  EXPECT_EQ(graph.tensors[2].floats[0], -2.75F - 1.03125F);
}

TEST(Optimizer, LargeParametersGiveTheSameBitsWithAnyNumberOfThreads) {
  Values weights(100003);
  Values gradient(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::sin(static_cast<float>(i));
    gradient[i] = std::cos(static_cast<float>(i));
  }
  for (const OptimizerKind kind : {OptimizerKind::kSgd, OptimizerKind::kAdamW}) {
    std::vector<Values> results;
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads);
      Graph graph = graph_with({weights});
      const Parameters parameters(graph, pool);
      OptimizerSpec spec;
      spec.kind = kind;
      spec.weight_decay = 1e-4;
      auto optimizer = Optimizer::create(parameters, spec);
      ASSERT_TRUE(optimizer.ok());
      for (int s = 0; s < 3; ++s) optimizer->step(0.1, {gradient});
      results.push_back(graph.tensors[1].floats);
    }
    EXPECT_EQ(results[0], results[1]);
    // Every element was reached: three steps of a gradient far from zero move it.
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (std::abs(gradient[i]) > 0.01F) {
        ASSERT_NE(results[0][i], weights[i]) << i;
      }
    }
  }
}

TEST(Optimizer, RefusesNonsense) {
  ThreadPool pool(1);
  Graph graph;
  const Parameters parameters(graph, pool);
  const auto refuses = [&](const std::function<void(OptimizerSpec&)>& change) {
    OptimizerSpec spec;
    change(spec);
    const auto optimizer = Optimizer::create(parameters, spec);
    return !optimizer.ok() && optimizer.error().code == ErrorCode::kUsage;
  };
  EXPECT_FALSE(refuses([](OptimizerSpec&) {}));
  EXPECT_TRUE(refuses([](OptimizerSpec& s) { s.momentum = -0.1; }));
  EXPECT_TRUE(refuses([](OptimizerSpec& s) { s.weight_decay = -1; }));
  EXPECT_TRUE(
      refuses([](OptimizerSpec& s) { s.momentum = std::numeric_limits<double>::infinity(); }));
  EXPECT_TRUE(refuses([](OptimizerSpec& s) { s.beta1 = 1; }));
  EXPECT_TRUE(refuses([](OptimizerSpec& s) { s.beta2 = -0.1; }));
  EXPECT_TRUE(refuses([](OptimizerSpec& s) { s.epsilon = 0; }));
}

}  // namespace
}  // namespace tempo
