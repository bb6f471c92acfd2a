#include "enclave/train/sgd.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tempo {
namespace {

Graph graph_with(const std::vector<std::vector<float>>& parameters) {
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

TEST(Sgd, MatchesPyTorch) {
  std::ifstream file(std::string(TEMPO_SOURCE_DIR) + "/tests/fixtures/sgd_fixture.json");
  const auto fixture = nlohmann::json::parse(file);
  ASSERT_FALSE(fixture.at("cases").empty());
  ThreadPool pool(2);
  for (const auto& c : fixture.at("cases")) {
    Graph graph = graph_with({c.at("weights").get<std::vector<float>>()});
    auto sgd = Sgd::create(graph, {c.at("momentum"), c.at("weight_decay")}, pool);
    ASSERT_TRUE(sgd.ok());
    for (std::size_t s = 0; s < c.at("rates").size(); ++s) {
      const auto gradient = c.at("gradients")[s].get<std::vector<float>>();
      sgd->step(c.at("rates")[s], [&](TensorId id) {
        EXPECT_EQ(id, 1);
        return std::span<const float>(gradient);
      });
      const auto expected = c.at("after")[s].get<std::vector<float>>();
      for (std::size_t i = 0; i < expected.size(); ++i) {
        // Six float32 roundings a step of values below 4, and they add up over the steps.
        const double tolerance = 6.0 * static_cast<double>(s + 1) * 4 * 0x1p-24;
        ASSERT_NEAR(graph.tensors[1].floats[i], expected[i], tolerance) << "step " << s;
      }
    }
    EXPECT_EQ(graph.tensors[0].floats[0], 42.0F);  // constants stay
  }
}

TEST(Sgd, ByHand) {
  ThreadPool pool(1);
  Graph graph = graph_with({{1.0F}, {-2.0F}});
  auto sgd = Sgd::create(graph, {0.5, 0.25}, pool);
  ASSERT_TRUE(sgd.ok());
  EXPECT_EQ(sgd->state_bytes(), 8U);
  const std::vector<float> gradient{2.0F};
  const auto same = [&](TensorId) { return std::span<const float>(gradient); };
  sgd->step(0.5, same);
  // g = 2 + 0.25 * 1 = 2.25, w = 1 - 1.125; g = 2 - 0.5 = 1.5, w = -2 - 0.75
  EXPECT_EQ(graph.tensors[1].floats[0], -0.125F);
  EXPECT_EQ(graph.tensors[2].floats[0], -2.75F);
  sgd->step(0.5, same);
  // v = 1.125 + 2 - 0.03125 = 3.09375; v = 0.75 + 2 - 0.6875 = 2.0625
  EXPECT_EQ(graph.tensors[1].floats[0], -0.125F - 1.546875F);
  EXPECT_EQ(graph.tensors[2].floats[0], -2.75F - 1.03125F);
}

TEST(Sgd, LargeParametersGiveTheSameBitsWithAnyNumberOfThreads) {
  std::vector<float> weights(100003);
  std::vector<float> gradient(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::sin(static_cast<float>(i));
    gradient[i] = std::cos(static_cast<float>(i));
  }
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    Graph graph = graph_with({weights});
    auto sgd = Sgd::create(graph, {0.9, 1e-4}, pool);
    ASSERT_TRUE(sgd.ok());
    for (int s = 0; s < 3; ++s) {
      sgd->step(0.1, [&](TensorId) { return std::span<const float>(gradient); });
    }
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

TEST(Sgd, RefusesNonsense) {
  ThreadPool pool(1);
  Graph graph;
  EXPECT_FALSE(Sgd::create(graph, {-0.1, 0}, pool).ok());
  EXPECT_FALSE(Sgd::create(graph, {0, -1}, pool).ok());
  EXPECT_FALSE(Sgd::create(graph, {std::numeric_limits<double>::infinity(), 0}, pool).ok());
}

}  // namespace
}  // namespace tempo
