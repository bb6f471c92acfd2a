// File: enclave/nn/ops/onnx_ordered.h
// Tensors in ONNX's order for operators that work on their last dimensions: where they lie when
// they lie so, else beside it.
// Thread safety: as of the pool that they are given.
#pragma once

#include "base/buffer.h"
#include "enclave/nn/feature_view.h"

namespace tempo {

// An operand: a copy where it lies otherwise.
class OnnxOrdered {
 public:
  OnnxOrdered(ThreadPool& pool, const Shape& shape, int block, const float* data) : data_(data) {
    if (is_onnx_order(shape, block)) return;
    copy_ = AlignedBuffer<float>(static_cast<std::size_t>(element_count(shape)));
    to_onnx_order(pool, shape, block, data, copy_.data());
    data_ = copy_.data();
  }
  const float* data() const { return data_; }

 private:
  AlignedBuffer<float> copy_;
  const float* data_;
};

// A result: made at data(), by adding when accumulates(), and in its place after finish(). `shape`
// must outlive it.
class OnnxOrderedResult {
 public:
  OnnxOrderedResult(ThreadPool& pool, const Shape& shape, int block, float* data, bool accumulate)
      : pool_(pool), shape_(shape), block_(block), data_(data), accumulate_(accumulate) {
    if (!is_onnx_order(shape, block)) {
      own_ = AlignedBuffer<float>(static_cast<std::size_t>(element_count(shape)));
    }
  }
  float* data() { return is_direct() ? data_ : own_.data(); }
  bool accumulates() const { return is_direct() && accumulate_; }
  void finish() {
    if (!is_direct()) from_onnx_order(pool_, shape_, block_, own_.data(), data_, accumulate_);
  }

 private:
  bool is_direct() const { return own_.size() == 0; }

  ThreadPool& pool_;
  const Shape& shape_;
  int block_;
  float* data_;
  bool accumulate_;
  AlignedBuffer<float> own_;
};

}  // namespace tempo
