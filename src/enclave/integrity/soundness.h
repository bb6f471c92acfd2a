// File: enclave/integrity/soundness.h
// How many rounds a plan needs. An error of size e (in units of its row's rms) in one element
// passes one round, whatever else is wrong in its row, when the one check value that multiplies it
// falls into a window of width 2 tau / e. Uniform vectors (2^16 values over a width of 2 sqrt(3))
// do so with probability at most q = tau / (sqrt(3) e) + 2^-16, Gaussian ones (density at most 1 /
// sqrt(2 pi)) with 2 tau / (sqrt(2 pi) e) + 2^-14, binary ones with 1/2 when e > 2 tau. So k
// independent rounds miss it with at most q^k, and over a job of N checks the union bound
// gives N q^k <= t (the paper's Theorem V.2 is the binary case). Pure functions.
#pragma once

#include <cstdint>

#include "enclave/integrity/freivalds.h"

namespace tempo {

struct CheckShape {
  std::int64_t inner = 1;  // length of the dot products
  std::int64_t cols = 1;   // columns of one row of the result
};

struct SoundnessGoal {
  double t = 1e-6;    // chance that any bad result passes in the whole job
  double e = 0.01;    // size of the error > 0, in units of the row's rms
  double checks = 1;  // products checked in the whole job
  CheckDistribution distribution = CheckDistribution::kUniform;
};

// tau over the rms of the result, for a result whose terms add up as independent ones do:
// E_i ~ sqrt(2 cols) rms.
double expected_tolerance_over_rms(const CheckShape& shape);

// Upper bound on the chance that one round misses an error of size e. tolerance and e in the same
// unit. In [0, 1]; 1 for anything that is not a number.
double miss_probability(double tolerance, double e, CheckDistribution distribution);

// The same for an error that is as large as one likes: the tolerance follows the size of the result
// (freivalds.h), so that no error is certain to be caught. inner: length of the dot products.
double largest_error_miss_probability(std::int64_t inner, CheckDistribution distribution);

// Rounds for one kind of check, or 0 when no number of rounds up to kMaxRounds reaches the goal
// (then the inner length or the column count must be cut) or the goal makes no sense.
int rounds_needed(const CheckShape& shape, const SoundnessGoal& goal);

// The t that `rounds` rounds reach at a measured tolerance_over_rms, for errors of every size from
// goal.e on.
double soundness_reached(double tolerance_over_rms, std::int64_t inner, int rounds,
                         const SoundnessGoal& goal);

// Theorem V.2: k binary rounds for a task of `checks` checks and failure probability t, as the
// paper computes it (exact arithmetic): the smallest integer above log2(1 / (1 -
// (1-t)^(1/checks))). 0 < t < 1 and checks >= 1; otherwise 0.
int theorem_v2_rounds(double checks, double t);

}  // namespace tempo
