// File: enclave/job/plan_report.h
// A plan in words and as JSON, for `tempo plan`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "enclave/graph/fuse.h"
#include "enclave/job/memory_estimate.h"
#include "enclave/nn/op.h"
#include "enclave/offload/plan.h"
#include "wire/job.h"

namespace tempo {

// What the enclave does besides linear operators, by kind of operator.
struct KindWork {
  std::string type{};
  int nodes = 0;
  OpWork forward{};  // a step, each node on its own
};
// In the order of the kinds' first nodes.
std::vector<KindWork> non_linear_work(const Graph& graph, const Shapes& shapes);

// What a step is predicted to take (offload/step_time.h); bandwidths in bytes a second, each way.
struct StepTimes {
  double link = 0;
  double local_s = 0;
  double offloaded_s = 0;
  double break_even = 0;  // offloading pays above it; infinite: never
};

struct PlanSummary {
  const Plan* plan = nullptr;
  Scheme scheme = Scheme::kLocal;
  std::int64_t batch = 0;
  bool trains = true;           // else it predicts: no steps, accumulate, optimizer
  std::int64_t accumulate = 1;  // batches in a step
  std::int64_t steps = 0;
  std::int64_t batches = 0;  // in the whole job
  std::int64_t trained = 0;  // values of parameters
  std::int64_t frozen = 0;
  OptimizerKind optimizer = OptimizerKind::kSgd;
  MemoryEstimate memory;
  SoundnessGoal goal;
  FusedCounts fused;               // what import made of chains
  std::vector<std::string> notes;  // on how the model was exported
  std::vector<std::string> warnings;
  std::vector<KindWork> non_linear;
  std::optional<StepTimes> times;
};

// The promise and what it takes: "t=1e-06, e=0.01: a result that is off by ...; 1200 checks
// planned, uniform rounds: forward 3, weight gradient 3 to 4, input gradient 3", and what Theorem
// V.2 asks for where vectors are binary. Empty where nothing is checked.
std::string integrity_line(const Plan& plan, const SoundnessGoal& goal);

std::string plan_text(const PlanSummary& summary);
std::string plan_json(const PlanSummary& summary);

}  // namespace tempo
