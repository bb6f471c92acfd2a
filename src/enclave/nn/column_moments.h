// File: enclave/nn/column_moments.h
// Moments of a tensor's channels, float64.
#pragma once

#include "base/thread_pool.h"
#include "enclave/nn/feature_view.h"
#include "enclave/offload/linear.h"

namespace tempo {

// Means and sums of squared deviations over rows: one pass, shifted by the first row so that a mean
// far from zero costs no digits.
ColumnMoments column_moments(ThreadPool& pool, const FeatureView& view, const float* x);

}  // namespace tempo
