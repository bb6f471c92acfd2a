#include "enclave/train/loss.h"

#include <cmath>

namespace tempo {

std::int64_t argmax(std::span<const float> row) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < row.size(); ++i) {
    if (row[i] > row[best] || std::isnan(row[best])) best = i;
  }
  return static_cast<std::int64_t>(best);
}

Result<BatchLoss> softmax_cross_entropy(std::span<const float> logits,
                                        std::span<const std::int32_t> labels, std::int64_t classes,
                                        std::span<float> d_logits) {
  const auto width = static_cast<std::size_t>(classes);
  TEMPO_ASSERT(!labels.empty() && logits.size() == labels.size() * width);
  TEMPO_ASSERT(d_logits.empty() || d_logits.size() == logits.size());
  const double inverse_batch = 1.0 / static_cast<double>(labels.size());
  BatchLoss result;
  double total = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const auto row = logits.subspan(i * width, width);
    const auto label = static_cast<std::size_t>(labels[i]);
    TEMPO_ASSERT(labels[i] >= 0 && label < width);
    const auto best = static_cast<std::size_t>(argmax(row));
    if (best == label) ++result.correct;
    const double largest = row[best];
    double sum = 0;
    for (const float z : row) sum += std::exp(static_cast<double>(z) - largest);
    const double log_sum = largest + std::log(sum);
    total += log_sum - static_cast<double>(row[label]);
    if (d_logits.empty()) continue;
    for (std::size_t j = 0; j < width; ++j) {
      const double p = std::exp(static_cast<double>(row[j]) - log_sum);
      d_logits[i * width + j] = static_cast<float>((p - (j == label ? 1.0 : 0.0)) * inverse_batch);
    }
  }
  result.mean_loss = total * inverse_batch;
  if (!std::isfinite(result.mean_loss)) {
    return Error{ErrorCode::kDiverged,
                 "the loss is not a number",
                 "",
                 "a finite loss",
                 std::isnan(result.mean_loss) ? "NaN" : "infinity",
                 "lower the learning rate, or add warm-up"};
  }
  return result;
}

}  // namespace tempo
