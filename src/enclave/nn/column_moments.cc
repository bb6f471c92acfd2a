#include "enclave/nn/column_moments.h"

#include <algorithm>
#include <cstddef>

#include "enclave/nn/kernels.h"
#include "enclave/nn/parallel.h"

namespace tempo {

ColumnMoments column_moments(ThreadPool& pool, const FeatureView& view, const float* x) {
  const auto channels = static_cast<std::size_t>(view.channels());
  std::vector<float> shift(channels);
  for (std::int64_t block = 0; block < view.blocks; ++block) {
    std::copy_n(x + view.offset(0, block, 0), view.width, shift.begin() + block * view.width);
  }
  const std::vector<double> sums = reduce_rows(pool, view, 2, [&](const RowRun& run, double* to) {
    kernels::column_moments(x + run.offset, run.rows, run.width, shift.data() + run.channel, to,
                            to + run.width);
  });
  const auto count = static_cast<double>(view.rows());
  ColumnMoments moments;
  moments.count = view.rows();
  moments.mean.resize(channels);
  moments.m2.resize(channels);
  for (std::size_t c = 0; c < channels; ++c) {
    const double mean = sums[c] / count;
    moments.mean[c] = static_cast<double>(shift[c]) + mean;
    // Rounding can take it just below zero; a NaN stays one.
    const double m2 = sums[channels + c] - mean * sums[c];
    moments.m2[c] = m2 < 0 ? 0 : m2;
  }
  return moments;
}

}  // namespace tempo
