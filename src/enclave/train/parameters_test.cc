#include "enclave/train/parameters.h"

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

Graph graph_like(const std::vector<Values>& gradients) {
  Graph graph;
  for (const Values& values : gradients) {
    Tensor tensor;
    tensor.kind = TensorKind::kParameter;
    tensor.floats.resize(values.size());
    graph.tensors.push_back(tensor);
    tensor.kind = TensorKind::kConstant;  // none of its business
    graph.tensors.push_back(tensor);
  }
  return graph;
}

Gradients spans(const std::vector<Values>& values) {
  return {values.begin(), values.end()};
}

TEST(Clip, MatchesPyTorch) {
  std::ifstream file(std::string(TEMPO_SOURCE_DIR) + "/tests/fixtures/optimizer_fixture.json");
  const Json cases = Json::parse(file).at("clips");
  ASSERT_FALSE(cases.empty());
  ThreadPool pool(2);
  for (const Json& c : cases) {
    const auto gradients = c.at("gradients").get<std::vector<Values>>();
    Graph graph = graph_like(gradients);
    const Parameters parameters(graph, pool);
    ASSERT_EQ(parameters.size(), 3U);
    const double norm = global_norm(parameters, spans(gradients));
    EXPECT_NEAR(norm, c.at("norm"), 1e-6 * norm);
    const auto factor = clip_factor(norm, c.at("max_norm"));
    ASSERT_TRUE(factor.ok());
    const auto clipped = c.at("clipped").get<std::vector<Values>>();
    for (std::size_t k = 0; k < clipped.size(); ++k) {
      for (std::size_t i = 0; i < clipped[k].size(); ++i) {
        EXPECT_NEAR(*factor * static_cast<double>(gradients[k][i]), clipped[k][i],
                    1e-6 * std::abs(static_cast<double>(clipped[k][i])));
      }
    }
  }
}

TEST(Clip, RefusesWhatIsNotANumber) {
  for (const double norm :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const auto factor = clip_factor(norm, 1);
    ASSERT_FALSE(factor.ok());
    EXPECT_EQ(factor.error().code, ErrorCode::kDiverged);
  }
}

TEST(GlobalNorm, CoversEveryPieceOfALargeParameter) {
  const std::vector<Values> gradients{Values(50001, 2.0F), Values(3, 4.0F)};
  Graph graph = graph_like(gradients);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const Parameters parameters(graph, pool);
    EXPECT_EQ(global_norm(parameters, spans(gradients)), std::sqrt(50001 * 4.0 + 3 * 16.0));
  }
}

TEST(GradientSum, AddsAndStartsAnew) {
  ThreadPool pool(2);
  const std::vector<Values> first{Values(20000, 1.5F), {2}};
  const std::vector<Values> second{Values(20000, 0.25F), {-3}};
  Graph graph = graph_like(first);
  const Parameters parameters(graph, pool);
  GradientSum sum(parameters);
  const auto values = [&sum](std::size_t k) {
    const auto span = sum.gradients()[k];
    return Values(span.begin(), span.end());
  };
  sum.add(spans(first));
  sum.add(spans(second));
  EXPECT_EQ(values(0), Values(20000, 1.75F));
  EXPECT_EQ(values(1), Values{-1});
  sum.reset();
  sum.add(spans(second));
  EXPECT_EQ(values(0), second[0]);
  EXPECT_EQ(values(1), second[1]);
}

}  // namespace
}  // namespace tempo
