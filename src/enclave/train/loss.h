// File: enclave/train/loss.h
// Losses and the figures beside them, as torch.nn.functional computes them with the mean over the
// batch. z: outputs, C or K a sample; t: what they should be; e: label smoothing.
//
//   cross-entropy  cross_entropy(z, label, label_smoothing=e); labels 0 .. C-1
//   mse            mse_loss(z, t)
//   bce            binary_cross_entropy_with_logits(z, t); t in 0..1
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/error.h"
#include "enclave/train/dataset.h"
#include "wire/job.h"

namespace tempo {

struct LossOptions {
  LossKind kind = LossKind::kCrossEntropy;
  double label_smoothing = 0;  // cross-entropy
};

// Means over a set of samples. Absent: the loss has no such figure.
struct Metrics {
  double loss = 0;
  // Cross-entropy: samples whose largest output is the label's (the first of equals). Bce: outputs
  // on the right side of 0, which are those whose target is above a half when they are.
  std::optional<double> accuracy;
  // Cross-entropy with more than 5 classes: the label is among the five largest.
  std::optional<double> top5_accuracy;
  std::optional<double> mean_absolute_error;  // mse
};

// Sums over samples; a sample counts with its mean over outputs.
struct LossSums {
  std::int64_t samples = 0;
  double loss = 0;
  double correct = 0;
  double in_top5 = 0;
  double absolute_error = 0;

  void add(const LossSums& other);
  double mean_loss() const { return loss / static_cast<double>(samples); }
};

// outputs: rows of `width`, one or several a sample; everything here counts rows. d_outputs: empty,
// or as large: overwritten with the gradient of the mean loss of a step of `step_rows` rows, of
// which these are some. Sums in float64. Precondition: targets that check_targets() accepts. Error
// kDiverged when the loss is not finite; d_outputs is then undefined.
Result<LossSums> evaluate_loss(const LossOptions& options, std::span<const float> outputs,
                               std::int64_t width, const Targets& targets, std::int64_t step_rows,
                               std::span<float> d_outputs);

// Precondition: sums.samples > 0.
Metrics metrics_of(LossKind kind, std::int64_t width, const LossSums& sums);

// Whether the samples of a data set have what a loss compares `rows` rows of `width` outputs a
// sample with: as many labels below `width`, or rows x width values, in 0..1 for bce. Error
// kBadData.
Status check_targets(const Dataset& data, LossKind kind, std::int64_t rows, std::int64_t width);

// The index of the largest value, the first of equals; NaN never wins. row is not empty.
std::int64_t argmax(std::span<const float> row);

}  // namespace tempo
