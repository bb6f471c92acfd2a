#include "enclave/train/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "enclave/train/test_files.h"

namespace tempo {
namespace {

using Json = nlohmann::json;
using Values = std::vector<float>;

Result<LossSums> cross_entropy(const Values& logits, const std::vector<std::int32_t>& labels,
                               std::span<float> gradient = {}) {
  const auto samples = static_cast<std::int64_t>(labels.size());
  return evaluate_loss({}, logits, static_cast<std::int64_t>(logits.size()) / samples, {labels, {}},
                       samples, gradient);
}

struct Case {
  LossOptions options;
  std::int64_t width;
  Values outputs;
  Targets targets;

  explicit Case(const Json& json)
      : options{*parse_loss_kind(json.at("loss").get<std::string>()), json.at("label_smoothing")},
        width(json.at("width")),
        outputs(json.at("outputs").get<Values>()) {
    const auto values = json.at("targets").get<Values>();
    if (options.kind == LossKind::kCrossEntropy) {
      targets.labels.assign(values.begin(), values.end());
    } else {
      targets.values = values;
    }
  }
};

void expect_figure(const Json& figures, const char* key, const std::optional<double>& got) {
  ASSERT_EQ(got.has_value(), figures.contains(key)) << key;
  if (got) {
    EXPECT_NEAR(*got, figures.at(key), 1e-6) << key;
  }
}

TEST(Loss, MatchesPyTorch) {
  std::ifstream file(std::string(TEMPO_SOURCE_DIR) + "/tests/fixtures/loss_fixture.json");
  const Json cases = Json::parse(file).at("cases");
  ASSERT_FALSE(cases.empty());
  for (const Json& json : cases) {
    SCOPED_TRACE(json.at("loss").get<std::string>() + ", " + json.at("width").dump());
    const Case c(json);
    const auto samples = static_cast<std::int64_t>(c.outputs.size()) / c.width;
    Values gradient(c.outputs.size());
    const auto sums = evaluate_loss(c.options, c.outputs, c.width, c.targets, samples, gradient);
    ASSERT_TRUE(sums.ok());
    // Targets have been rounded to float32.
    EXPECT_NEAR(sums->mean_loss(), json.at("value"), 1e-6 * json.at("value").get<double>());
    const auto want = json.at("gradient").get<std::vector<double>>();
    for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(gradient[i], want[i], 1e-7) << i;
    const Metrics metrics = metrics_of(c.options.kind, c.width, *sums);
    expect_figure(json.at("figures"), "accuracy", metrics.accuracy);
    expect_figure(json.at("figures"), "top5_accuracy", metrics.top5_accuracy);
    expect_figure(json.at("figures"), "mean_absolute_error", metrics.mean_absolute_error);
  }
}

// The batches of a step, one after the other, give what all of it gives.
TEST(Loss, BatchesOfAStepAddUp) {
  std::ifstream file(std::string(TEMPO_SOURCE_DIR) + "/tests/fixtures/loss_fixture.json");
  for (const Json& json : Json::parse(file).at("cases")) {
    const Case c(json);
    const auto row = static_cast<std::size_t>(c.width);
    const std::size_t samples = c.outputs.size() / row;
    Values whole(c.outputs.size());
    const auto all = evaluate_loss(c.options, c.outputs, c.width, c.targets,
                                   static_cast<std::int64_t>(samples), whole);
    LossSums sums;
    Values parts(c.outputs.size());
    for (const auto& [begin, count] : {std::pair<std::size_t, std::size_t>{0, 4}, {4, 5}}) {
      Targets targets;
      if (c.targets.values.empty()) {
        const auto first = c.targets.labels.begin() + static_cast<std::ptrdiff_t>(begin);
        targets.labels.assign(first, first + static_cast<std::ptrdiff_t>(count));
      } else {
        const auto first = c.targets.values.begin() + static_cast<std::ptrdiff_t>(begin * row);
        targets.values.assign(first, first + static_cast<std::ptrdiff_t>(count * row));
      }
      const auto part = evaluate_loss(
          c.options, std::span(c.outputs).subspan(begin * row, count * row), c.width, targets,
          static_cast<std::int64_t>(samples), std::span(parts).subspan(begin * row, count * row));
      ASSERT_TRUE(part.ok());
      sums.add(*part);
    }
    EXPECT_EQ(parts, whole);
    EXPECT_EQ(sums.samples, all->samples);
    EXPECT_NEAR(sums.loss, all->loss, 1e-12 * all->loss);
    EXPECT_NEAR(sums.correct, all->correct, 1e-12);
    EXPECT_NEAR(sums.in_top5, all->in_top5, 1e-12);
    EXPECT_NEAR(sums.absolute_error, all->absolute_error, 1e-12);
  }
}

TEST(Loss, CountsTheFirstOfEqualLogits) {
  const auto loss = cross_entropy({1, 1, 0, 0, 2, 2}, {0, 2});
  ASSERT_TRUE(loss.ok());
  EXPECT_EQ(loss->correct, 1);
  const Values equal(6, 1.0F);
  EXPECT_EQ(cross_entropy(equal, {4})->in_top5, 1);
  EXPECT_EQ(cross_entropy(equal, {5})->in_top5, 0);
}

TEST(Loss, LargeLogitsDoNotOverflow) {
  const Values logits{3e38F, -3e38F, 1000, 990};
  Values gradient(4);
  const auto loss = cross_entropy(logits, {0, 1}, gradient);
  ASSERT_TRUE(loss.ok());
  EXPECT_NEAR(loss->mean_loss(), (10 + std::log1p(std::exp(-10.0))) / 2, 1e-12);
  EXPECT_EQ(gradient[0], 0.0F);
  EXPECT_EQ(gradient[1], 0.0F);
  EXPECT_NEAR(gradient[2], 0.5, 1e-4);
  EXPECT_NEAR(gradient[3], -0.5, 1e-4);
}

TEST(Loss, LargeBinaryLogitsDoNotOverflow) {
  Values gradient(4);
  const auto loss = evaluate_loss({LossKind::kBce, 0}, Values{3e38F, -3e38F, 1000, -1000}, 4,
                                  {{}, {1, 0, 0, 1}}, 1, gradient);
  ASSERT_TRUE(loss.ok());
  EXPECT_EQ(loss->mean_loss(), 500.0);
  EXPECT_EQ(gradient, (Values{0, 0, 0.25F, -0.25F}));
}

TEST(Loss, NotANumberMeansDiverged) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Values& logits : {Values{nan, 1},
                               {1, nan},
                               {nan, nan},
                               {infinity, 1},
                               {1, infinity},
                               {-infinity, -infinity},
                               {-infinity, 1}}) {
    const auto loss = cross_entropy(logits, {0});
    ASSERT_FALSE(loss.ok()) << logits[0] << " " << logits[1];
    EXPECT_EQ(loss.error().code, ErrorCode::kDiverged);
  }
  for (const LossKind kind : {LossKind::kMse, LossKind::kBce}) {
    for (const float z : {nan, infinity, -infinity}) {
      const auto loss = evaluate_loss({kind, 0}, Values{1, z}, 2, {{}, {0.5F, 0.5F}}, 1, {});
      ASSERT_FALSE(loss.ok()) << z;
      EXPECT_EQ(loss.error().code, ErrorCode::kDiverged);
    }
  }
}

Dataset two_samples() {
  std::vector<Dataset::Part> parts(1);
  parts[0] = {test::Bytes(16), 0, 8, 2};
  return {"x.npy", SampleShape::row(2), ValueType::kFloat32, std::move(parts)};
}

Dataset with_labels(std::vector<std::int32_t> labels) {
  Dataset data = two_samples();
  data.set_labels(std::move(labels), "y.npy");
  return data;
}

Dataset with_values(const Values& values) {
  Dataset data = two_samples();
  test::Bytes bytes{std::byte{1}};  // they need not be aligned
  test::append_values(bytes, values);
  data.set_target_values(std::move(bytes), 1, static_cast<std::int64_t>(values.size()) / 2,
                         "y.npy");
  return data;
}

TEST(Targets, AreThoseOfTheSamples) {
  const std::vector<std::uint32_t> samples{1, 0, 1};
  Targets targets{{9, 9}, {9, 9}};
  with_labels({4, 5}).targets(samples, targets);
  EXPECT_EQ(targets.labels, (std::vector<std::int32_t>{5, 4, 5}));
  EXPECT_TRUE(targets.values.empty());
  with_values({1, 2, 3, 4}).targets(samples, targets);
  EXPECT_EQ(targets.values, (Values{3, 4, 1, 2, 3, 4}));
  EXPECT_TRUE(targets.labels.empty());
}

TEST(Targets, HaveToFitTheLoss) {
  const auto code_of = [](const Dataset& data, LossKind kind, std::int64_t width) {
    const Status status = check_targets(data, kind, 1, width);
    return status.ok() ? std::string() : status.error().one_line();
  };
  EXPECT_EQ(code_of(with_labels({0, 2}), LossKind::kCrossEntropy, 3), "");
  EXPECT_EQ(code_of(with_values({-7, 2}), LossKind::kMse, 1), "");
  EXPECT_TRUE(check_targets(with_values({-7, 2, 1, 1}), LossKind::kMse, 2, 1).ok());
  EXPECT_EQ(check_targets(with_labels({0, 2}), LossKind::kCrossEntropy, 2, 3).error().expected,
            "2 a sample");
  EXPECT_EQ(code_of(with_values({0, 0.5F, 1, 1}), LossKind::kBce, 2), "");
  const auto expect_refusal = [&](const Dataset& data, LossKind kind, std::int64_t width,
                                  const std::string& says) {
    const std::string line = code_of(data, kind, width);
    EXPECT_NE(line.find(says), std::string::npos) << line;
  };
  expect_refusal(two_samples(), LossKind::kMse, 1, "without labels");
  expect_refusal(with_labels({0, 3}), LossKind::kCrossEntropy, 3, "y.npy, sample 1");
  expect_refusal(with_labels({0, 1}), LossKind::kMse, 1, "astype(numpy.float32)");
  expect_refusal(with_labels({0, 1}), LossKind::kBce, 1, "astype(numpy.float32)");
  expect_refusal(with_values({0, 1}), LossKind::kCrossEntropy, 2, "integer");
  expect_refusal(with_values({0, 1, 0, 1}), LossKind::kMse, 3, "3 a sample");
  expect_refusal(with_values({0, 0, 1, 1.5F}), LossKind::kBce, 2, "y.npy, sample 1");
}

TEST(Argmax, NanNeverWins) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(argmax(Values{nan, 1, nan, 2}), 3);
  EXPECT_EQ(argmax(Values{5, nan, 5}), 0);
}

}  // namespace
}  // namespace tempo
