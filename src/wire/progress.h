// File: wire/progress.h
// What a running job tells its client, over the job API alone: loss and accuracy are secrets
// of the client and never go into a log.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "wire/tamper.h"

namespace tempo {

struct RefusedResult {
  int worker = 0;
  std::string operator_name;
  std::uint64_t step = 0;  // counts batches
  TamperRecord tamper;
};

struct Progress {
  std::string phase;       // "preparing", "training", "evaluating", "predicting"
  std::int64_t epoch = 0;  // counted from 1
  std::int64_t epochs = 0;
  std::int64_t step = 0;   // done, over the whole job
  std::int64_t steps = 0;  // of the whole job
  double loss = 0;         // of the last step
  // Of the last evaluation; negative: none yet, or not of this loss.
  double accuracy = -1;  // 0..1
  double top5_accuracy = -1;
  double mean_absolute_error = -1;
  double images_per_second = 0;
  double batch_s = 0;  // what the last batch took; predictions
  double eta_s = -1;   // seconds to go; negative: unknown
  std::uint64_t checks_done = 0;
  std::uint64_t checks_failed = 0;
  std::string notice;                  // what the user should know once, at the start; mostly empty
  std::string message;                 // a warning for the user ("worker 1 is lost"); mostly empty
  std::vector<RefusedResult> refused;  // since the last event; `message` has them in words
};

std::string progress_to_json(const Progress& progress);
// Comes from outside. Members of other types keep their defaults; `refused` is for other clients
// and not read. Nothing when no JSON object.
std::optional<Progress> progress_from_json(std::string_view text);

}  // namespace tempo
