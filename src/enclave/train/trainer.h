// File: enclave/train/trainer.h
// The training loop: epochs of shuffled batches, loss, backward, update, evaluation.
//
// A step is one update. It may take several batches (JobSpec::accumulate), each with a forward and
// backward of its own; its gradient is that of the mean loss over all its samples. Where it takes
// one, parameters are updated while backward waits for workers (step_update.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/train/dataset.h"
#include "enclave/train/engine_factory.h"
#include "enclave/train/inference.h"
#include "enclave/train/logit_bypass.h"
#include "enclave/train/loss.h"
#include "enclave/train/model_io.h"
#include "enclave/train/normalisation.h"
#include "enclave/train/optimizer.h"
#include "enclave/train/parameters.h"
#include "enclave/train/run_length.h"
#include "enclave/train/schedule.h"
#include "enclave/train/step_update.h"
#include "wire/job.h"

namespace tempo {

struct TrainProgress {
  enum class Phase { kTraining, kEvaluation } phase = Phase::kTraining;
  std::int64_t epoch = 0;  // from 1
  std::int64_t epochs = 0;
  std::int64_t step = 0;  // steps done, over all epochs
  std::int64_t total_steps = 0;
  double loss = 0;              // of the last step
  Metrics epoch_so_far;         // on this epoch's training (or test) samples
  std::optional<Metrics> test;  // of the last whole evaluation
  double learning_rate = 0;
  double images_per_second = 0;  // training only
  double eta_s = 0;
  CheckCounts checks;
};

// What a run leaves, also when it ends early.
struct TrainingHistory {
  std::vector<double> loss;      // one a step
  std::vector<Metrics> train;    // one an epoch begun, on the augmented samples as they went
  std::vector<Metrics> test;     // one an evaluation: after every epoch, and after the last step
                                 // when the limit of steps ends one early
  std::int64_t epochs_done = 0;  // whole ones
  std::int64_t images = 0;       // trained on
  double train_seconds = 0;      // without evaluation
  double evaluate_seconds = 0;
};

class Trainer {
 public:
  // What it takes must outlive it; the graph is changed by training and may be exported after the
  // trainer is gone. An empty data.test skips evaluation. All executors are made here, so that a
  // lack of memory shows before the first step. What spec.frozen names must be frozen by then
  // (freeze.h).
  // Errors: kUsage (settings that make no sense), kBadData (no training samples, no labels, data
  // that does not fit model or loss), kUnsupportedModel, kBadModel, those of the factory.
  static Result<std::unique_ptr<Trainer>> create(Graph& graph, const Datasets& data,
                                                 const Normalisation& normalisation,
                                                 const JobSpec& spec, EngineFactory& factory,
                                                 ThreadPool& pool, TimeLedger& ledger);

  using OnProgress = std::function<void(const TrainProgress&)>;

  // Trains from the beginning. on_progress (may be empty) is called after every step and every
  // evaluated batch. `history` is complete up to the point where the run ended, also on errors:
  // kInterrupted after `cancel` became true (looked at before every step; the model is that of the
  // last whole step), kDiverged when the loss is not finite (nor, where it is clipped, the
  // gradient), those of the executor.
  Status run(const std::atomic<bool>& cancel, const OnProgress& on_progress,
             TrainingHistory& history);

  std::int64_t total_steps() const { return length_.steps; }
  std::int64_t classes() const { return classes_; }

 private:
  struct Epoch;
  Trainer(const Datasets& data, const JobSpec& spec, EngineFactory& factory, TimeLedger& ledger);
  Status set_up(Graph& graph, const Normalisation& normalisation, ThreadPool& pool);
  // One update, by these samples.
  Status step(Epoch& epoch, std::span<const std::uint32_t> samples, TrainingHistory& history);
  // Forward and backward of one batch of it, the run's `number`-th. The gradients are those of the
  // executor.
  Result<Executor*> batch(const Epoch& epoch, std::span<const std::uint32_t> samples,
                          std::uint64_t number, std::int64_t step_samples, LossSums& sums);
  Executor& executor_for(std::size_t samples);  // full_ or last_
  Status begin_update(std::size_t samples, double rate);
  Status update(const Gradients& gradients, double rate);
  // Late gradients are awaited and applied, so that the weights are those of all steps so far.
  Status settle();
  Status evaluate(const std::atomic<bool>& cancel, const OnProgress& on_progress, Epoch& epoch,
                  TrainingHistory& history);
  TrainProgress progress(const Epoch& epoch, const TrainingHistory& history) const;

  const Datasets* data_;
  JobSpec spec_;
  EngineFactory* factory_;
  TimeLedger* ledger_;
  const LossOptions loss_;
  std::int64_t classes_ = 0;  // columns of the output
  std::int64_t rows_ = 1;     // of them, a sample
  RunLength length_;
  std::optional<LogitBypass> bypass_;  // before the executors: goes after them
  std::optional<InputBatches> train_batches_;
  std::optional<InputBatches> test_batches_;
  std::optional<Parameters> parameters_;
  std::optional<Optimizer> optimizer_;
  std::optional<GradientSum> sum_;         // where a step takes several batches
  std::optional<StepUpdate> step_update_;  // where no update needs all gradients at once
  std::optional<Schedule> schedule_;
  std::unique_ptr<Executor> full_;  // null when the set is smaller than a batch
  std::unique_ptr<Executor> last_;  // for the last batch of an epoch when it is smaller; else null
  Executor* updating_ = nullptr;    // with step_update_: which of them had the last step
  std::unique_ptr<InferencePass> evaluation_;  // null without a test set
  Targets targets_;
};

}  // namespace tempo
