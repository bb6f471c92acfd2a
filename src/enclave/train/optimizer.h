// File: enclave/train/sgd.h
// Stochastic gradient descent with momentum and weight decay, as torch.optim.SGD computes it with
// dampening 0 and without Nesterov's term:
//   g = gradient + weight_decay * w;  v = momentum * v + g;  w = w - rate * v
// The state v begins at zero and lives in enclave memory; without momentum there is none.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"

namespace tempo {

struct SgdOptions {
  double momentum = 0;
  double weight_decay = 0;  // on every parameter
};

// One pass over memory. A precondition: all spans have the same size, or velocity is empty
// (momentum 0).
void sgd_update(std::span<float> weights, std::span<const float> gradient,
                std::span<float> velocity, double rate, const SgdOptions& options);

// Updates all parameters (TensorKind::kParameter) of a graph, which must outlive it. One thread at
// a time.
class Sgd {
 public:
  // Error kUsage: a negative or non-finite momentum or weight decay.
  static Result<Sgd> create(Graph& graph, const SgdOptions& options, ThreadPool& pool);

  // gradient_of(parameter) is called once for each parameter, by the calling thread, and gives as
  // many values as the parameter has, valid until step() returns.
  void step(double rate, const std::function<std::span<const float>(TensorId)>& gradient_of);

  std::uint64_t state_bytes() const;

 private:
  struct Piece;  // of one parameter: a chunk of work
  Sgd(Graph& graph, const SgdOptions& options, ThreadPool& pool);

  Graph* graph_;
  SgdOptions options_;
  ThreadPool* pool_;
  std::vector<TensorId> parameters_;
  std::vector<AlignedBuffer<float>> velocity_;  // by position in parameters_
};

}  // namespace tempo
