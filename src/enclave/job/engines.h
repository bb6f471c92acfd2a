// File: enclave/job/engines.h
// The engines of one job: a plan for every executor, and what they share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "enclave/offload/local_engine.h"
#include "enclave/offload/offload_engine.h"
#include "enclave/train/engine_factory.h"

namespace tempo {

// What lab programs may replace; empty in the product.
struct EnclaveHooks {
  std::function<std::unique_ptr<RandomSource>()> make_random;
  // Wraps an engine; the result is used in its place and outlived by it.
  std::function<std::unique_ptr<LinearEngine>(LinearEngine& engine)> wrap_engine;
  bool keeps_shares = false;  // see EngineOptions
};

class JobEngines final : public EngineFactory {
 public:
  // link: null when nothing is offloaded. Batches: how often an executor of each mode runs in the
  // whole job, for the soundness bound. All references must outlive the object.
  JobEngines(const JobSpec& spec, Scheme scheme, WorkerLink* link, std::int64_t training_batches,
             std::int64_t inference_batches, const EnclaveHooks& hooks, ThreadPool& pool,
             TimeLedger& ledger);
  ~JobEngines() override;

  Result<LinearEngine*> engine_for(const std::vector<LinearOp>& ops, StepMode mode) override;
  int channel_block() const override;
  bool defers_weight_gradients() const override { return offloads(scheme_); }
  bool allows_late_gradients() const override { return spec_.update == UpdateMode::kAsync; }
  // The plan that engine_for() makes.
  Result<Plan> plan_for(const std::vector<LinearOp>& ops, StepMode mode) const;
  CheckCounts checks() const override { return {stats_.checks_done, stats_.checks_failed}; }

  // The plans in the order of engine_for.
  const std::vector<const Plan*>& plans() const { return plans_; }
  // The statistics so far, with the soundness reached.
  EngineStats stats() const;
  const std::vector<EngineEvent>& events() const { return stats_.events; }
  const SoundnessGoal& goal() const { return goal_; }
  const std::vector<ParallelismRule>& parallelism() const { return parallelism_; }

 private:
  SoundnessGoal goal_of_an_executor() const;
  PlanOptions plan_options(StepMode mode) const;

  const JobSpec& spec_;
  const Scheme scheme_;
  WorkerLink* link_;
  const std::int64_t training_batches_;
  const std::int64_t inference_batches_;
  const EnclaveHooks& hooks_;
  ThreadPool& pool_;
  TimeLedger& ledger_;
  std::vector<ParallelismRule> parallelism_;
  SoundnessGoal goal_;
  EngineStats stats_;
  std::unique_ptr<RandomSource> random_;
  LocalEngine local_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::vector<std::unique_ptr<OffloadEngine>> engines_;
  std::vector<std::unique_ptr<LinearEngine>> wrapped_;
  std::vector<std::unique_ptr<Plan>> local_plans_;
  std::vector<const Plan*> plans_;
};

}  // namespace tempo
