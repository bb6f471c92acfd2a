// File: enclave/offload/linear.h
// Linear operators: what a convolution or fully connected layer is once it is lowered to a matrix
// product, and the interface of whatever computes it (inside the enclave, or on workers).
//
// Lowering (paper section III): with positions as rows,
//   forward          Z  (p x m) = X (p x n) W^T        W is m x n
//   weight gradient  dW (m x n) = D^T (m x p) X        D = dL/dZ, p x m
//   input gradient   dX (p x n) = D W
// For a convolution X is im2col of the input, never materialised in enclave memory; n orders as
// (kernel row, kernel column, input channel).
//
// A convolution of several groups is as many such products as it has groups, of a share of the
// channels each, and no single one: it stays inside the enclave.
//
// Layers that read the same X are one operator with their out-features side by side: X is encoded
// once, and dX comes back as one sum. Weights, results and gradients of these parts stay where each
// layer has them.
//
// A batched product of two activations, as attention has them, is an operator of many instances:
// products of one geometry that share nothing. The right operand stands for the weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace tempo {

// A fully connected layer is the 1x1 convolution of a 1x1 image. Channels last throughout. With
// groups, out-feature o reads the in_c / groups input channels of group o / (out_c / groups).
struct ConvGeometry {
  std::int64_t batch = 1;
  std::int64_t in_h = 1, in_w = 1, in_c = 1;
  std::int64_t out_h = 1, out_w = 1, out_c = 1;
  std::int64_t kernel_h = 1, kernel_w = 1;
  std::int64_t stride_h = 1, stride_w = 1;
  std::int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  std::int64_t dilation_h = 1, dilation_w = 1;
  std::int64_t groups = 1;  // divides in_c and out_c

  std::int64_t m() const { return out_c; }
  std::int64_t n() const { return kernel_h * kernel_w * (in_c / groups); }
  std::int64_t p() const { return batch * out_h * out_w; }
  std::int64_t multiply_adds() const { return m() * n() * p(); }
  std::int64_t input_elements() const { return batch * in_h * in_w * in_c; }
  // X is the input itself, row for row: no im2col.
  bool is_direct() const {
    return groups == 1 && kernel_h == 1 && kernel_w == 1 && stride_h == 1 && stride_w == 1 &&
           pad_top == 0 && pad_left == 0 && pad_bottom == 0 && pad_right == 0;
  }
  bool is_fully_connected() const { return is_direct() && in_h == 1 && in_w == 1; }
  bool operator==(const ConvGeometry&) const = default;
};

// One layer of a stack.
struct LinearPart {
  std::string name;           // node name
  std::int64_t features = 0;  // out-features
};

struct LinearOp {
  int index = 0;     // position among the graph's linear operators, forward order
  std::string name;  // node names; never leaves the enclave except to the client
  ConvGeometry geometry;
  std::vector<LinearPart> parts;  // of a stack, in order: geometry.m() features. Empty: one layer
  // Products of two activations: how many there are of `geometry`, and that they are such. Input,
  // weights (m x n each) and output lie instance by instance; there are no parts.
  std::int64_t instances = 1;
  bool of_activations = false;
  bool needs_input_gradient = true;   // false when nothing trainable lies upstream
  bool needs_weight_gradient = true;  // false when the weights are not trained
  bool has_backward() const { return needs_input_gradient || needs_weight_gradient; }
  // Channel blocking of input and output in memory (oneDNN's nChw8c has 8). 0 = channels last.
  // Only the local engine accepts anything but 0.
  int input_block = 0;
  int output_block = 0;

  std::int64_t multiply_adds() const { return instances * geometry.multiply_adds(); }
};

// Column means and sums of squared deviations of Z, for the BatchNormalization that follows.
// Merged over tiles in a fixed order with Chan's formula, float64.
struct ColumnMoments {
  std::int64_t count = 0;
  std::vector<double> mean;
  std::vector<double> m2;
  void reset(std::int64_t columns);
  void merge(std::int64_t other_count, const double* other_mean, const double* other_m2);
};

// What an engine is given for a part with f out-features. Pointers are borrowed.
struct ForwardPart {
  const float* weights = nullptr;    // f x n
  const float* bias = nullptr;       // f, or null
  float* output = nullptr;           // p x f, overwritten
  ColumnMoments* moments = nullptr;  // null, or filled: of the output, bias included
};
struct BackwardPart {
  const float* weights = nullptr;
  const float* d_output = nullptr;  // p x f
  float* d_weights = nullptr;       // f x n, overwritten; null for all parts when not needed
};

enum class StepMode {
  kTraining,   // backward follows; keep what it needs
  kInference,  // forward only
};

// What may be done while an engine waits for others.
class IdleWork {
 public:
  virtual ~IdleWork() = default;
  // Does a little of it, well below a millisecond. False when there is nothing to do.
  virtual bool do_some() = 0;
};

// Computes linear operators. One thread calls it; it may use a ThreadPool inside. Calls within one
// step: begin_step, forward of every operator in order, (training) backward of every operator in
// reverse order, end_step.
class LinearEngine {
 public:
  virtual ~LinearEngine() = default;

  // Whether it computes this operator. Products of two activations may be left to the caller.
  virtual bool takes(const LinearOp& op) const { return !op.of_activations; }

  // What to do instead of waiting, from now on; null: nothing. It must not call the engine.
  virtual void offer(IdleWork* /*work*/) {}

  virtual Status begin_step(StepMode mode) = 0;

  // The weights, by part, that forward will be given for a layer in this step: whoever has time may
  // prepare them. They stay as they are until end_step.
  virtual void announce(const LinearOp& /*op*/, const std::vector<const float*>& /*weights*/) {}

  // input: the operator's input tensor (batch*in_h*in_w rows of in_c). parts: as many as the
  // operator has, in order.
  virtual Status forward(const LinearOp& op, const float* input,
                         const std::vector<ForwardPart>& parts) = 0;

  // `input` and weights are those of forward, unchanged. d_input has the input's shape; null when
  // not needed; added to when `accumulate_input`, else overwritten. With may_defer, weight
  // gradients may be written, and everything given here be read, until the next call of backward
  // or end_step returns.
  virtual Status backward(const LinearOp& op, const float* input,
                          const std::vector<BackwardPart>& parts, float* d_input,
                          bool accumulate_input, bool may_defer) = 0;

  virtual Status end_step() = 0;

  // Whether backward may return before the weight gradients of this operator are there.
  virtual bool defers(const LinearOp& /*op*/) const { return false; }
  // end_step() that does not wait for deferred weight gradients: they may be written until the next
  // step's first backward, or settle(), returns. Nothing else that backward was given is read.
  virtual Status end_step_early() { return end_step(); }
  // Waits for what end_step_early() left.
  virtual Status settle() { return {}; }
};

}  // namespace tempo
