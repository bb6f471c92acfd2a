// File: enclave/train/normalisation.h
// What a stored value becomes in the model's input: (v - mean) / deviation per channel, where v is
// a uint8 value over 255, or a float32 value as it is. Rows of features count as one channel.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/train/dataset.h"
#include "wire/job.h"

namespace tempo {

inline constexpr float kMinDeviation = 1e-12F;

struct Normalisation {
  std::vector<float> mean;       // one a channel
  std::vector<float> deviation;  // one a channel, >= kMinDeviation
  std::string
      origin;  // "given", "the model", the file names it was computed from, or "none" (tokens)
};

// The means and deviations given in `spec` (one, or one a channel), or those of `data`
// (population, float64). A channel whose deviation is below kMinDeviation does not vary: it gets 1.
// Tokens stay as they are. Error kUsage: another number of values, one that is not finite, a
// deviation below kMinDeviation.
Result<Normalisation> make_normalisation(const DataSpec& spec, const Dataset& data,
                                         ThreadPool& pool);

// Comma-separated, as a trained model carries them in its metadata (keys below), so that whoever
// predicts with it need not know them. Error kBadModel: not a list of numbers.
inline constexpr const char* kMeanMetadata = "tempo.mean";
inline constexpr const char* kDeviationMetadata = "tempo.deviation";
std::string numbers_text(const std::vector<float>& values);
Result<std::vector<float>> parse_numbers(const std::string& text, const char* key);

}  // namespace tempo
