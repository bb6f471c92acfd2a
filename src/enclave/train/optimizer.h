// File: enclave/train/optimizer.h
// How weights follow gradients, as PyTorch computes it. With g = scale * gradient, t counting steps
// from 1, and states that begin at zero:
//
//   sgd    torch.optim.SGD, dampening 0, without Nesterov's term
//          g = g + decay * w;  v = momentum * v + g;  w = w - rate * v
//   adam   torch.optim.Adam, without amsgrad
//          g = g + decay * w
//          m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
//          w = w - rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
//   adamw  torch.optim.AdamW: w = w - rate * decay * w first, then adam without decay
//
// States live in enclave memory: one value a weight for sgd (none without momentum), else two.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"
#include "enclave/train/parameters.h"
#include "wire/job.h"

namespace tempo {

// Values of state that a weight has: 0 to 2.
int optimizer_state_values(const OptimizerSpec& spec);

struct UpdateStep {
  double rate = 0;
  double scale = 1;         // of the gradient
  std::int64_t number = 1;  // from 1
};

// One thread at a time.
class Optimizer {
 public:
  // `parameters` must outlive it. Error kUsage: a setting that makes no sense.
  static Result<Optimizer> create(const Parameters& parameters, const OptimizerSpec& spec);

  // Updates every parameter by `scale` times its gradient.
  void step(double rate, const Gradients& gradients, double scale = 1);
  // The same piece by piece, in any order: begin_step, then every piece once. Pieces may be updated
  // at the same time. gradient: of the whole parameter.
  UpdateStep begin_step(double rate, double scale = 1) { return {rate, scale, ++steps_}; }
  void update_piece(const UpdateStep& step, const Parameters::Piece& piece,
                    std::span<const float> gradient);

  std::uint64_t state_bytes() const;

 private:
  Optimizer(const Parameters& parameters, const OptimizerSpec& spec);

  const Parameters* parameters_;
  OptimizerSpec spec_;
  std::int64_t steps_ = 0;
  std::vector<std::array<AlignedBuffer<float>, 2>> state_;  // by parameter
};

// One update of a run of weights: what Optimizer does to every piece. All spans have the same size;
// the states that optimizer_state_values() does not count are empty.
struct UpdateRun {
  std::span<float> weights;
  std::span<const float> gradient;
  std::span<float> first;   // v of sgd, m of adam
  std::span<float> second;  // v of adam
};
void update(const OptimizerSpec& spec, const UpdateStep& step, const UpdateRun& run);

}  // namespace tempo
