// File: enclave/train/step_update.h
// The update of a step, off its critical path: a parameter follows its gradient as soon as backward
// is done with it, in the time that would be spent waiting for workers; the rest follows when the
// pass is over. Weights and states get the same bits as from Optimizer::step.
//
// Late parameters (executor.h) follow by the gradient of the step before, with that step's rate and
// number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/train/optimizer.h"
#include "enclave/train/parameters.h"

namespace tempo {

// One thread at a time.
class StepUpdate final : public GradientReader {
 public:
  // All must outlive it.
  StepUpdate(const Parameters& parameters, Optimizer& optimizer, ThreadPool& pool,
             TimeLedger& ledger);

  // Before the backward pass of this executor that it is then given to.
  void begin(double rate, const Executor& executor);
  void on_finished(TensorId parameter, std::span<const float> gradient) override;
  bool do_some() override;
  // After the pass: what is left.
  void finish(const Executor& executor);
  // After Executor::settle(): late parameters follow by the last step.
  void settle(const Executor& executor);

 private:
  struct Finished {
    std::size_t parameter = 0;
    std::span<const float> gradient;
  };
  // Pieces from number begin up to end, of one parameter.
  void update(std::size_t begin, std::size_t end, std::span<const float> gradient,
              const UpdateStep& step);
  // That the gradient of parameter k is from.
  const UpdateStep& step_of(std::size_t k) const { return is_late_[k] ? step_before_ : step_; }

  const Parameters* parameters_;
  Optimizer* optimizer_;
  ThreadPool* pool_;
  TimeLedger* ledger_;
  UpdateStep step_;
  UpdateStep step_before_;
  std::vector<bool> is_late_;      // by parameter
  std::vector<std::size_t> next_;  // by parameter: its first piece that is not updated yet
  std::deque<Finished> waiting_;   // those that have such pieces
};

}  // namespace tempo
