// File: tests/norms.h
// Euclidean norms of float32 vectors, summed in float64. For tests.
// Thread safety: free functions without state.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

namespace tempo {

inline double norm(std::span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += double{v} * v;
  return std::sqrt(sum);
}

// Of a - b. Precondition: as many elements.
inline double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(sum);
}

}  // namespace tempo
