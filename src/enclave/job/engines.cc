#include "enclave/job/engines.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "enclave/integrity/soundness.h"

namespace tempo {
namespace {

// A job has up to three executors (full batches, the last batch of an epoch, evaluation), each with
// products of its own: the goal is shared between them.
constexpr double kExecutors = 3;
// A payload may take this part of the ring, so that operands and results of tiles that follow each
// other fit at the same time.
constexpr std::uint64_t kSlotsInRing = 4;

CheckDistribution distribution_of(CheckKind check) {
  switch (check) {
    case CheckKind::kUniform:
      return CheckDistribution::kUniform;
    case CheckKind::kGaussian:
      return CheckDistribution::kGaussian;
    case CheckKind::kBinary:
      return CheckDistribution::kBinary;
  }
  return CheckDistribution::kUniform;
}

}  // namespace

JobEngines::JobEngines(const JobSpec& spec, Scheme scheme, WorkerLink* link,
                       std::int64_t training_batches, std::int64_t inference_batches,
                       const EnclaveHooks& hooks, ThreadPool& pool, TimeLedger& ledger)
    : spec_(spec),
      scheme_(scheme),
      link_(link),
      training_batches_(std::max<std::int64_t>(training_batches, 1)),
      inference_batches_(std::max<std::int64_t>(inference_batches, 1)),
      hooks_(hooks),
      pool_(pool),
      ledger_(ledger),
      random_(hooks.make_random ? hooks.make_random() : std::make_unique<SystemRandom>()),
      local_(pool, ledger) {
  for (const std::string& text : spec.parallelism) {
    if (auto rule = parse_parallelism_rule(text)) parallelism_.push_back(std::move(rule).value());
  }
  goal_.t = spec.integrity.t;
  goal_.e = spec.integrity.e;
  goal_.distribution = distribution_of(spec.check);
  if (link_ != nullptr) {
    dispatcher_ = std::make_unique<Dispatcher>(*link_, stats_, ledger_, Patience());
    // What a job that ended in the middle of a step has left on them.
    for (int w = 0; w < dispatcher_->worker_count(); ++w) {
      dispatcher_->drop(w, 0, std::numeric_limits<std::uint64_t>::max());
    }
  }
}

JobEngines::~JobEngines() = default;

int JobEngines::channel_block() const {
  return scheme_ == Scheme::kLocal ? preferred_channel_block() : 0;
}

SoundnessGoal JobEngines::goal_of_an_executor() const {
  SoundnessGoal goal = goal_;
  goal.t /= kExecutors;
  return goal;
}

PlanOptions JobEngines::plan_options(StepMode mode) const {
  PlanOptions options;
  options.scheme = scheme_;
  options.policy = spec_.offload;
  options.parallelism = parallelism_;
  options.mode = mode;
  if (link_ != nullptr) {
    for (const WorkerInfo& worker : link_->workers()) {
      options.workers.push_back({worker.memory_limit_bytes});
    }
    options.max_slot_bytes = link_->max_slot_bytes() / kSlotsInRing;
  } else {
    options.max_slot_bytes = std::uint64_t{64} << 20;
  }
  options.products_factor =
      static_cast<double>(mode == StepMode::kTraining ? training_batches_ : inference_batches_);
  options.goal = goal_of_an_executor();
  options.keeps_weights = spec_.insecure_key_reuse;
  return options;
}

Result<Plan> JobEngines::plan_for(const std::vector<LinearOp>& ops, StepMode mode) const {
  return make_plan(ops, plan_options(mode));
}

Result<LinearEngine*> JobEngines::engine_for(const std::vector<LinearOp>& ops, StepMode mode) {
  auto plan = plan_for(ops, mode);
  if (!plan.ok()) return plan.error();

  LinearEngine* engine = &local_;
  if (dispatcher_ != nullptr) {
    EngineOptions engine_options;
    engine_options.plan = plan_options(mode);
    engine_options.coefficients = {spec_.key_range, spec_.key_real};
    engine_options.on_tamper = spec_.on_tamper;
    engine_options.reuses_keys = spec_.insecure_key_reuse;
    engine_options.keeps_shares = hooks_.keeps_shares;
    engines_.push_back(std::make_unique<OffloadEngine>(
        std::move(plan).value(), engine_options,
        EngineResources{dispatcher_.get(), &local_, random_.get(), &pool_, &ledger_, &stats_}));
    plans_.push_back(&engines_.back()->plan());
    engine = engines_.back().get();
  } else {
    local_plans_.push_back(std::make_unique<Plan>(std::move(plan).value()));
    plans_.push_back(local_plans_.back().get());
  }
  for (const OpPlan& op : plans_.back()->ops) {
    stats_.rounds = std::max(
        {stats_.rounds, op.rounds_forward, op.rounds_weight_gradient, op.rounds_input_gradient});
  }
  if (hooks_.wrap_engine) {
    wrapped_.push_back(hooks_.wrap_engine(*engine));
    engine = wrapped_.back().get();
  }
  return engine;
}

EngineStats JobEngines::stats() const {
  EngineStats stats = stats_;
  for (const auto& engine : engines_) engine->report_soundness(stats.soundness);
  for (const Plan* plan : plans_) stats.checks_planned += plan->checks_planned;
  for (const ProductSoundness& product : stats.soundness) stats.soundness_reached += product.miss;
  stats.soundness_reached = std::min(stats.soundness_reached, 1.0);
  return stats;
}

}  // namespace tempo
