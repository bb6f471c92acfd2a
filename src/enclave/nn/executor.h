// File: enclave/nn/executor.h
// Runs one static plan: forward and backward of a graph for one batch size, in one arena whose
// offsets are fixed before the first step.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/offload/linear.h"

namespace tempo {

struct ExecutorOptions {
  std::int64_t batch = 1;
  StepMode mode = StepMode::kTraining;
  // Channel blocking for rank-4 activations (local scheme): 0 = channels last, 8 or 16 = oneDNN's.
  int channel_block = 0;
  // Engines may await a layer's weight gradients while the layer before it goes backward: what they
  // are made of is kept that long.
  bool defers_weight_gradients = false;
  std::uint64_t seed = 0;  // dropout
};

// Graph and engine must outlive the executor. One thread at a time.
class Executor {
 public:
  // Training computes the graph's first output alone. Errors: those of make_step_plan
  // (step_plan.h); kOutOfMemory.
  static Result<std::unique_ptr<Executor>> create(Graph& graph, const ExecutorOptions& options,
                                                  LinearEngine& engine, ThreadPool& pool,
                                                  TimeLedger& ledger);
  ~Executor();

  // The graph's linear operators in forward order, for the planner. Also available without memory:
  static Result<std::vector<LinearOp>> linear_ops(const Graph& graph,
                                                  const ExecutorOptions& options);
  // Bytes of arena that create() would allocate (activations, gradients of activations, saved).
  static Result<std::int64_t> arena_bytes(const Graph& graph, const ExecutorOptions& options);

  // The graph's inputs: in ONNX's order, images (rank 4) channels last. All are to be filled before
  // forward(). Preconditions: the input's type.
  std::size_t input_count() const;
  DataType input_type(std::size_t i = 0) const;
  std::span<float> input(std::size_t i = 0);
  std::span<std::int64_t> input_ints(std::size_t i = 0);
  std::int64_t batch() const;
  std::int64_t classes() const;  // columns of the first output: its last dimension

  Status forward(std::uint64_t step);
  // In ONNX's order, valid until the next forward. Precondition: the output's type.
  std::size_t output_count() const;
  const Shape& output_shape(std::size_t i = 0) const;
  std::span<const float> output(std::size_t i = 0) const;
  std::span<const std::int64_t> output_ints(std::size_t i = 0) const;
  std::span<float> d_output();  // of the first output; to be filled before backward()
  Status backward();
  // Gradient of a kParameter, in its storage layout; valid until the next backward.
  std::span<const float> gradient(TensorId parameter) const;

 private:
  Executor();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tempo
