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
  // Weight gradients that the end of a step would have to wait for come with the next step.
  bool allows_late_gradients = false;
  std::uint64_t seed = 0;  // dropout
};

// Is told, while a step goes backward, what of it is over: parameters may be updated then. It works
// when the engine has to wait.
class GradientReader : public IdleWork {
 public:
  // The gradient is complete, and this step reads the parameter's values no more.
  virtual void on_finished(TensorId parameter, std::span<const float> gradient) = 0;
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
  // reader: may be null. It is told of some parameters, in an order that is always the same; what
  // it is not told of is finished when this returns, as far as it has a gradient().
  Status backward(GradientReader* reader = nullptr);
  // Gradient of a kParameter, in its storage layout; valid until the next backward. Of a late one:
  // that of the backward before the last, and after settle() that of the last; empty where there is
  // none that has not been there before.
  std::span<const float> gradient(TensorId parameter) const;
  // Parameters whose gradients come a step late: fixed, none without allows_late_gradients.
  const std::vector<TensorId>& late_parameters() const;
  // Waits for their gradients. Before weights are read by anybody else, or another executor runs.
  Status settle();

 private:
  Executor();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tempo
