#include "enclave/train/loss.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace tempo {
namespace {

constexpr std::int64_t kTop = 5;

// One sample. `scale`: of its gradient, which is not wanted when `d` is empty.
void cross_entropy(double smoothing, std::span<const float> z, std::int32_t wanted, double scale,
                   std::span<float> d, LossSums& sums) {
  const auto label = static_cast<std::size_t>(wanted);
  TEMPO_ASSERT(wanted >= 0 && label < z.size());
  const double largest = z[static_cast<std::size_t>(argmax(z))];
  double sum = 0;
  double total = 0;
  std::int64_t above = 0;  // outputs that come before the label's, the first of equals first
  for (std::size_t j = 0; j < z.size(); ++j) {
    sum += std::exp(static_cast<double>(z[j]) - largest);
    total += static_cast<double>(z[j]);
    if (z[j] > z[label] || (z[j] == z[label] && j < label)) ++above;
  }
  const double log_sum = largest + std::log(sum);
  const double everywhere = smoothing / static_cast<double>(z.size());
  sums.loss += log_sum - (1 - smoothing) * static_cast<double>(z[label]);
  if (smoothing > 0) sums.loss -= everywhere * total;
  if (above == 0) sums.correct += 1;
  if (above < kTop) sums.in_top5 += 1;
  for (std::size_t j = 0; j < d.size(); ++j) {
    const double p = std::exp(static_cast<double>(z[j]) - log_sum);
    const double target = everywhere + (j == label ? 1 - smoothing : 0.0);
    d[j] = static_cast<float>((p - target) * scale);
  }
}

void mean_squared_error(std::span<const float> z, std::span<const float> t, double scale,
                        std::span<float> d, LossSums& sums) {
  const auto width = static_cast<double>(z.size());
  for (std::size_t j = 0; j < z.size(); ++j) {
    const double error = static_cast<double>(z[j]) - static_cast<double>(t[j]);
    sums.loss += error * error / width;
    sums.absolute_error += std::abs(error) / width;
    if (!d.empty()) d[j] = static_cast<float>(2 * error * scale / width);
  }
}

void binary_cross_entropy(std::span<const float> outputs, std::span<const float> targets,
                          double scale, std::span<float> d, LossSums& sums) {
  const auto width = static_cast<double>(outputs.size());
  std::int64_t correct = 0;
  for (std::size_t j = 0; j < outputs.size(); ++j) {
    const auto z = static_cast<double>(outputs[j]);
    const auto t = static_cast<double>(targets[j]);
    const double small = std::exp(-std::abs(z));  // never overflows
    sums.loss += (std::max(z, 0.0) - z * t + std::log1p(small)) / width;
    if ((z > 0) == (t > 0.5)) ++correct;
    const double sigmoid = (z > 0 ? 1 : small) / (1 + small);
    if (!d.empty()) d[j] = static_cast<float>((sigmoid - t) * scale / width);
  }
  sums.correct += static_cast<double>(correct) / width;
}

Error bad_target(std::string what, std::string where, std::string expected, std::string got,
                 std::string next_step) {
  return {ErrorCode::kBadData, std::move(what), std::move(where),
          std::move(expected), std::move(got),  std::move(next_step)};
}

Status check_labels(const Dataset& data, std::int64_t rows, std::int64_t classes) {
  if (!data.has_labels()) {
    return bad_target("this loss needs labels", data.label_source(), "one integer a sample",
                      "float32 values", "use --loss mse or bce, or convert with y.astype(int)");
  }
  if (data.labels_a_sample() != rows) {
    return bad_target("the labels do not fit the model's output", data.label_source(),
                      std::to_string(rows) + " a sample", std::to_string(data.labels_a_sample()),
                      "use labels of this shape, or a model made for them");
  }
  const auto labels = data.labels();
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < classes) continue;
    const std::size_t sample = i / static_cast<std::size_t>(rows);
    return bad_target(
        "label out of range", data.label_source() + ", sample " + std::to_string(sample),
        "0.." + std::to_string(classes - 1) + " (the model's classes)", std::to_string(labels[i]),
        "correct the label, or use a model with more classes");
  }
  return {};
}

Status check_values(const Dataset& data, LossKind kind, std::int64_t width) {
  const std::string wanted = "float32 values, " + std::to_string(width) + " a sample";
  if (!data.has_target_values()) {
    return bad_target("this loss needs float32 labels", data.label_source(), wanted, "integers",
                      "convert with y.astype(numpy.float32), or use --loss cross-entropy");
  }
  if (data.target_width() != width) {
    return bad_target("the labels do not have the shape of the model's output", data.label_source(),
                      wanted, std::to_string(data.target_width()),
                      "use labels of this shape, or a model made for them");
  }
  if (kind != LossKind::kBce) return {};
  std::vector<float> values(static_cast<std::size_t>(width));
  for (std::int64_t i = 0; i < data.size(); ++i) {
    data.copy_target_values(i, values.data());
    for (const float t : values) {
      if (t >= 0 && t <= 1) continue;
      return bad_target("label out of range", data.label_source() + ", sample " + std::to_string(i),
                        "0 to 1", std::to_string(t), "correct the label, or use --loss mse");
    }
  }
  return {};
}

}  // namespace

void LossSums::add(const LossSums& other) {
  samples += other.samples;
  loss += other.loss;
  correct += other.correct;
  in_top5 += other.in_top5;
  absolute_error += other.absolute_error;
}

std::int64_t argmax(std::span<const float> row) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < row.size(); ++i) {
    if (row[i] > row[best] || std::isnan(row[best])) best = i;
  }
  return static_cast<std::int64_t>(best);
}

Result<LossSums> evaluate_loss(const LossOptions& options, std::span<const float> outputs,
                               std::int64_t width, const Targets& targets, std::int64_t step_rows,
                               std::span<float> d_outputs) {
  const auto row = static_cast<std::size_t>(width);
  const bool has_classes = options.kind == LossKind::kCrossEntropy;
  TEMPO_ASSERT(!outputs.empty() && outputs.size() % row == 0 && step_rows > 0);
  TEMPO_ASSERT(has_classes ? targets.labels.size() * row == outputs.size()
                           : targets.values.size() == outputs.size());
  TEMPO_ASSERT(d_outputs.empty() || d_outputs.size() == outputs.size());
  const double scale = 1.0 / static_cast<double>(step_rows);
  LossSums sums;
  sums.samples = static_cast<std::int64_t>(outputs.size() / row);
  for (std::size_t i = 0; i * row < outputs.size(); ++i) {
    const auto z = outputs.subspan(i * row, row);
    const auto d = d_outputs.empty() ? d_outputs : d_outputs.subspan(i * row, row);
    if (has_classes) {
      cross_entropy(options.label_smoothing, z, targets.labels[i], scale, d, sums);
      continue;
    }
    const auto t = std::span(targets.values).subspan(i * row, row);
    options.kind == LossKind::kMse ? mean_squared_error(z, t, scale, d, sums)
                                   : binary_cross_entropy(z, t, scale, d, sums);
  }
  if (!std::isfinite(sums.loss)) {
    return Error{ErrorCode::kDiverged,
                 "the loss is not a number",
                 "",
                 "a finite loss",
                 std::isnan(sums.loss) ? "NaN" : "infinity",
                 "lower the learning rate, or add warm-up"};
  }
  return sums;
}

Metrics metrics_of(LossKind kind, std::int64_t width, const LossSums& sums) {
  const auto mean = [&sums](double sum) { return sum / static_cast<double>(sums.samples); };
  Metrics metrics;
  metrics.loss = sums.mean_loss();
  if (kind == LossKind::kMse) {
    metrics.mean_absolute_error = mean(sums.absolute_error);
    return metrics;
  }
  metrics.accuracy = mean(sums.correct);
  if (kind == LossKind::kCrossEntropy && width > kTop) metrics.top5_accuracy = mean(sums.in_top5);
  return metrics;
}

Status check_targets(const Dataset& data, LossKind kind, std::int64_t rows, std::int64_t width) {
  if (!data.has_labels() && !data.has_target_values()) {
    return bad_target("samples without labels", data.source(), "a label for every sample", "none",
                      "send the file of labels too");
  }
  return kind == LossKind::kCrossEntropy ? check_labels(data, rows, width)
                                         : check_values(data, kind, rows * width);
}

}  // namespace tempo
