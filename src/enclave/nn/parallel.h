// File: enclave/nn/parallel.h
// How operators cut their work: by tensor sizes alone, so that results do not depend on the number
// of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "enclave/nn/feature_view.h"

namespace tempo {

// Elements that are worth waking a thread for.
inline constexpr std::int64_t kGrainElements = std::int64_t{1} << 15;

// Items of a parallel loop that go together when one has `elements_per_item`.
inline std::int64_t grain_for(std::int64_t elements_per_item) {
  return std::max<std::int64_t>(1, kGrainElements / std::max<std::int64_t>(1, elements_per_item));
}

// Calls body(begin, count) over ranges of [0, elements).
template <class Body>
void for_elements(ThreadPool& pool, std::int64_t elements, const Body& body) {
  pool.parallel_for(elements, kGrainElements,
                    [&](std::int64_t begin, std::int64_t end) { body(begin, end - begin); });
}

// Rows of one channel block that lie together: `rows` x `width` floats at `offset`; their channels
// start at `channel`.
struct RowRun {
  std::int64_t offset = 0;
  std::int64_t rows = 0;
  std::int64_t channel = 0;
  std::int64_t width = 0;
};

// Calls body(run) for runs that together are the tensor.
void for_row_runs(ThreadPool& pool, const FeatureView& view,
                  const std::function<void(const RowRun&)>& body);

// Sums over rows: body(run, sums) adds to sums[k * width + c] for k < kinds. Returns kinds x
// channels. float64, merged in a fixed order.
std::vector<double> reduce_rows(ThreadPool& pool, const FeatureView& view, int kinds,
                                const std::function<void(const RowRun&, double*)>& body);

// to = sums, or += sums.
inline void store_sums(const std::vector<double>& sums, float* to, bool accumulate) {
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const auto sum = static_cast<float>(sums[i]);
    to[i] = accumulate ? to[i] + sum : sum;
  }
}

}  // namespace tempo
