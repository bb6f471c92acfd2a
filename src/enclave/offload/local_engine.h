// File: enclave/offload/local_engine.h
// Linear operators inside the enclave: oneDNN's convolutions in the layout that the plan chose, and
// gemm() for fully connected layers. The whole of the scheme `local` (the paper's Pure TEE), and
// what the offload engine keeps inside. The parts of a stack are done one after the other: nothing
// is encoded here, so that a stack saves nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/offload/linear.h"

namespace tempo {

// oneDNN's fastest channel blocking on this processor: 16 with AVX-512, 8 with AVX2, else 0
// (channels last).
int preferred_channel_block();

class ConvWorkspace;

// What a LocalEngine will take of memory besides the operands it is given, known before it runs:
// copies of operands in oneDNN's layouts and its scratchpads, which operators take turns with.
class LocalScratch {
 public:
  // `adds_input`: the operator's input gradient is added to one that is there.
  void include(const LinearOp& op, bool adds_input);
  std::uint64_t bytes() const;

 private:
  std::vector<std::uint64_t> most_;  // by use, the largest of all operators
};

class LocalEngine final : public LinearEngine {
 public:
  // Both must outlive the engine. Sets the number of OpenMP threads to that of the pool.
  LocalEngine(ThreadPool& pool, TimeLedger& ledger);
  ~LocalEngine() override;

  Status begin_step(StepMode mode) override;
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override;
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input, bool may_defer) override;
  Status end_step() override { return {}; }

 private:
  class Convolution;  // of one geometry
  Convolution& convolution(const LinearOp& op);
  void forward_part(const LinearOp& op, const float* input, const ForwardPart& part);
  void backward_part(const LinearOp& op, const float* input, const BackwardPart& part,
                     float* d_input, bool accumulate_input);

  ThreadPool& pool_;
  TimeLedger& ledger_;
  std::unique_ptr<ConvWorkspace> workspace_;
  AlignedBuffer<float> sum_;  // an input gradient that is to be added to another
  std::map<std::vector<std::int64_t>, std::unique_ptr<Convolution>> convolutions_;
};

}  // namespace tempo
