// File: enclave/obfuscation/key.h
// Keys of the paper's MM-obfuscation (section IV-A, Algorithm 1) and the key shift (section IV-C,
// with the direction that works: [[sk]]_phi[i] = sk[(i + phi) mod 3]).
//
// A scaled permutation E(i,j) = c(i) [pi(i) = j] of size d is an AxisKey. With E1, E2, E3 of sizes
// m, n, p and positions as rows:
//   W'(i,j) = W(pi_m(i), pi_n(j)) * c_m(i) / c_n(j)
//   X'(i,j) = X(pi_p(i), pi_n(j)) * c_n(j) / c_p(i)
//   Z'(i,j) = Z(pi_p(i), pi_m(j)) * c_m(j) / c_p(i)
//   D'(i,j) = D(pi_p(i), pi_m(j)) * c_p(i) / c_m(j)
//   dW'(i,j) = dW(pi_m(i), pi_n(j)) * c_n(j) / c_m(i)          (= D'^T X')
//   dX'(i,j) = dX(pi_p(i), pi_n(j)) * c_p(i) / c_n(j)          (= D' W')
// Warning: a key serves one operator in one step (n and m) or one tile (p). Reusing it gives the
// coefficients away (docs/security.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/random.h"

namespace tempo {

// How coefficients are drawn.
struct CoefficientSpace {
  std::uint32_t range = 1024;  // K in [1, 2^24] (exact in float32): uniform in {1, ..., K}
  bool real = false;           // log-uniform reals in [1, K] instead
};

// One axis: permutation, coefficients and their reciprocals. Wiped on destruction.
class AxisKey {
 public:
  AxisKey() = default;
  // 1 <= size < 2^32.
  static AxisKey generate(RandomSource& random, std::size_t size, const CoefficientSpace& space);
  ~AxisKey();
  AxisKey(const AxisKey&) = default;
  AxisKey& operator=(const AxisKey& other);
  AxisKey(AxisKey&&) noexcept = default;
  AxisKey& operator=(AxisKey&& other) noexcept;
  void swap(AxisKey& other) noexcept;

  std::size_t size() const { return permutation.size(); }

  std::vector<std::uint32_t> permutation;  // pi(i)
  std::vector<std::uint32_t> inverse;      // pi^-1
  std::vector<float> coefficient;          // c(i), by encoded index i
  std::vector<float> reciprocal;           // 1/c(i), by encoded index i
  // Of the key of a part of a longer axis: which of its indices the part has, ascending. What is
  // said of natural order above is then said of the order in this list. Empty: the whole axis.
  std::vector<std::uint32_t> subset;
};

// Deals the indices of an axis at random to parts of these sizes, ascending within each.
std::vector<std::vector<std::uint32_t>> deal_indices(RandomSource& random,
                                                     const std::vector<std::size_t>& sizes);

// The paper's sk = KGen(m, n, p) as a whole. A plan keeps its axes apart, because their lifetimes
// differ; the triple serves whoever wants the algorithms as they are printed.
struct KeyTriple {
  AxisKey m;
  AxisKey n;
  AxisKey p;

  // Algorithm 1.
  static KeyTriple generate(RandomSource& random, std::size_t m, std::size_t n, std::size_t p,
                            const CoefficientSpace& space);
  // [[sk]]_phi[i] = sk[(i + phi) mod 3]: phi = 0 for Z = W X; 1, that is (n, p, m), for
  // T1 = X Delta^T; 2, that is (p, m, n), for T2 = Delta^T W. phi, i >= 0.
  const AxisKey& shifted(int phi, int i) const;
};

}  // namespace tempo
