// File: enclave/nn/feature_view.h
// A tensor as rows of features, whatever its layout, so that operators that act on channels are
// written once.
//
// Rank-4 activations lie channels last (graph.h); or blocked, (N, C/b, H, W, b) in memory for
// logical (N, C, H, W), which is oneDNN's nChw8c or nChw16c; or in ONNX's order, where they are no
// images. `block` says which: 0, b, or kOnnxOrder.
// Thread safety: plain data and free functions.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "enclave/graph/graph.h"

namespace tempo {

inline constexpr int kOnnxOrder = -1;

// Memory is images x blocks x positions x width, contiguous. Channel of an element:
// block * width + (offset in the row). Where all channels of a position lie together, images and
// positions are one dimension (images = 1).
struct FeatureView {
  std::int64_t images = 1;
  std::int64_t blocks = 1;
  std::int64_t positions = 1;
  std::int64_t width = 1;

  std::int64_t channels() const { return blocks * width; }
  std::int64_t rows() const { return images * positions; }  // of every channel
  std::int64_t elements() const { return images * blocks * positions * width; }
  // Element offset of the first row at or after position `position` of an image.
  std::int64_t offset(std::int64_t image, std::int64_t block, std::int64_t position) const {
    return ((image * blocks + block) * positions + position) * width;
  }
  bool operator==(const FeatureView&) const = default;
};

// Channels are dimension 1. block: 0, kOnnxOrder, or a divisor of C (rank 4 only).
// Precondition: rank >= 2.
FeatureView feature_view(const Shape& shape, int block);

// Copies (or adds) between the layout above and ONNX's order. Tensors that are not of rank 4 are
// copied as they are. The arrays do not overlap.
void to_onnx_order(ThreadPool& pool, const Shape& shape, int block, const float* from, float* to,
                   bool accumulate = false);
void from_onnx_order(ThreadPool& pool, const Shape& shape, int block, const float* from, float* to,
                     bool accumulate = false);
// True when both orders are the same memory.
bool is_onnx_order(const Shape& shape, int block);

}  // namespace tempo
