// File: lab/reordered_engine.h
// Linear operators inside the enclave with the terms of every sum in the opposite order: as right
// as any other way, and slow. How far its losses are from those of the product's engine is how far
// apart two honest ways to compute the same training are. Never part of a product program.
#pragma once

#include <vector>

#include "enclave/offload/linear.h"

namespace tempo::lab {

// Takes what LocalEngine takes, with channels last. Thread-compatible; no state.
class ReorderedEngine final : public LinearEngine {
 public:
  Status begin_step(StepMode /*mode*/) override { return {}; }
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override;
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input, bool may_defer) override;
  Status end_step() override { return {}; }
};

}  // namespace tempo::lab
