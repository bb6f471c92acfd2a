#include "enclave/train/step_update.h"

#include <algorithm>

namespace tempo {

StepUpdate::StepUpdate(const Parameters& parameters, Optimizer& optimizer, ThreadPool& pool,
                       TimeLedger& ledger)
    : parameters_(&parameters), optimizer_(&optimizer), pool_(&pool), ledger_(&ledger) {}

void StepUpdate::begin(double rate, const Executor& executor) {
  step_before_ = step_;
  step_ = optimizer_->begin_step(rate);
  is_late_.assign(parameters_->size(), false);
  for (const TensorId id : executor.late_parameters()) is_late_[parameters_->index_of(id)] = true;
  is_told_.assign(parameters_->size(), false);
  waiting_.clear();
}

void StepUpdate::on_finished(TensorId parameter, std::span<const float> gradient) {
  const std::size_t k = parameters_->index_of(parameter);
  is_told_[k] = true;
  waiting_.push_back({parameters_->first_piece(k), parameters_->first_piece(k + 1),
                      is_late_[k] ? step_before_ : step_, gradient});
}

bool StepUpdate::do_some() {
  if (waiting_.empty()) return false;
  const TimeScope time(*ledger_, TimeKind::kUpdate);
  PieceRange& range = waiting_.front();
  const std::size_t end =
      std::min(range.end, range.begin + static_cast<std::size_t>(pool_->threads()));
  parameters_->for_pieces(range.begin, end, [&](const Parameters::Piece& piece, std::size_t) {
    optimizer_->update_piece(range.step, piece, range.gradient);
  });
  range.begin = end;
  if (range.begin == range.end) waiting_.pop_front();
  return true;
}

void StepUpdate::finish(const Executor& executor) {
  const Gradients gradients =
      parameters_->gradients([&](TensorId parameter) { return executor.gradient(parameter); });
  while (do_some()) {
  }
  const TimeScope time(*ledger_, TimeKind::kUpdate);
  parameters_->for_each_piece([&](const Parameters::Piece& piece, std::size_t) {
    const std::size_t k = piece.parameter;
    if (is_told_[k] || gradients[k].empty()) return;
    optimizer_->update_piece(is_late_[k] ? step_before_ : step_, piece, gradients[k]);
  });
}

void StepUpdate::settle(const Executor& executor) {
  for (const TensorId id : executor.late_parameters()) {
    const std::span<const float> gradient = executor.gradient(id);
    if (gradient.empty()) continue;
    const std::size_t k = parameters_->index_of(id);
    waiting_.push_back(
        {parameters_->first_piece(k), parameters_->first_piece(k + 1), step_, gradient});
  }
  while (do_some()) {
  }
}

}  // namespace tempo
