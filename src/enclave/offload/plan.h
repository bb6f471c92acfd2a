// File: enclave/offload/plan.h
// The static plan of one executor's linear operators: which are offloaded, how they are cut into
// tiles, which worker gets which tile, how many rounds of checks, what crosses the ring, and what
// it is expected to cost. Made before the first step; the run uses exactly this.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "enclave/integrity/soundness.h"
#include "enclave/offload/linear.h"
#include "enclave/schemes/scheme.h"
#include "wire/job.h"
#include "wire/task.h"

namespace tempo {

// Costs in nanoseconds on one core, for choosing between enclave and workers. Fitted to what
// offload_bench measures; only their ratios matter.
struct CostModel {
  double encode_ns = 1.2;          // an element of an operand
  double decode_ns = 1.2;          // an element of a result
  double round_ns = 0.13;          // an element and round of checks
  double key_ns = 50;              // a row or column of a key, and its part of check vectors
  double task_ns = 1500;           // a task of a worker
  double gather_ns = 0.5;          // an element of a row that an n-slice has columns of
  double local_flops_per_ns = 90;  // dense products inside the enclave
};

// What is cut so that several workers share an operator; the matrix without that axis is repeated
// on all of them, so that the smallest one should be.
enum class Parallelism {
  kData,         // positions: W' on every worker, dW summed in the enclave
  kOutFeatures,  // X' on every worker, dX summed in the enclave
  kInFeatures,   // D' on every worker, Z summed in the enclave; only where X is the input itself
  kInstances,    // of products of two activations (heads)
};
std::string_view parallelism_name(Parallelism parallelism);
bool can_be_cut(const LinearOp& op, Parallelism parallelism);

struct PlannedWorker {
  std::uint64_t memory_limit_bytes = 0;
  double speed = 1;  // relative; work is dealt in proportion. 0: gets none
};

struct PlanOptions {
  Scheme scheme = Scheme::kTempo;
  OffloadPolicy policy = OffloadPolicy::kAuto;
  // Those for all operators are for those that can be cut so; of several for one the last counts.
  std::vector<ParallelismRule> parallelism;
  StepMode mode = StepMode::kTraining;
  std::vector<PlannedWorker> workers;
  std::uint64_t max_slot_bytes = 0;  // of the ring
  double products_factor = 1;        // steps in the job: scales the count of checked products
  bool keeps_weights = false;        // inference: W' stays on the workers from step to step
  SoundnessGoal goal;                // `checks` is filled in by the planner
  CostModel cost;
  std::uint64_t tile_bytes = std::uint64_t{4} << 20;  // aim for an encoded X' of this size
  std::int64_t max_gradient_inner = 8192;  // positions summed in one checked weight gradient
};

// One tile: positions [row_begin, row_end) of the encoded order by out-features of slice m_slice.
struct Tile {
  int p_slice = 0;
  int m_slice = 0;
  int worker = 0;
};

struct Slice {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Slice&) const = default;
};

// Tiles of one worker and m-slice that go backward together: the worker sums their weight
// gradients before one is returned.
struct GradientGroup {
  int m_slice = 0;
  int worker = 0;
  std::vector<int> tiles;  // indices into OpPlan::tiles
};

struct OpPlan {
  LinearOp op;
  bool offloaded = false;
  std::string reason;  // why it is where it is
  // kInFeatures: of in-features, in an order that is drawn for every step. Each is in all that
  // follows what an instance is: a product with keys, p-slices, m-slices and tiles of its own.
  std::vector<Slice> n_slices;
  std::vector<Slice> p_slices;  // of encoded positions; those of one instance follow each other
  std::vector<Slice> m_slices;  // of out-features, natural order; likewise
  std::vector<Tile> tiles;      // in the order in which they are issued
  std::vector<GradientGroup> groups;
  Parallelism parallelism = Parallelism::kData;
  // Training: W' and X' stay on the workers from forward to backward; else they are sent again.
  bool keeps_operands = true;
  // When dealt again: every n-slice has a product of its own in the enclave, whose memory was
  // planned for those of the first deal.
  std::size_t max_n_slices = SIZE_MAX;
  std::uint64_t kept_bytes = 0;  // enclave memory of keys and check sums until its backward is done
  int rounds_forward = 0;
  int rounds_weight_gradient = 0;
  int rounds_input_gradient = 0;
  std::uint64_t bytes_to_workers = 0;       // a step
  std::uint64_t bytes_to_workers_once = 0;  // with the first step: W' that stays there
  std::uint64_t bytes_from_workers = 0;     // a step
  double offloaded_cost_ms = 0;             // enclave core-ms a step when offloaded (estimate)
  double local_cost_ms = 0;                 // enclave core-ms a step when kept (estimate)
  std::int64_t products = 0;                // checked products a step
  std::int64_t tasks = 0;                   // of workers, a step

  std::size_t instance_count() const {
    return n_slices.empty() ? static_cast<std::size_t>(op.instances) : n_slices.size();
  }
  std::size_t m_slices_each() const { return m_slices.size() / instance_count(); }
  std::size_t instance_of(int m_slice) const {
    return static_cast<std::size_t>(m_slice) / m_slices_each();
  }
  // In-features of an instance.
  std::int64_t in_features(std::size_t instance) const {
    return n_slices.empty() ? op.geometry.n() : n_slices[instance].size();
  }
  std::int64_t in_features_of(int m_slice) const { return in_features(instance_of(m_slice)); }

  std::int64_t widest_slice() const;      // out-features
  std::int64_t widest_input() const;      // in-features of an instance
  std::int64_t longest_gradient() const;  // positions summed in one weight gradient, at most
};

struct Plan {
  std::vector<OpPlan> ops;
  std::vector<std::uint64_t> resident_bytes;  // by worker, peak of a step
  std::int64_t multiply_adds = 0;             // forward, all linear operators
  std::int64_t offloaded_multiply_adds = 0;
  double offloaded_share() const {
    return multiply_adds == 0
               ? 0.0
               : static_cast<double>(offloaded_multiply_adds) / static_cast<double>(multiply_adds);
  }
  std::uint64_t bytes_to_workers = 0;
  std::uint64_t bytes_to_workers_once = 0;
  std::uint64_t bytes_from_workers = 0;
  std::int64_t products = 0;
  double checks_planned = 0;       // products of the whole job
  double allowed_miss = 1;         // chance that one check misses what it must catch, at most
  std::uint64_t engine_bytes = 0;  // enclave memory of keys, check sums and turned operands
};

// Errors: kNoWorker when something has to be offloaded and there is no worker; kOutOfMemory when a
// worker's share does not fit its memory; kUsage when the soundness goal cannot be reached.
Result<Plan> make_plan(const std::vector<LinearOp>& ops, const PlanOptions& options);

// The same operators, on workers or inside and cut as in `plan`, dealt to options.workers as they
// are now. Errors as above.
Result<Plan> deal_again(const Plan& plan, const PlanOptions& options);

// Error kUsage when a rule names an operator that is unknown, inside, or cannot be cut so, or one
// for all fits none that is offloaded. Of the plan that a job is about: others of the same job,
// such as that of a smaller last batch, may keep more operators inside.
Status check_parallelism(const Plan& plan, const std::vector<ParallelismRule>& rules);

}  // namespace tempo
