#include "enclave/offload/linear.h"

#include <algorithm>

namespace tempo {

void ColumnMoments::reset(std::int64_t columns) {
  count = 0;
  mean.assign(static_cast<std::size_t>(columns), 0.0);
  m2.assign(static_cast<std::size_t>(columns), 0.0);
}

// Chan, Golub, LeVeque: "Updating formulae and a pairwise algorithm for computing sample
// variances", 1979.
void ColumnMoments::merge(std::int64_t other_count, const double* other_mean,
                          const double* other_m2) {
  if (other_count == 0) return;
  const auto a = static_cast<double>(count);
  const auto b = static_cast<double>(other_count);
  const double total = a + b;
  for (std::size_t j = 0; j < mean.size(); ++j) {
    const double delta = other_mean[j] - mean[j];
    mean[j] += delta * (b / total);
    m2[j] += other_m2[j] + delta * delta * (a * b / total);
  }
  count += other_count;
}

}  // namespace tempo
