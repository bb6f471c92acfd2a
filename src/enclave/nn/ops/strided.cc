#include "enclave/nn/ops/strided.h"

#include <algorithm>
#include <vector>

#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

struct Loop {
  std::int64_t size, from, to;
};

// Outermost first, in the order in which `to` lies; loops that continue each other are one.
std::vector<Loop> loops_of(const Shape& dims, const Shape& from_strides, const Shape& to_strides) {
  std::vector<Loop> loops;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] > 1) loops.push_back({dims[i], from_strides[i], to_strides[i]});
  }
  std::stable_sort(loops.begin(), loops.end(),
                   [](const Loop& a, const Loop& b) { return a.to > b.to; });
  std::vector<Loop> merged;
  for (const Loop& loop : loops) {
    if (!merged.empty() && merged.back().to == loop.size * loop.to &&
        merged.back().from == loop.size * loop.from) {
      merged.back() = {merged.back().size * loop.size, loop.from, loop.to};
    } else {
      merged.push_back(loop);
    }
  }
  if (merged.empty()) merged.push_back({1, 1, 1});
  return merged;
}

void copy_row(const float* from, float* to, const Loop& loop, bool accumulate, float scale) {
  if (loop.from == 1 && loop.to == 1 && scale == 1) {
    kernels::copy(from, to, loop.size, accumulate);
    return;
  }
  for (std::int64_t i = 0; i < loop.size; ++i) {
    const float value = scale * from[i * loop.from];
    to[i * loop.to] = accumulate ? to[i * loop.to] + value : value;
  }
}

}  // namespace

Shape onnx_strides(const Shape& shape) {
  Shape strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

Shape activation_strides(const Shape& shape, int block) {
  TEMPO_ASSERT(block <= 0);
  if (is_onnx_order(shape, block)) return onnx_strides(shape);
  const std::int64_t row = shape[3] * shape[1];
  return {shape[2] * row, 1, row, shape[1]};
}

void strided_copy(ThreadPool& pool, const Shape& dims, const float* from, const Shape& from_strides,
                  float* to, const Shape& to_strides, bool accumulate, float scale) {
  std::vector<Loop> loops = loops_of(dims, from_strides, to_strides);
  const Loop inner = loops.back();
  loops.pop_back();
  std::int64_t rows = 1;
  for (const Loop& loop : loops) rows *= loop.size;
  pool.parallel_for(rows, grain_for(inner.size), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t rest = row, at_from = 0, at_to = 0;
      for (std::size_t i = loops.size(); i-- > 0;) {
        const std::int64_t index = rest % loops[i].size;
        rest /= loops[i].size;
        at_from += index * loops[i].from;
        at_to += index * loops[i].to;
      }
      copy_row(from + at_from, to + at_to, inner, accumulate, scale);
    }
  });
}

}  // namespace tempo
