// File: enclave/nn/ops/strided.h
// Copies between tensors whose dimensions lie in memory in different orders, distances or parts:
// what operators that only move elements are made of.
// Thread safety: free functions without state.
#pragma once

#include "base/thread_pool.h"
#include "enclave/graph/graph.h"

namespace tempo {

// Elements from one index to the next, by logical dimension, of a tensor that is not blocked
// (feature_view.h), or in ONNX's order.
Shape activation_strides(const Shape& shape, int block);
Shape onnx_strides(const Shape& shape);

// to[i . to_strides] = scale * from[i . from_strides] for all indices i below `dims`, or += that. A
// stride of 0 in `from` repeats; strides in `to` must lead to different elements. The arrays do not
// overlap.
void strided_copy(ThreadPool& pool, const Shape& dims, const float* from, const Shape& from_strides,
                  float* to, const Shape& to_strides, bool accumulate, float scale = 1);

}  // namespace tempo
