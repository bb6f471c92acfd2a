// File: enclave/nn/ops/strided_loop.h
// Nested loops over the elements of a tensor and the elements of others that belong to them,
// wherever each of them lies: in the order of the first tensor's memory, with loops that continue
// each other joined.
// Thread safety: plain data once made.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "enclave/graph/graph.h"
#include "enclave/nn/parallel.h"

namespace tempo {

// Of N tensors.
template <std::size_t N>
class StridedLoop {
 public:
  using Strides = std::array<std::int64_t, N>;
  struct Loop {
    std::int64_t size;
    Strides strides;
  };

  // strides[k]: of tensor k by dimension; those of the first must lead to different elements.
  StridedLoop(const Shape& dims, const std::array<Shape, N>& strides) {
    std::vector<Loop> loops;
    for (std::size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] == 1) continue;
      Loop loop{dims[i], {}};
      for (std::size_t k = 0; k < N; ++k) loop.strides[k] = strides[k][i];
      loops.push_back(loop);
    }
    std::stable_sort(loops.begin(), loops.end(),
                     [](const Loop& a, const Loop& b) { return a.strides[0] > b.strides[0]; });
    for (const Loop& loop : loops) {
      if (!outer_.empty() && continues(outer_.back(), loop)) {
        outer_.back() = {outer_.back().size * loop.size, loop.strides};
      } else {
        outer_.push_back(loop);
      }
    }
    inner_ = {1, {}};
    inner_.strides.fill(1);
    if (outer_.empty()) return;
    inner_ = outer_.back();
    outer_.pop_back();
    for (const Loop& loop : outer_) rows_ *= loop.size;
  }

  // Elements of one row, and how far they are apart.
  const Loop& inner() const { return inner_; }

  // Calls body(offset of the row's first element in each tensor) for rows [begin, end).
  template <class Body>
  void rows(std::int64_t begin, std::int64_t end, const Body& body) const {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t rest = row;
      Strides at{};
      for (std::size_t i = outer_.size(); i-- > 0;) {
        const std::int64_t index = rest % outer_[i].size;
        rest /= outer_[i].size;
        for (std::size_t k = 0; k < N; ++k) at[k] += index * outer_[i].strides[k];
      }
      body(at);
    }
  }
  template <class Body>
  void parallel_rows(ThreadPool& pool, const Body& body) const {
    pool.parallel_for(rows_, grain_for(inner_.size),
                      [&](std::int64_t begin, std::int64_t end) { rows(begin, end, body); });
  }
  template <class Body>
  void all_rows(const Body& body) const {
    rows(0, rows_, body);
  }

 private:
  static bool continues(const Loop& outer, const Loop& loop) {
    for (std::size_t k = 0; k < N; ++k) {
      if (outer.strides[k] != loop.size * loop.strides[k]) return false;
    }
    return true;
  }

  std::vector<Loop> outer_;
  Loop inner_;
  std::int64_t rows_ = 1;
};

}  // namespace tempo
