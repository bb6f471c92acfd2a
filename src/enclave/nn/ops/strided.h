// File: enclave/nn/ops/strided.h
// Copies between tensors whose dimensions lie in memory in different orders, distances or parts:
// what operators that only move elements are made of.
// Thread safety: free functions without state.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "enclave/graph/graph.h"

namespace tempo {

// Elements from one index to the next, by logical dimension, of a tensor that is not blocked
// (feature_view.h), or in ONNX's order.
Shape activation_strides(const Shape& shape, int block);
Shape onnx_strides(const Shape& shape);
// The same by dimension of a result of `rank` dimensions that the tensor is broadcast to: 0 where
// it repeats.
Shape broadcast_strides(const Shape& shape, int block, std::size_t rank);

// Where the index-th element, in ONNX's order, of a tensor of these dimensions lies.
std::int64_t offset_of(std::int64_t index, const Shape& dims, const Shape& strides);
// The same for all of them.
std::vector<std::int64_t> offsets_of(const Shape& dims, const Shape& strides);

// to[i . to_strides] = scale * from[i . from_strides] for all indices i below `dims`, or += that. A
// stride of 0 in `from` repeats; strides in `to` must lead to different elements. The arrays do not
// overlap.
void strided_copy(ThreadPool& pool, const Shape& dims, const float* from, const Shape& from_strides,
                  float* to, const Shape& to_strides, bool accumulate, float scale = 1);

// to[i . to_strides] = scale * the sum of from[i . from_strides + j . summed_strides] over all j
// below `summed`, for all i below `dims`; or += that. Sums in float64.
void sum_parts(ThreadPool& pool, const Shape& dims, const float* from, const Shape& from_strides,
               const Shape& summed, const Shape& summed_strides, float* to, const Shape& to_strides,
               bool accumulate, double scale);

// A part of a tensor: where its first element lies (elements from the tensor's), and its strides.
struct Part {
  std::int64_t offset = 0;
  Shape strides;
};
// The same for elements of either type, never adding.
void copy_part(ThreadPool& pool, DataType type, const Shape& dims, const float* from,
               const Part& from_part, float* to, const Part& to_part);

}  // namespace tempo
