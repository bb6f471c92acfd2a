// File: enclave/integrity/freivalds.h
// Freivalds' check of C = A B in floating point: secret zero-mean vectors r, A (B r) against C r in
// float64, and an acceptance rule per row that knows how large honest rounding errors are.
//
// Rule (per row i of C, over `cols` columns, inner length n):
//   E_i^2 = sum_k ( sum_j A_ij^2 B_jk^2 + C_ik^2 )
//   accept iff |P_i| <= s * u * (sqrt(n) + g0) * E_i,   s = 4, u = 2^-24
// A NaN anywhere is refused. What passes below the tolerance is accepted by design: the guarantee is
// "the error of a row is at most about the tolerance", not equality.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"

namespace tempo {

enum class CheckDistribution {
  kUniform,  // 2^16 equally spaced values, zero mean, unit variance: the default
  kBinary,   // {0, 1}: the paper's; one bit of soundness a round
};

// Fills `out` with one check vector.
void draw_check_vector(RandomSource& random, CheckDistribution distribution, std::span<float> out);

// Tolerance of |P_i| for a row with E_i^2 = magnitude_squared.
double row_tolerance(std::int64_t inner, double magnitude_squared);

// True iff all rounds pass: |differences[k]| <= row_tolerance(...). False for any NaN or infinity.
bool accept_row(std::span<const double> differences, std::int64_t inner, double magnitude_squared);

}  // namespace tempo
