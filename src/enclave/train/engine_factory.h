// File: enclave/train/engine_factory.h
// How the training loop gets what computes its linear operators.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/offload/linear.h"

namespace tempo {

struct CheckCounts {
  std::uint64_t done = 0;
  std::uint64_t failed = 0;
};

class EngineFactory {
 public:
  virtual ~EngineFactory() = default;

  // An engine for these operators; the factory owns it and keeps it as long as it lives itself. The
  // loop asks once for each executor: full batches, the last batch of an epoch, evaluation. They
  // are never used at the same time.
  virtual Result<LinearEngine*> engine_for(const std::vector<LinearOp>& ops, StepMode mode) = 0;

  // ExecutorOptions::channel_block of its engines.
  virtual int channel_block() const = 0;
  // ExecutorOptions::defers_weight_gradients of its engines.
  virtual bool defers_weight_gradients() const { return false; }
  // ExecutorOptions::allows_late_gradients of its engines.
  virtual bool allows_late_gradients() const { return false; }

  // Of all its engines so far, for the progress display.
  virtual CheckCounts checks() const { return {}; }
};

// An executor with an engine of its own. Errors: those of Executor and of the factory.
Result<std::unique_ptr<Executor>> make_executor(Graph& graph, std::int64_t batch, StepMode mode,
                                                std::uint64_t seed, EngineFactory& factory,
                                                ThreadPool& pool, TimeLedger& ledger);

}  // namespace tempo
