// File: enclave/offload/step_time.h
// How long a step should take: inside the enclave, and offloaded by a plan over a link. Times in
// seconds, bandwidths in bytes a second. A model, made of what a machine was measured to take
// (job/step_costs.h) and of the plan's bytes; workers take no time in it.
//
// Operators follow each other. Within one pass (forward or backward) of an offloaded operator the
// enclave and both directions of the link are busy at the same time with different tiles: it takes
// what the busiest of the three does, and of the others the part of one tile. W' of an operator
// goes while the one before it and whatever is between them are done, dW comes back while the one
// before it goes backward; nothing else overlaps with what the enclave does alone.
#pragma once

#include <vector>

#include "enclave/offload/plan.h"

namespace tempo {

// A step inside the enclave.
struct InsideTimes {
  std::vector<double> linear_s;  // by operator
  double rest_s = 0;             // everything else
};

struct StepCosts {
  InsideTimes local;       // as scheme local does it
  InsideTimes beside;      // as the enclave does what a plan that offloads leaves to it
  double pass_factor = 1;  // encoding, checks and decoding, over the plan's estimate of them
};

double local_step_s(const StepCosts& costs);

// bandwidth: of the link to all workers together, each way; > 0, may be infinite.
double offloaded_step_s(const Plan& plan, const StepCosts& costs, double bandwidth);

// The bandwidth above which a step is quicker offloaded than inside; infinite when it never is, or
// nothing is offloaded.
double break_even_bandwidth(const Plan& plan, const StepCosts& costs);

}  // namespace tempo
