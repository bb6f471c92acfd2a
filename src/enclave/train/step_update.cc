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
  next_.clear();
  for (std::size_t k = 0; k < parameters_->size(); ++k)
    next_.push_back(parameters_->first_piece(k));
  waiting_.clear();
}

void StepUpdate::on_finished(TensorId parameter, std::span<const float> gradient) {
  waiting_.push_back({parameters_->index_of(parameter), gradient});
}

bool StepUpdate::do_some() {
  if (waiting_.empty()) return false;
  const auto& [k, gradient] = waiting_.front();
  const std::size_t last = parameters_->first_piece(k + 1);
  const std::size_t end = std::min(last, next_[k] + static_cast<std::size_t>(pool_->threads()));
  update(next_[k], end, gradient, step_of(k));
  next_[k] = end;
  if (end == last) waiting_.pop_front();
  return true;
}

void StepUpdate::update(std::size_t begin, std::size_t end, std::span<const float> gradient,
                        const UpdateStep& step) {
  const TimeScope time(*ledger_, TimeKind::kUpdate);
  parameters_->for_pieces(begin, end, [&](const Parameters::Piece& piece, std::size_t) {
    optimizer_->update_piece(step, piece, gradient);
  });
}

// In one go: threads need not wait for each other after every few pieces.
void StepUpdate::finish(const Executor& executor) {
  waiting_.clear();
  const TimeScope time(*ledger_, TimeKind::kUpdate);
  const Gradients gradients =
      parameters_->gradients([&](TensorId parameter) { return executor.gradient(parameter); });
  parameters_->for_each_piece([&](const Parameters::Piece& piece, std::size_t number) {
    const std::size_t k = piece.parameter;
    if (number < next_[k] || gradients[k].empty()) return;
    optimizer_->update_piece(step_of(k), piece, gradients[k]);
  });
}

void StepUpdate::settle(const Executor& executor) {
  for (const TensorId id : executor.late_parameters()) {
    const std::span<const float> gradient = executor.gradient(id);
    if (gradient.empty()) continue;
    const std::size_t k = parameters_->index_of(id);
    update(parameters_->first_piece(k), parameters_->first_piece(k + 1), gradient, step_);
  }
}

}  // namespace tempo
