#include "enclave/offload/offload_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "enclave/offload/offload_call.h"

namespace tempo {
namespace {

// Workers that are asked for one unit, one after the other, before the enclave does it.
constexpr int kMaxIssues = 3;
// Work is dealt anew when a worker's share has changed by this part of it.
constexpr double kShareDrift = 0.05;
constexpr std::chrono::milliseconds kLateCheckInterval{200};

}  // namespace

// What --insecure-key-reuse keeps of an operator from batch to batch.
struct OffloadEngine::KeptWeights {
  std::vector<OperatorKeys> keys;  // by instance; without p
  std::vector<std::vector<std::uint64_t>> weight_id;
  std::vector<std::uint32_t> epoch;  // of the workers that hold them
};

OffloadEngine::OffloadEngine(Plan plan, const EngineOptions& options,
                             const EngineResources& resources)
    : plan_(std::move(plan)),
      options_(options),
      dealt_(options.plan),
      res_(resources),
      steps_(plan_.ops.size()),
      announced_(plan_.ops.size()),
      kept_(plan_.ops.size()),
      soundness_(plan_, options.plan.goal) {}

OffloadEngine::~OffloadEngine() {
  for (const auto& kept : kept_) {
    if (kept != nullptr) drop(kept->weight_id);
  }
}

// ---- steps -------------------------------------------------------------------------------------

Status OffloadEngine::begin_step(StepMode mode) {
  mode_ = mode;
  res_.dispatcher->begin_step(step_);
  for (const auto& call : calls_) {
    if (call->carried != nullptr) adopt_workers(*call);
  }
  deal_by_speed();
  return res_.local->begin_step(mode);
}

Status OffloadEngine::end_step() {
  TEMPO_RETURN_IF_ERROR(settle());
  return close_step();
}

Status OffloadEngine::end_step_early() {
  res_.dispatcher->poll();
  if (fatal_) return *fatal_;
  for (std::size_t i = calls_.size(); i-- > 0;) {
    OffloadCall& call = *calls_[i];
    if (call.is_complete() || call.carried != nullptr) {
      TEMPO_RETURN_IF_ERROR(settle(call));
    } else {
      carry(call);
    }
  }
  return close_step();
}

Status OffloadEngine::close_step() {
  ++step_;
  // An operator that no gradient reaches had no backward.
  for (auto& step : steps_) {
    if (step != nullptr) drop_operands(*step);
    step.reset();
  }
  for (auto& weights : announced_) weights.clear();
  ahead_.reset();
  return res_.local->end_step();
}

// Shares follow the speeds that were measured; workers that are gone or late get none.
void OffloadEngine::deal_by_speed() {
  const int count = res_.dispatcher->worker_count();
  double known = 0;
  int known_count = 0;
  for (int w = 0; w < count; ++w) {
    if (!res_.dispatcher->usable(w) || !res_.dispatcher->speed(w)) continue;
    known += *res_.dispatcher->speed(w);
    ++known_count;
  }
  const double usual = known_count > 0 ? known / known_count : 1;
  std::vector<PlannedWorker> workers;
  double all = 0;
  for (int w = 0; w < count; ++w) {
    const bool usable = res_.dispatcher->usable(w);
    const double speed = usable ? res_.dispatcher->speed(w).value_or(usual) : 0;
    workers.push_back({res_.dispatcher->info(w).memory_limit_bytes, speed});
    all += speed;
  }
  if (!(all > 0)) return;  // everything is done inside
  const std::vector<PlannedWorker>& dealt_to = dealt_.workers;
  const double all_dealt =
      std::accumulate(dealt_to.begin(), dealt_to.end(), 0.0,
                      [](double sum, const PlannedWorker& worker) { return sum + worker.speed; });
  bool has_changed = false;
  for (std::size_t w = 0; w < workers.size(); ++w) {
    const double share = workers[w].speed / all;
    const double dealt = w < dealt_to.size() ? dealt_to[w].speed / all_dealt : 0;
    // Weights that stay on the workers are worth more than even shares.
    const bool keeps_shares = options_.reuses_keys || options_.keeps_shares;
    const double drift = keeps_shares ? std::numeric_limits<double>::max() : kShareDrift;
    has_changed =
        has_changed || (share > 0) != (dealt > 0) || std::abs(share - dealt) > drift * dealt;
  }
  if (!has_changed) return;
  dealt_.workers = workers;
  auto plan = deal_again(plan_, dealt_);
  if (!plan.ok()) {  // perhaps because of one that joined
    PlanOptions without_new = dealt_;
    double known_speed = 0;
    for (std::size_t w = 0; w < workers.size(); ++w) {
      const bool has_share = w < plan_.resident_bytes.size() && plan_.resident_bytes[w] > 0;
      if (!has_share) without_new.workers[w].speed = 0;
      known_speed += without_new.workers[w].speed;
    }
    if (known_speed > 0) plan = deal_again(plan_, without_new);
  }
  // Too little memory is left: the old plan goes on, and what nobody takes is done inside.
  if (!plan.ok()) return;
  for (const OpPlan& op : plan->ops) {
    std::unique_ptr<KeptWeights>& kept = kept_[op.op.index];
    const OpPlan& before = plan_.ops[op.op.index];
    const bool is_same = op.n_slices == before.n_slices && op.m_slices == before.m_slices;
    if (kept == nullptr || is_same) continue;
    drop(kept->weight_id);
    kept.reset();
  }
  plan_ = std::move(*plan);
  soundness_.adopt(plan_);
}

void OffloadEngine::announce(const LinearOp& op, const std::vector<const float*>& weights) {
  if (plan_.ops[op.index].offloaded) announced_[op.index] = weights;
}

Status OffloadEngine::forward(const LinearOp& op, const float* input,
                              const std::vector<ForwardPart>& parts) {
  const OpPlan& plan = plan_.ops[op.index];
  if (!plan.offloaded) return res_.local->forward(op, input, parts);
  announced_[op.index].clear();
  if (ahead_ != nullptr && ahead_->plan == &plan) ahead_.reset();
  if (steps_[op.index] == nullptr) steps_[op.index] = make_step(plan);
  OperatorStep& step = *steps_[op.index];

  OffloadCall& call = open_call(plan, step);
  call.input = input;
  call.outputs = parts;
  call.wants_moments = std::any_of(parts.begin(), parts.end(),
                                   [](const ForwardPart& p) { return p.moments != nullptr; });
  call.vectors.resize(plan.m_slices.size());
  call.vectors_retired.assign(plan.m_slices.size(), false);
  call.moments.resize(plan.tiles.size());
  call.units.resize(plan.tiles.size());
  const ConvGeometry& g = op.geometry;
  for (std::size_t i = 0; i < plan.n_slices.size(); ++i) {
    call.partials.emplace_back(static_cast<std::size_t>(g.p() * g.m()));
  }
  TEMPO_RETURN_IF_ERROR(work_until(call, &OffloadCall::is_complete));
  ColumnMoments moments;
  if (!plan.n_slices.empty()) {
    const TimeScope scope(*res_.ledger, TimeKind::kDecode);
    moments = add_partial_outputs(*res_.pool, g.p(), call.partials,
                                  call.columns_of_outputs({0, g.m()}, 0), call.wants_moments);
  } else if (call.wants_moments) {
    moments = joined_moments(call);
  }
  if (call.wants_moments) deliver_moments(call, moments);
  close_call(call);

  if (mode_ == StepMode::kTraining && op.has_backward()) {
    if (!plan.keeps_operands) drop_operands(step);
    return {};
  }
  if (keeps_weights(op)) {
    drop(step.input_id);
    for (OperatorKeys& keys : step.keys) keys.p = AxisKey();
    std::vector<std::uint32_t> epoch(static_cast<std::size_t>(res_.dispatcher->worker_count()));
    for (std::size_t w = 0; w < epoch.size(); ++w) {
      epoch[w] = res_.dispatcher->epoch(static_cast<int>(w));
    }
    kept_[op.index] = std::make_unique<KeptWeights>(
        KeptWeights{std::move(step.keys), std::move(step.weight_id), std::move(epoch)});
  } else {
    drop_operands(step);
  }
  steps_[op.index].reset();
  return {};
}

// Tiles of one range of positions have the same count: joins them, then merges in natural order.
ColumnMoments OffloadEngine::joined_moments(const OffloadCall& call) {
  const OpPlan& plan = *call.plan;
  const std::int64_t m = plan.op.geometry.m();
  std::vector<ColumnMoments> joined(plan.p_slices.size());
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const ColumnMoments& part = call.moments[t];
    ColumnMoments& whole = joined[plan.tiles[t].p_slice];
    if (whole.mean.empty()) whole.reset(m);
    whole.count = part.count;
    const std::int64_t begin = plan.m_slices[plan.tiles[t].m_slice].begin;
    std::copy(part.mean.begin(), part.mean.end(), whole.mean.begin() + begin);
    std::copy(part.m2.begin(), part.m2.end(), whole.m2.begin() + begin);
  }
  ColumnMoments all;
  all.reset(m);
  for (const ColumnMoments& part : joined) {
    all.merge(part.count, part.mean.data(), part.m2.data());
  }
  return all;
}

void OffloadEngine::deliver_moments(const OffloadCall& call, const ColumnMoments& all) {
  const std::int64_t m = call.plan->op.geometry.m();
  std::int64_t at = 0;
  call.for_each_part({0, m}, [&](std::size_t k, std::int64_t, std::int64_t features, std::int64_t) {
    if (ColumnMoments* moments = call.outputs[k].moments; moments != nullptr) {
      moments->reset(features);
      moments->merge(all.count, all.mean.data() + at, all.m2.data() + at);
    }
    at += features;
  });
}

Status OffloadEngine::backward(const LinearOp& op, const float* input,
                               const std::vector<BackwardPart>& parts, float* d_input,
                               bool accumulate_input, bool may_defer) {
  const OpPlan& plan = plan_.ops[op.index];
  if (!plan.offloaded) {
    TEMPO_RETURN_IF_ERROR(
        res_.local->backward(op, input, parts, d_input, accumulate_input, may_defer));
    return settle();
  }
  const ConvGeometry& g = op.geometry;
  if (d_input != nullptr && !accumulate_input) {
    std::memset(d_input, 0,
                static_cast<std::size_t>(op.instances * g.input_elements()) * sizeof(float));
  }
  const bool wants_weights = parts[0].d_weights != nullptr;
  OffloadCall& call = open_call(plan, *steps_[op.index]);
  call.is_backward = true;
  call.input = input;
  call.gradients = parts;
  call.d_input = d_input;
  call.for_each_part({0, g.m()}, [&](std::size_t k, std::int64_t, std::int64_t features, auto) {
    if (!wants_weights) return;
    std::memset(parts[k].d_weights, 0,
                static_cast<std::size_t>(op.instances * features * g.n()) * sizeof(float));
  });
  for (const GradientGroup& group : plan.groups) {
    call.weight_applied.emplace_back(plan.m_slices[group.m_slice].size(), 0);
  }
  call.weight_done.assign(plan.groups.size(), !wants_weights);
  for (const Tile& tile : plan.tiles) {
    call.input_applied.emplace_back(plan.p_slices[tile.p_slice].size(), 0);
  }
  call.input_done.assign(plan.tiles.size(), d_input == nullptr);
  call.units.resize(plan.groups.size());
  TEMPO_RETURN_IF_ERROR(work_until(call, &OffloadCall::is_passable));
  // Those before it have had the time of this one.
  while (calls_.front().get() != &call) TEMPO_RETURN_IF_ERROR(settle(*calls_.front()));
  return may_defer ? Status() : settle(call);
}

// Waits for the weight gradients that are still on their way.
Status OffloadEngine::settle(OffloadCall& call) {
  TEMPO_RETURN_IF_ERROR(work_until(call, &OffloadCall::is_complete));
  drop_operands(*call.step);
  if (call.carried == nullptr) steps_[call.plan->op.index].reset();
  close_call(call);
  return {};
}

Status OffloadEngine::settle() {
  while (!calls_.empty()) TEMPO_RETURN_IF_ERROR(settle(*calls_.front()));
  return {};
}

// Makes the call outlive its step. Its products are under way: workers may drop the operands when
// they have done them. Should one have to be asked again, its operands are made from the copies.
void OffloadEngine::carry(OffloadCall& call) {
  const ConvGeometry& g = call.plan->op.geometry;
  const auto copy = [&](const float* from, std::int64_t each) {
    const std::int64_t count = call.plan->op.instances * each;
    AlignedBuffer<float> to(static_cast<std::size_t>(count));
    std::copy_n(from, count, to.data());
    return to;
  };
  auto carried = std::make_unique<CarriedCall>();
  carried->input = copy(call.input, g.input_elements());
  call.for_each_part({0, g.m()}, [&](std::size_t k, std::int64_t, std::int64_t features, auto) {
    carried->d_outputs.push_back(copy(call.gradients[k].d_output, g.p() * features));
    call.gradients[k].d_output = carried->d_outputs.back().data();
  });
  carried->plan = *call.plan;
  carried->step = std::move(steps_[call.plan->op.index]);
  for (int w = 0; w < res_.dispatcher->worker_count(); ++w) {
    carried->epochs.push_back(res_.dispatcher->epoch(w));
  }
  drop_operands(*carried->step);
  call.input = carried->input.data();
  call.plan = &carried->plan;
  call.carried = std::move(carried);
}

// After workers joined: who took another one's place knows nothing of what that one was asked.
void OffloadEngine::adopt_workers(OffloadCall& call) const {
  const int count = res_.dispatcher->worker_count();
  std::vector<std::uint32_t>& epochs = call.carried->epochs;
  for (auto& ids : call.step->weight_id) ids.resize(count, kNotResident);
  for (auto& ids : call.step->input_id) ids.resize(count, kNotResident);
  for (Unit& unit : call.units) {
    std::erase_if(unit.attempts, [&](const Attempt& attempt) {
      return epochs[attempt.worker] != res_.dispatcher->epoch(attempt.worker);
    });
  }
  epochs.clear();
  for (int w = 0; w < count; ++w) epochs.push_back(res_.dispatcher->epoch(w));
}

std::unique_ptr<OperatorStep> OffloadEngine::make_step(const OpPlan& plan) {
  const LinearOp& op = plan.op;
  auto step = std::make_unique<OperatorStep>();
  {
    const TimeScope scope(*res_.ledger, TimeKind::kKeys);
    draw_operator_keys(plan, *step);
  }
  const auto workers = static_cast<std::size_t>(res_.dispatcher->worker_count());
  step->weight_id.assign(plan.m_slices.size(), std::vector<std::uint64_t>(workers, kNotResident));
  step->input_id.assign(plan.p_slices.size(), std::vector<std::uint64_t>(workers, kNotResident));
  const KeptWeights* const kept = keeps_weights(op) ? kept_[op.index].get() : nullptr;
  if (kept != nullptr) {
    for (std::size_t i = 0; i < kept->keys.size(); ++i) {
      step->keys[i].n = kept->keys[i].n;
      step->keys[i].m = kept->keys[i].m;
    }
    for (std::size_t slice = 0; slice < kept->weight_id.size(); ++slice) {
      for (std::size_t w = 0; w < kept->epoch.size(); ++w) {
        if (kept->epoch[w] != res_.dispatcher->epoch(static_cast<int>(w))) continue;
        step->weight_id[slice][w] = kept->weight_id[slice][w];
      }
    }
  }
  step->group_of_tile.assign(plan.tiles.size(), -1);
  step->projections.resize(plan.tiles.size());
  if (mode_ != StepMode::kTraining || !op.needs_weight_gradient) return step;
  const TimeScope scope(*res_.ledger, TimeKind::kCheck);
  OffloadCall view;
  set_view(view, plan, *step);
  for (std::size_t group = 0; group < plan.groups.size(); ++group) {
    for (const int tile : plan.groups[group].tiles) {
      step->group_of_tile[tile] = static_cast<int>(group);
    }
    step->gradient_checks.push_back(std::make_shared<const ProductChecks>(
        weight_gradient_checks(view.context(plan.groups[group].m_slice), *res_.random,
                               soundness_.rounds(op.index, ProductKind::kWeightGradient))));
  }
  step->gradient_checks_used.assign(plan.groups.size(), false);
  return step;
}

// Every instance has keys of its own: shared ones would link heads and samples. So has every
// n-slice: whoever sees them all learns no more than from keys that they share, since he could turn
// these into others himself.
void OffloadEngine::draw_operator_keys(const OpPlan& plan, OperatorStep& step) {
  const ConvGeometry& g = plan.op.geometry;
  const std::size_t p_each = plan.p_slices.size() / plan.instance_count();
  const std::vector<Slice> p_slices(plan.p_slices.begin(),
                                    plan.p_slices.begin() + static_cast<std::ptrdiff_t>(p_each));
  std::vector<std::size_t> m_sizes;
  for (std::size_t i = 0; i < plan.m_slices_each(); ++i) {
    m_sizes.push_back(static_cast<std::size_t>(plan.m_slices[i].size()));
  }
  std::vector<std::size_t> n_sizes;
  for (const Slice& slice : plan.n_slices) {
    n_sizes.push_back(static_cast<std::size_t>(slice.size()));
  }
  std::vector<std::vector<std::uint32_t>> subsets = deal_indices(*res_.random, n_sizes);
  for (std::size_t i = 0; i < plan.instance_count(); ++i) {
    step.keys.push_back(draw_keys(options_.plan.scheme, *res_.random, options_.coefficients,
                                  static_cast<std::size_t>(plan.in_features(i)),
                                  static_cast<std::size_t>(g.p()), m_sizes));
    if (!subsets.empty()) step.keys.back().n.subset = std::move(subsets[i]);
    for (TileRows& rows : make_tile_rows(g, step.keys.back().p, p_slices)) {
      step.rows.push_back(std::move(rows));
    }
  }
}

void OffloadEngine::set_view(OffloadCall& call, const OpPlan& plan, OperatorStep& step) const {
  call.plan = &plan;
  call.step = &step;
  call.pool = res_.pool;
  call.distribution = options_.plan.goal.distribution;
}

OffloadCall& OffloadEngine::open_call(const OpPlan& plan, OperatorStep& step) {
  calls_.push_back(std::make_unique<OffloadCall>());
  OffloadCall& call = *calls_.back();
  call.number = ++call_count_;
  set_view(call, plan, step);
  return call;
}

void OffloadEngine::close_call(const OffloadCall& call) {
  std::erase_if(calls_, [&](const auto& open) { return open.get() == &call; });
}

// ---- the loop ----------------------------------------------------------------------------------

Status OffloadEngine::work_until(OffloadCall& call, bool (OffloadCall::*is_over)() const) {
  while (!fatal_) {
    // What an earlier operator still owes comes after what everybody waits for.
    for (std::size_t i = calls_.size(); i-- > 0 && !fatal_;) issue_open_units(*calls_[i]);
    if (fatal_ || (call.*is_over)()) break;
    if (std::any_of(calls_.begin(), calls_.end(),
                    [](const auto& c) { return c->has_open_unit(); })) {
      continue;
    }
    if (send_weights_ahead() || (idle_work_ != nullptr && idle_work_->do_some())) {
      res_.dispatcher->poll();
      continue;
    }
    res_.dispatcher->poll(res_.dispatcher->now() + kLateCheckInterval);
    if (res_.dispatcher->now() - late_check_ > kLateCheckInterval) replace_late_attempts();
  }
  if (fatal_) return *fatal_;
  return {};
}

void OffloadEngine::issue_open_units(OffloadCall& call) {
  for (int unit = 0; unit < static_cast<int>(call.units.size()) && !fatal_; ++unit) {
    if (!call.units[unit].is_open()) continue;
    const int planned = call.planned_worker(unit);
    const std::optional<int> worker = res_.dispatcher->usable(planned)
                                          ? std::optional<int>(planned)
                                          : res_.dispatcher->substitute(planned);
    if (!worker || call.units[unit].issues >= kMaxIssues || !ask(call, unit, *worker)) {
      if (!fatal_ && !call.units[unit].is_done) do_inside(call, unit);
    }
    res_.dispatcher->poll();
  }
}

// False when workers cannot be used any more.
bool OffloadEngine::ask(OffloadCall& call, int unit, int worker) {
  Unit& asked = call.units[unit];
  Attempt attempt;
  attempt.generation = static_cast<std::uint32_t>(++asked.issues);
  attempt.worker = worker;
  attempt.deadline = Dispatcher::Clock::time_point::max();
  asked.attempts.push_back(std::move(attempt));
  const auto generation = static_cast<std::uint32_t>(asked.issues);
  const bool issued = call.is_backward ? issue_gradients(call, unit, generation)
                                       : issue_output(call, unit, generation);
  if (Attempt* const pending = asked.find(generation)) {
    pending->deadline = res_.dispatcher->deadline(worker);
  }
  return issued;
}

// A late answer still counts if it is the first to pass its check; meanwhile somebody else is asked
// for the same, in the same bytes, or the enclave does it.
void OffloadEngine::replace_late_attempts() {
  const auto now = late_check_ = res_.dispatcher->now();
  for (const auto& call : calls_) {
    for (int unit = 0; unit < static_cast<int>(call->units.size()) && !fatal_; ++unit) {
      Unit& waiting = call->units[unit];
      bool is_late = false;
      for (Attempt& attempt : waiting.attempts) {
        if (attempt.deadline > now) continue;
        is_late = true;
        attempt.deadline = Dispatcher::Clock::time_point::max();
        res_.dispatcher->mark_late(attempt.worker);
      }
      if (!is_late || waiting.is_done) continue;
      const std::optional<int> other = res_.dispatcher->substitute(waiting.attempts[0].worker);
      const bool may_ask = other && !waiting.is_asked(*other) && waiting.issues < kMaxIssues;
      if (may_ask && ask(*call, unit, *other)) continue;
      if (!fatal_ && !waiting.is_done) do_inside(*call, unit);
    }
  }
}

// While there is nothing to do but wait: encodes a slice of the next operator's weights. False when
// there is none, or no room for it.
bool OffloadEngine::send_weights_ahead() {
  if (ahead_ == nullptr) {
    const int current = calls_.back()->plan->op.index;
    if (calls_.back()->is_backward) return false;
    const auto next = std::find_if(plan_.ops.begin() + current + 1, plan_.ops.end(),
                                   [&](const OpPlan& op) { return op.offloaded; });
    if (next == plan_.ops.end() || announced_[next->op.index].empty()) return false;
    const int index = next->op.index;
    steps_[index] = make_step(*next);
    ahead_ = std::make_unique<OffloadCall>();
    set_view(*ahead_, *next, *steps_[index]);
    for (const float* weights : announced_[index]) ahead_->outputs.push_back({.weights = weights});
  }
  std::set<std::pair<int, int>> wanted;
  for (const Tile& tile : ahead_->plan->tiles) wanted.insert({tile.m_slice, tile.worker});
  for (const auto& [m_slice, worker] : wanted) {
    if (!res_.dispatcher->usable(worker)) continue;
    if (ahead_->step->weight_id[m_slice][worker] != kNotResident) continue;
    const std::optional<Slot> slot =
        res_.dispatcher->try_reserve(weights_task(*ahead_, m_slice, worker).payload_bytes());
    if (!slot) return false;
    put_weights(*ahead_, m_slice, worker, *slot);
    return true;
  }
  return false;
}

std::uint64_t OffloadEngine::note(OffloadCall& call, NoteKind kind, int unit, int tile,
                                  std::uint32_t generation) {
  call.notes.push_back({kind, unit, tile, generation});
  return call.number << 32 | (call.notes.size() - 1);
}

void OffloadEngine::drop(std::vector<std::vector<std::uint64_t>>& ids) {
  for (auto& by_worker : ids) {
    for (std::size_t w = 0; w < by_worker.size(); ++w) {
      const std::uint64_t id = std::exchange(by_worker[w], kNotResident);
      if (id != kNotResident) res_.dispatcher->drop(static_cast<int>(w), id, id);
    }
  }
}

void OffloadEngine::drop_operands(OperatorStep& step) {
  drop(step.weight_id);
  drop(step.input_id);
}

}  // namespace tempo
