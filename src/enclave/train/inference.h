// File: enclave/train/inference.h
// Forward passes over a whole data set, for evaluation and for predictions.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/train/dataset.h"
#include "enclave/train/engine_factory.h"
#include "enclave/train/model_io.h"
#include "enclave/train/normalisation.h"

namespace tempo {

// One inference executor. One thread at a time.
class InferencePass {
 public:
  // What it takes must outlive it. Errors: those of make_executor.
  static Result<std::unique_ptr<InferencePass>> create(Graph& graph, std::int64_t batch,
                                                       EngineFactory& factory, ThreadPool& pool,
                                                       TimeLedger& ledger);

  // Called for every batch, in order: its samples, which follow each other, and their outputs,
  // samples x classes.
  using OnBatch =
      std::function<Status(std::span<const std::uint32_t> samples, std::span<const float> outputs)>;

  // Samples 0 .. count-1. The last batch is filled up with zeros, whose outputs are dropped: in
  // inference no sample sees another. Errors: kInterrupted, the executor's and on_batch's.
  Status run(const InputBatches& batches, std::int64_t count, const std::atomic<bool>& cancel,
             const OnBatch& on_batch);

 private:
  InferencePass(std::unique_ptr<Executor> executor, TimeLedger& ledger)
      : executor_(std::move(executor)), ledger_(&ledger) {}
  std::unique_ptr<Executor> executor_;
  TimeLedger* ledger_;
};

struct Predictions {
  std::vector<float> values;  // the model's first output as it is
  Shape shape;                // (samples, ..., classes)
  std::int64_t samples = 0;
  std::int64_t classes = 0;
  std::optional<double> accuracy;  // where the data has labels (not target values)
  double seconds = 0;
};

struct InferProgress {
  std::int64_t samples = 0;
  std::int64_t total_samples = 0;
  double images_per_second = 0;
  double eta_s = 0;
  CheckCounts checks;
};

struct InferOptions {
  std::int64_t batch = 128;
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(const InferProgress&)> on_progress;  // after every batch; may be empty
};

// The model's output for every sample. Errors: kBadData when data and model do not fit, kUsage for
// a batch below 1, kOutOfMemory when the outputs do not fit in memory, kInterrupted, the engine's.
Result<Predictions> infer(Graph& graph, const Dataset& data, const Normalisation& normalisation,
                          const InferOptions& options, EngineFactory& factory, ThreadPool& pool,
                          TimeLedger& ledger);

}  // namespace tempo
