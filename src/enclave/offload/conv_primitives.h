// File: enclave/offload/conv_primitives.h
// One convolution by oneDNN's compiled kernels. The heavy header stays out of here.
#pragma once

#include <array>
#include <memory>

#include "base/buffer.h"
#include "enclave/offload/linear.h"

namespace tempo {

// Scratch memory that an engine's convolutions take turns with. It grows to the largest need.
class ConvWorkspace {
 public:
  enum Use { kSource, kWeights, kResult, kScratchpad, kUses };
  std::byte* get(Use use, std::size_t bytes) {
    AlignedBuffer<std::byte>& buffer = buffers_[use];
    if (buffer.size() < bytes) buffer = AlignedBuffer<std::byte>(bytes);
    return buffer.data();
  }

 private:
  std::array<AlignedBuffer<std::byte>, kUses> buffers_;
};

// Kernels are compiled at first use and kept. Operands are in the layouts that the operator names;
// weights are (O, kh, kw, I), I: input channels of one group. Each call returns false, having done
// nothing, when oneDNN has only its slow reference implementation. One thread at a time.
class ConvPrimitives {
 public:
  // The workspace must outlive this.
  ConvPrimitives(const LinearOp& op, ConvWorkspace& workspace);
  ~ConvPrimitives();

  bool forward(const float* input, const float* weights, const float* bias, float* output);
  bool backward_weights(const float* input, const float* d_output, float* d_weights);
  bool backward_input(const float* weights, const float* d_output, float* d_input);

  // Channels last to and from the layout with `block` (feature_view.h).
  static void reorder(const ConvGeometry& geometry, bool is_input, int from_block,
                      const float* from, int to_block, float* to);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tempo
