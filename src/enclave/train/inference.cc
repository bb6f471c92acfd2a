#include "enclave/train/inference.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <numeric>
#include <string>
#include <utility>

#include "enclave/train/loss.h"

namespace tempo {

Result<std::unique_ptr<InferencePass>> InferencePass::create(Graph& graph, std::int64_t batch,
                                                             EngineFactory& factory,
                                                             ThreadPool& pool, TimeLedger& ledger) {
  auto executor = make_executor(graph, batch, StepMode::kInference, 0, factory, pool, ledger);
  if (!executor.ok()) return executor.error();
  return std::unique_ptr<InferencePass>(new InferencePass(std::move(*executor), ledger));
}

Status InferencePass::run(const InputBatches& batches, std::int64_t count,
                          const std::atomic<bool>& cancel, const OnBatch& on_batch) {
  const std::int64_t batch = executor_->batch();
  const std::size_t a_sample = executor_->output().size() / static_cast<std::size_t>(batch);
  std::vector<std::uint32_t> samples;
  std::uint64_t step = 0;
  for (std::int64_t first = 0; first < count; first += batch, ++step) {
    if (cancel.load(std::memory_order_relaxed)) {
      return Error{ErrorCode::kInterrupted, "stopped by the user", "", "", "", ""};
    }
    const std::int64_t size = std::min(batch, count - first);
    samples.resize(static_cast<std::size_t>(size));
    std::iota(samples.begin(), samples.end(), static_cast<std::uint32_t>(first));
    {
      TimeScope time(*ledger_, TimeKind::kData);
      batches.fill(samples, 0, *executor_);
    }
    TEMPO_RETURN_IF_ERROR(executor_->forward(step));
    TEMPO_RETURN_IF_ERROR(
        on_batch(samples, executor_->output().first(static_cast<std::size_t>(size) * a_sample)));
  }
  return {};
}

Result<Predictions> infer(Graph& graph, const Dataset& data, const Normalisation& normalisation,
                          const InferOptions& options, EngineFactory& factory, ThreadPool& pool,
                          TimeLedger& ledger) {
  if (options.batch < 1) {
    return Error{ErrorCode::kUsage, "the batch size makes no sense", "batch",
                 "1 or more",       std::to_string(options.batch),   "correct this value"};
  }
  if (data.empty()) {
    return Error{
        ErrorCode::kBadData, "there is nothing to predict", "data", "at least one sample", "none",
        "send a test set"};
  }
  const auto model = describe_model(graph);
  if (!model.ok()) return model.error();
  TEMPO_RETURN_IF_ERROR(check_fits(data, *model));
  if (data.has_labels()) {
    TEMPO_RETURN_IF_ERROR(
        check_targets(data, LossKind::kCrossEntropy, model->rows, model->classes));
  }
  const auto batches = InputBatches::create(data, normalisation, *model, {}, 0, pool);
  if (!batches.ok()) return batches.error();

  Predictions predictions;
  predictions.samples = data.size();
  predictions.classes = model->classes;
  predictions.shape = {data.size()};
  predictions.shape.insert(predictions.shape.end(), model->output.begin(), model->output.end());
  const auto width = static_cast<std::size_t>(model->classes);
  const auto rows = static_cast<std::size_t>(model->rows);
  try {
    predictions.values.resize(static_cast<std::size_t>(data.size()) * rows * width);
  } catch (const std::exception&) {  // bad_alloc, length_error
    return Error{ErrorCode::kOutOfMemory,
                 "the predictions do not fit in memory",
                 "",
                 "",
                 shape_to_string(predictions.shape),
                 "predict fewer samples at a time"};
  }
  auto pass =
      InferencePass::create(graph, std::min(options.batch, data.size()), factory, pool, ledger);
  if (!pass.ok()) return pass.error();

  static const std::atomic<bool> kNever{false};
  const auto start = std::chrono::steady_clock::now();
  std::int64_t correct = 0;
  const auto on_batch = [&](std::span<const std::uint32_t> samples,
                            std::span<const float> outputs) {
    const auto first = static_cast<std::int64_t>(samples.front());
    const auto count = static_cast<std::int64_t>(samples.size());
    std::copy(
        outputs.begin(), outputs.end(),
        predictions.values.begin() + static_cast<std::ptrdiff_t>(samples.front() * rows * width));
    for (std::size_t i = 0; data.has_labels() && i < samples.size() * rows; ++i) {
      const std::int64_t best = argmax(outputs.subspan(i * width, width));
      if (best == data.labels()[samples.front() * rows + i]) ++correct;
    }
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    predictions.seconds = passed.count();
    if (options.on_progress) {
      const double rate = static_cast<double>(first + count) / std::max(passed.count(), 1e-9);
      options.on_progress({first + count, data.size(), rate,
                           static_cast<double>(data.size() - first - count) / rate,
                           factory.checks()});
    }
    return Status();
  };
  TEMPO_RETURN_IF_ERROR((*pass)->run(
      *batches, data.size(), options.cancel != nullptr ? *options.cancel : kNever, on_batch));
  if (data.has_labels()) {
    predictions.accuracy = static_cast<double>(correct) / static_cast<double>(data.labels().size());
  }
  return predictions;
}

}  // namespace tempo
