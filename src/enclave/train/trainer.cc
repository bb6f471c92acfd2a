#include "enclave/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>

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
  if (spec.accumulate < 1 || spec.accumulate > kMax) {
    return bad_setting("accumulate", "1 or more", std::to_string(spec.accumulate));
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
  if (!(spec.label_smoothing >= 0 && spec.label_smoothing <= 1)) {
    return bad_setting("label smoothing", "0 to 1", std::to_string(spec.label_smoothing));
  }
  if (!(spec.clip_norm >= 0 && std::isfinite(spec.clip_norm))) {
    return bad_setting("clip norm", "a finite number, 0 (no clipping) or more",
                       std::to_string(spec.clip_norm));
  }
  return check_schedule(spec.schedule);
}

Status check_data(const Datasets& data, const ModelIo& model, LossKind loss) {
  if (data.train.empty()) {
    return Error{ErrorCode::kBadData,
                 "no training samples",
                 "data",
                 "a training set",
                 "none",
                 "send the training set's files"};
  }
  for (const Dataset* set : {&data.train, &data.test}) {
    if (set->empty()) continue;
    TEMPO_RETURN_IF_ERROR(check_fits(*set, model));
    TEMPO_RETURN_IF_ERROR(check_targets(*set, loss, model.rows, model.classes));
  }
  return {};
}

// Says when an error came. Others (of a worker, of the engine) know where they are from.
Error at_step(Error error, std::int64_t epoch, std::size_t step) {
  if (error.code == ErrorCode::kDiverged) {
    error.where = "epoch " + std::to_string(epoch + 1) + ", step " + std::to_string(step + 1);
  }
  return error;
}

}  // namespace

// What is known while an epoch runs.
struct Trainer::Epoch {
  std::int64_t index = 0;
  LossSums train;
  LossSums test;
  bool evaluating = false;
};

Trainer::Trainer(const Datasets& data, const JobSpec& spec, EngineFactory& factory,
                 TimeLedger& ledger)
    : data_(&data),
      spec_(spec),
      factory_(&factory),
      ledger_(&ledger),
      loss_{spec.loss, spec.label_smoothing} {}

Result<std::unique_ptr<Trainer>> Trainer::create(Graph& graph, const Datasets& data,
                                                 const Normalisation& normalisation,
                                                 const JobSpec& spec, EngineFactory& factory,
                                                 ThreadPool& pool, TimeLedger& ledger) {
  TEMPO_RETURN_IF_ERROR(check_settings(spec));
  std::unique_ptr<Trainer> trainer(new Trainer(data, spec, factory, ledger));
  TEMPO_RETURN_IF_ERROR(trainer->set_up(graph, normalisation, pool));
  return trainer;
}

Status Trainer::set_up(Graph& graph, const Normalisation& normalisation, ThreadPool& pool) {
  const auto model = describe_model(graph);
  if (!model.ok()) return model.error();
  classes_ = model->classes;
  rows_ = model->rows;
  TEMPO_RETURN_IF_ERROR(check_data(*data_, *model, loss_.kind));
  length_ = run_length(spec_, data_->train.size());

  const Augmentation augmentation{spec_.data.random_crop, spec_.data.random_flip};
  auto train =
      InputBatches::create(data_->train, normalisation, *model, augmentation, spec_.seed, pool);
  if (!train.ok()) return train.error();
  train_batches_ = std::move(*train);
  parameters_.emplace(graph, pool);
  auto optimizer = Optimizer::create(*parameters_, spec_.optimizer);
  if (!optimizer.ok()) return optimizer.error();
  optimizer_.emplace(std::move(*optimizer));
  if (spec_.accumulate > 1) sum_.emplace(*parameters_);
  if (spec_.accumulate == 1 && spec_.clip_norm == 0) {
    step_update_.emplace(*parameters_, *optimizer_, pool, *ledger_);
  }
  TEMPO_ASSERT(step_update_ || spec_.update == UpdateMode::kSync);  // check_job() sees to it
  schedule_.emplace(spec_.schedule, spec_.learning_rate, length_.steps_per_epoch, spec_.epochs);

  auto bypass = LogitBypass::apply(graph, loss_.kind);
  if (!bypass.ok()) return bypass.error();
  bypass_.emplace(std::move(*bypass));

  const auto training_executor = [&](std::int64_t batch, std::unique_ptr<Executor>& out) -> Status {
    auto executor =
        make_executor(graph, batch, StepMode::kTraining, spec_.seed, *factory_, pool, *ledger_);
    if (!executor.ok()) return executor.error();
    out = std::move(*executor);
    return {};
  };
  if (length_.has_full_batches) TEMPO_RETURN_IF_ERROR(training_executor(spec_.batch, full_));
  if (length_.rest > 0) TEMPO_RETURN_IF_ERROR(training_executor(length_.rest, last_));
  if (!data_->test.empty()) {
    auto test = InputBatches::create(data_->test, normalisation, *model, {}, spec_.seed, pool);
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
  for (std::int64_t e = 0; e < spec_.epochs && done < length_.steps; ++e) {
    Epoch epoch;
    epoch.index = e;
    const auto order = epoch_order(spec_.seed, static_cast<std::uint32_t>(e), count);
    for (std::int64_t first = 0; first < count && done < length_.steps;
         first += length_.step_samples) {
      if (cancel.load(std::memory_order_relaxed)) {
        TEMPO_RETURN_IF_ERROR(settle());
        return interrupted();
      }
      const auto start = Clock::now();
      const auto size = static_cast<std::size_t>(std::min(length_.step_samples, count - first));
      const auto samples = std::span(order).subspan(static_cast<std::size_t>(first), size);
      if (Status status = step(epoch, samples, history); !status.ok()) return status;
      history.train_seconds += seconds_since(start);
      ++done;
      if (on_progress) on_progress(progress(epoch, history));
    }
    TEMPO_RETURN_IF_ERROR(settle());
    if (epoch.train.samples == count * rows_) ++history.epochs_done;
    if (evaluation_) TEMPO_RETURN_IF_ERROR(evaluate(cancel, on_progress, epoch, history));
  }
  return {};
}

Status Trainer::step(Epoch& epoch, std::span<const std::uint32_t> samples,
                     TrainingHistory& history) {
  const auto batch_size = static_cast<std::size_t>(spec_.batch);
  // Numbers the batches of the whole run: no two of them have the same dropout.
  std::uint64_t number = history.loss.size() * static_cast<std::uint64_t>(spec_.accumulate);
  const double rate = schedule_->rate(history.loss.size());
  if (step_update_) TEMPO_RETURN_IF_ERROR(begin_update(samples.size(), rate));
  LossSums sums;
  Gradients gradients;
  if (sum_) sum_->reset();
  for (std::size_t first = 0; first < samples.size(); first += batch_size, ++number) {
    const auto part = samples.subspan(first, std::min(batch_size, samples.size() - first));
    auto executor = batch(epoch, part, number, static_cast<std::int64_t>(samples.size()), sums);
    if (!executor.ok()) return at_step(executor.error(), epoch.index, history.loss.size());
    if (step_update_) continue;
    gradients = parameters_->gradients(
        [&executor](TensorId parameter) { return (*executor)->gradient(parameter); });
    if (!sum_) continue;
    const TimeScope time(*ledger_, TimeKind::kUpdate);
    sum_->add(gradients);
    gradients = sum_->gradients();
  }
  if (Status status = update(gradients, rate); !status.ok()) {
    return at_step(status.error(), epoch.index, history.loss.size());
  }
  if (epoch.train.samples == 0) history.train.emplace_back();
  epoch.train.add(sums);
  history.train.back() = metrics_of(loss_.kind, classes_, epoch.train);
  history.loss.push_back(sums.mean_loss());
  history.images += static_cast<std::int64_t>(samples.size());
  return {};
}

Result<Executor*> Trainer::batch(const Epoch& epoch, std::span<const std::uint32_t> samples,
                                 std::uint64_t number, std::int64_t step_samples, LossSums& sums) {
  Executor& executor = executor_for(samples.size());
  {
    const TimeScope time(*ledger_, TimeKind::kData);
    train_batches_->fill(samples, static_cast<std::uint32_t>(epoch.index), executor);
    data_->train.targets(samples, targets_);
  }
  TEMPO_RETURN_IF_ERROR(executor.forward(number));
  {
    const TimeScope time(*ledger_, TimeKind::kNonLinear);
    const auto loss = evaluate_loss(loss_, executor.output(), classes_, targets_,
                                    step_samples * rows_, executor.d_output());
    if (!loss.ok()) return loss.error();
    sums.add(*loss);
  }
  TEMPO_RETURN_IF_ERROR(executor.backward(step_update_ ? &*step_update_ : nullptr));
  return &executor;
}

Executor& Trainer::executor_for(std::size_t samples) {
  return static_cast<std::int64_t>(samples) == spec_.batch ? *full_ : *last_;
}

// An executor's late gradients do not outlast the start of another one.
Status Trainer::begin_update(std::size_t samples, double rate) {
  Executor& executor = executor_for(samples);
  if (&executor != updating_) TEMPO_RETURN_IF_ERROR(settle());
  updating_ = &executor;
  step_update_->begin(rate, executor);
  return {};
}

Status Trainer::settle() {
  if (updating_ == nullptr) return {};
  TEMPO_RETURN_IF_ERROR(updating_->settle());
  step_update_->settle(*updating_);
  return {};
}

Status Trainer::update(const Gradients& gradients, double rate) {
  if (step_update_) {
    step_update_->finish(*updating_);
    return {};
  }
  const TimeScope time(*ledger_, TimeKind::kUpdate);
  double scale = 1;
  if (spec_.clip_norm > 0) {
    const auto factor = clip_factor(global_norm(*parameters_, gradients), spec_.clip_norm);
    if (!factor.ok()) return factor.error();
    scale = *factor;
  }
  optimizer_->step(rate, gradients, scale);
  return {};
}

Status Trainer::evaluate(const std::atomic<bool>& cancel, const OnProgress& on_progress,
                         Epoch& epoch, TrainingHistory& history) {
  const auto start = Clock::now();
  epoch.evaluating = true;
  const auto on_batch = [&](std::span<const std::uint32_t> samples,
                            std::span<const float> outputs) -> Status {
    data_->test.targets(samples, targets_);
    const auto loss =
        evaluate_loss(loss_, outputs, classes_, targets_, data_->test.size() * rows_, {});
    if (!loss.ok()) {
      Error error = loss.error();
      error.where = "evaluation after epoch " + std::to_string(epoch.index + 1);
      return error;
    }
    epoch.test.add(*loss);
    if (on_progress) on_progress(progress(epoch, history));
    return {};
  };
  Status status = evaluation_->run(*test_batches_, data_->test.size(), cancel, on_batch);
  history.evaluate_seconds += seconds_since(start);
  if (!status.ok()) return status;
  history.test.push_back(metrics_of(loss_.kind, classes_, epoch.test));
  return {};
}

TrainProgress Trainer::progress(const Epoch& epoch, const TrainingHistory& history) const {
  TrainProgress p;
  p.phase = epoch.evaluating ? TrainProgress::Phase::kEvaluation : TrainProgress::Phase::kTraining;
  p.epoch = epoch.index + 1;
  p.epochs = spec_.epochs;
  p.step = static_cast<std::int64_t>(history.loss.size());
  p.total_steps = length_.steps;
  p.loss = history.loss.empty() ? 0 : history.loss.back();
  const LossSums& sums = epoch.evaluating ? epoch.test : epoch.train;
  if (sums.samples > 0) p.epoch_so_far = metrics_of(loss_.kind, classes_, sums);
  if (!history.test.empty()) p.test = history.test.back();
  p.learning_rate = p.step > 0 ? schedule_->rate(p.step - 1) : 0;
  if (history.train_seconds > 0 && p.step > 0) {
    p.images_per_second = static_cast<double>(history.images) / history.train_seconds;
    p.eta_s = history.train_seconds / static_cast<double>(p.step) *
              static_cast<double>(p.total_steps - p.step);
  }
  if (!history.test.empty()) {
    const auto done = static_cast<std::int64_t>(history.test.size());
    const std::int64_t all = (length_.steps - 1) / length_.steps_per_epoch + 1;
    p.eta_s +=
        history.evaluate_seconds / static_cast<double>(done) * static_cast<double>(all - done);
  }
  p.checks = factory_->checks();
  return p;
}

}  // namespace tempo
