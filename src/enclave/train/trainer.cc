#include "enclave/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "enclave/train/loss.h"

namespace tempo {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Error bad_setting(const char* where, const char* expected, const std::string& got) {
  return {ErrorCode::kUsage,   "the training settings make no sense", where, expected, got,
          "correct this value"};
}

Error interrupted() {
  return {ErrorCode::kInterrupted, "stopped by the user", "", "", "", ""};
}

Status check_settings(const JobSpec& spec) {
  // Epochs are 32-bit words in counters; sizes far from overflow.
  constexpr std::int64_t kMax = std::int64_t{1} << 31;
  if (spec.batch < 1 || spec.batch > kMax) {
    return bad_setting("batch", "1 or more", std::to_string(spec.batch));
  }
  if (spec.epochs < 1 || spec.epochs > kMax) {
    return bad_setting("epochs", "1 or more", std::to_string(spec.epochs));
  }
  if (spec.steps < 0) {
    return bad_setting("steps", "0 (no limit) or more", std::to_string(spec.steps));
  }
  if (!(spec.learning_rate >= 0 && std::isfinite(spec.learning_rate))) {
    return bad_setting("learning rate", "a finite number, 0 or more",
                       std::to_string(spec.learning_rate));
  }
  return check_schedule(spec.schedule);
}

Status check_data(const Datasets& data) {
  if (data.train.empty()) {
    return Error{ErrorCode::kBadData,
                 "no training samples",
                 "data",
                 "a training set",
                 "none",
                 "send the training set's files"};
  }
  for (const Dataset* set : {&data.train, &data.test}) {
    if (!set->empty() && !set->has_labels()) {
      return Error{ErrorCode::kBadData,
                   "samples without labels",
                   set->source(),
                   "a label for every sample",
                   "none",
                   "send the file of labels too"};
    }
  }
  return {};
}

}  // namespace

// What is known while an epoch runs.
struct Trainer::Epoch {
  std::int64_t index = 0;
  std::int64_t seen = 0;
  std::int64_t correct = 0;
  std::int64_t test_seen = 0;
  std::int64_t test_correct = 0;
  bool evaluating = false;
};

Trainer::Trainer(const Datasets& data, const JobSpec& spec, EngineFactory& factory,
                 TimeLedger& ledger)
    : data_(&data), spec_(spec), factory_(&factory), ledger_(&ledger) {}

Result<std::unique_ptr<Trainer>> Trainer::create(Graph& graph, const Datasets& data,
                                                 const Normalisation& normalisation,
                                                 const JobSpec& spec, EngineFactory& factory,
                                                 ThreadPool& pool, TimeLedger& ledger) {
  TEMPO_RETURN_IF_ERROR(check_settings(spec));
  TEMPO_RETURN_IF_ERROR(check_data(data));
  std::unique_ptr<Trainer> trainer(new Trainer(data, spec, factory, ledger));
  TEMPO_RETURN_IF_ERROR(trainer->set_up(graph, normalisation, pool));
  return trainer;
}

Status Trainer::set_up(Graph& graph, const Normalisation& normalisation, ThreadPool& pool) {
  const auto model = describe_model_input(graph);
  if (!model.ok()) return model.error();
  classes_ = model->classes;
  TEMPO_RETURN_IF_ERROR(check_fits(data_->train, model->sample, classes_));
  if (!data_->test.empty()) TEMPO_RETURN_IF_ERROR(check_fits(data_->test, model->sample, classes_));

  const std::int64_t count = data_->train.size();
  const std::int64_t remainder = count % spec_.batch;
  steps_per_epoch_ = count / spec_.batch + (remainder > 0 ? 1 : 0);
  if (steps_per_epoch_ > std::numeric_limits<std::int64_t>::max() / spec_.epochs) {
    return bad_setting("epochs", "fewer", std::to_string(spec_.epochs));
  }
  total_steps_ = steps_per_epoch_ * spec_.epochs;
  if (spec_.steps > 0) total_steps_ = std::min(total_steps_, spec_.steps);

  const Augmentation augmentation{spec_.data.random_crop, spec_.data.random_flip};
  auto train =
      Batcher::create(data_->train, normalisation, model->layout, augmentation, spec_.seed, pool);
  if (!train.ok()) return train.error();
  train_batches_ = std::move(*train);
  auto sgd = Sgd::create(graph, {spec_.momentum, spec_.weight_decay}, pool);
  if (!sgd.ok()) return sgd.error();
  sgd_.emplace(std::move(*sgd));
  schedule_.emplace(spec_.schedule, spec_.learning_rate, steps_per_epoch_, spec_.epochs);

  auto bypass = SoftmaxBypass::apply(graph);
  if (!bypass.ok()) return bypass.error();
  bypass_.emplace(std::move(*bypass));

  const auto training_executor = [&](std::int64_t batch, std::unique_ptr<Executor>& out) -> Status {
    auto executor =
        make_executor(graph, batch, StepMode::kTraining, spec_.seed, *factory_, pool, *ledger_);
    if (!executor.ok()) return executor.error();
    out = std::move(*executor);
    return {};
  };
  if (count >= spec_.batch) TEMPO_RETURN_IF_ERROR(training_executor(spec_.batch, full_));
  if (remainder > 0 && total_steps_ >= steps_per_epoch_) {
    TEMPO_RETURN_IF_ERROR(training_executor(remainder, last_));
  }
  if (!data_->test.empty()) {
    auto test = Batcher::create(data_->test, normalisation, model->layout, {}, spec_.seed, pool);
    if (!test.ok()) return test.error();
    test_batches_ = std::move(*test);
    auto pass = InferencePass::create(graph, std::min(spec_.batch, data_->test.size()), *factory_,
                                      pool, *ledger_);
    if (!pass.ok()) return pass.error();
    evaluation_ = std::move(*pass);
  }
  return {};
}

Status Trainer::run(const std::atomic<bool>& cancel, const OnProgress& on_progress,
                    TrainingHistory& history) {
  history = {};
  const std::int64_t count = data_->train.size();
  std::int64_t done = 0;
  for (std::int64_t e = 0; e < spec_.epochs && done < total_steps_; ++e) {
    Epoch epoch;
    epoch.index = e;
    const auto order = epoch_order(spec_.seed, static_cast<std::uint32_t>(e), count);
    for (std::int64_t first = 0; first < count && done < total_steps_; first += spec_.batch) {
      if (cancel.load(std::memory_order_relaxed)) return interrupted();
      const auto start = Clock::now();
      const auto size = static_cast<std::size_t>(std::min(spec_.batch, count - first));
      const auto samples = std::span(order).subspan(static_cast<std::size_t>(first), size);
      if (Status status = step(epoch, samples, history); !status.ok()) return status;
      history.train_seconds += seconds_since(start);
      ++done;
      if (on_progress) on_progress(progress(epoch, history));
    }
    if (epoch.seen == count) ++history.epochs_done;
    if (evaluation_) TEMPO_RETURN_IF_ERROR(evaluate(cancel, on_progress, epoch, history));
  }
  return {};
}

Status Trainer::step(Epoch& epoch, std::span<const std::uint32_t> samples,
                     TrainingHistory& history) {
  const auto number = static_cast<std::int64_t>(history.loss.size());
  Executor& executor = static_cast<std::int64_t>(samples.size()) == spec_.batch ? *full_ : *last_;
  {
    TimeScope time(*ledger_, TimeKind::kData);
    train_batches_->fill(samples, static_cast<std::uint32_t>(epoch.index), executor.input());
    train_batches_->labels(samples, labels_);
  }
  TEMPO_RETURN_IF_ERROR(executor.forward(static_cast<std::uint64_t>(number)));
  BatchLoss loss;
  {
    TimeScope time(*ledger_, TimeKind::kNonLinear);
    auto result = softmax_cross_entropy(executor.output(), labels_, classes_, executor.d_output());
    if (!result.ok()) {
      Error error = result.error();
      error.where =
          "epoch " + std::to_string(epoch.index + 1) + ", step " + std::to_string(number + 1);
      return error;
    }
    loss = *result;
  }
  TEMPO_RETURN_IF_ERROR(executor.backward());
  {
    TimeScope time(*ledger_, TimeKind::kUpdate);
    sgd_->step(schedule_->rate(number),
               [&executor](TensorId parameter) { return executor.gradient(parameter); });
  }
  history.loss.push_back(loss.mean_loss);
  history.images += static_cast<std::int64_t>(samples.size());
  if (epoch.seen == 0) history.train_accuracy.push_back(0);
  epoch.seen += static_cast<std::int64_t>(samples.size());
  epoch.correct += loss.correct;
  history.train_accuracy.back() =
      static_cast<double>(epoch.correct) / static_cast<double>(epoch.seen);
  return {};
}

Status Trainer::evaluate(const std::atomic<bool>& cancel, const OnProgress& on_progress,
                         Epoch& epoch, TrainingHistory& history) {
  const auto start = Clock::now();
  const auto labels = data_->test.labels();
  double total_loss = 0;
  epoch.evaluating = true;
  const auto on_batch = [&](std::int64_t first, std::int64_t count,
                            std::span<const float> outputs) -> Status {
    const auto batch_labels =
        labels.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    auto loss = softmax_cross_entropy(outputs, batch_labels, classes_, {});
    if (!loss.ok()) {
      Error error = loss.error();
      error.where = "evaluation after epoch " + std::to_string(epoch.index + 1);
      return error;
    }
    total_loss += loss->mean_loss * static_cast<double>(count);
    epoch.test_correct += loss->correct;
    epoch.test_seen += count;
    if (on_progress) on_progress(progress(epoch, history));
    return {};
  };
  Status status = evaluation_->run(*test_batches_, data_->test.size(), cancel, on_batch);
  history.evaluate_seconds += seconds_since(start);
  if (!status.ok()) return status;
  const double samples = static_cast<double>(data_->test.size());
  history.accuracy.push_back(static_cast<double>(epoch.test_correct) / samples);
  history.test_loss.push_back(total_loss / samples);
  return {};
}

TrainProgress Trainer::progress(const Epoch& epoch, const TrainingHistory& history) const {
  TrainProgress p;
  p.phase = epoch.evaluating ? TrainProgress::Phase::kEvaluation : TrainProgress::Phase::kTraining;
  p.epoch = epoch.index + 1;
  p.epochs = spec_.epochs;
  p.step = static_cast<std::int64_t>(history.loss.size());
  p.total_steps = total_steps_;
  p.loss = history.loss.empty() ? 0 : history.loss.back();
  const std::int64_t seen = epoch.evaluating ? epoch.test_seen : epoch.seen;
  const std::int64_t correct = epoch.evaluating ? epoch.test_correct : epoch.correct;
  p.accuracy = seen > 0 ? static_cast<double>(correct) / static_cast<double>(seen) : 0;
  if (!history.accuracy.empty()) p.test_accuracy = history.accuracy.back();
  p.learning_rate = p.step > 0 ? schedule_->rate(p.step - 1) : 0;
  if (history.train_seconds > 0 && p.step > 0) {
    p.images_per_second = static_cast<double>(history.images) / history.train_seconds;
    p.eta_s = history.train_seconds / static_cast<double>(p.step) *
              static_cast<double>(p.total_steps - p.step);
  }
  if (!history.accuracy.empty()) {
    const std::int64_t evaluations = (total_steps_ + steps_per_epoch_ - 1) / steps_per_epoch_ -
                                     static_cast<std::int64_t>(history.accuracy.size());
    p.eta_s += history.evaluate_seconds / static_cast<double>(history.accuracy.size()) *
               static_cast<double>(evaluations);
  }
  p.checks = factory_->checks();
  return p;
}

}  // namespace tempo
