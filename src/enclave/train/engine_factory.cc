#include "enclave/train/engine_factory.h"

namespace tempo {

Result<std::unique_ptr<Executor>> make_executor(Graph& graph, std::int64_t batch, StepMode mode,
                                                std::uint64_t seed, EngineFactory& factory,
                                                ThreadPool& pool, TimeLedger& ledger) {
  ExecutorOptions options;
  options.batch = batch;
  options.mode = mode;
  options.channel_block = factory.channel_block();
  options.defers_weight_gradients = factory.defers_weight_gradients();
  options.allows_late_gradients = factory.allows_late_gradients();
  options.seed = seed;
  const auto ops = Executor::linear_ops(graph, options);
  if (!ops.ok()) return ops.error();
  const auto engine = factory.engine_for(*ops, mode);
  if (!engine.ok()) return engine.error();
  return Executor::create(graph, options, **engine, pool, ledger);
}

}  // namespace tempo
