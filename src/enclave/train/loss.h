// File: enclave/train/loss.h
// Softmax cross-entropy, mean over the batch: what torch.nn.functional.cross_entropy computes.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>

#include "base/error.h"

namespace tempo {

struct BatchLoss {
  double mean_loss = 0;
  std::int64_t correct = 0;  // samples whose largest logit is the label's (the first of equals)
};

// logits: labels.size() x classes. d_logits: empty, or as large as logits: overwritten with
// (softmax - onehot) / batch. Sums in float64. Precondition: 0 <= label < classes.
// Error kDiverged when the loss is not finite; d_logits is then undefined.
Result<BatchLoss> softmax_cross_entropy(std::span<const float> logits,
                                        std::span<const std::int32_t> labels, std::int64_t classes,
                                        std::span<float> d_logits);

// The index of the largest value, the first of equals; NaN never wins. row is not empty.
std::int64_t argmax(std::span<const float> row);

}  // namespace tempo
