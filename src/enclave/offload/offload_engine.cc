#include "enclave/offload/offload_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "base/buffer.h"
#include "enclave/integrity/soundness.h"
#include "enclave/obfuscation/kernels.h"

namespace tempo {
namespace {

enum NoteKind : int { kPutNote, kOutputNote, kInputGradientNote, kWeightGradientNote };
constexpr std::uint64_t kNotResident = 0;
// Rounds are added as long as each makes a miss this many times less likely.
constexpr double kWorthwhileGain = 8;

std::string status_text(const Completion& completion) {
  switch (completion.status) {
    case TaskStatus::kOk:
      return "ok";
    case TaskStatus::kWorkerLost:
      return "connection lost";
    case TaskStatus::kOutOfMemory:
      return "out of memory";
    case TaskStatus::kUnknownId:
      return "claims that an operand is missing";
    case TaskStatus::kBadTask:
      return "refuses a task as malformed";
  }
  return "unknown status";
}

}  // namespace

// One offloaded operator from its forward to its backward.
struct OffloadEngine::OperatorStep {
  std::vector<OperatorKeys> keys;                     // by instance
  std::vector<TileRows> rows;                         // by p-slice
  std::vector<std::vector<std::uint64_t>> weight_id;  // [m-slice][worker]
  std::vector<std::vector<std::uint64_t>> input_id;   // [p-slice][worker]
  std::vector<int> group_of_tile;
  std::vector<ProductChecks> gradient_checks;  // by group: of dW
  std::vector<InputProjections> projections;   // by tile
  std::vector<bool> gradient_checks_used;      // by group: a verdict was given with them
};

// What --insecure-key-reuse keeps of an operator from batch to batch.
struct OffloadEngine::KeptWeights {
  AxisKey n;
  std::vector<AxisKey> m;
  std::vector<std::vector<std::uint64_t>> weight_id;
};

// What a verdict is given on.
struct OffloadEngine::CheckedProduct {
  ProductSoundness* soundness = nullptr;
  CheckOutcome outcome;
  int rounds = 0;          // of the vectors that it was judged with
  std::int64_t inner = 0;  // length of the dot products
  std::size_t rows = 0;
};

// One forward or backward of one operator. Units: tiles (forward) or groups (backward).
struct OffloadEngine::Call {
  enum class Unit { kTodo, kIssued, kDone };
  std::uint64_t number = 0;
  bool is_backward = false;
  const OpPlan* plan = nullptr;
  OperatorStep* step = nullptr;
  ThreadPool* pool = nullptr;
  CheckDistribution distribution = CheckDistribution::kUniform;
  const float* input = nullptr;
  // forward
  const std::vector<ForwardPart>* outputs = nullptr;
  bool wants_moments = false;
  std::vector<ProductChecks> forward_checks;  // by tile; operand side empty until issued
  std::vector<bool> vectors_shared;           // by m-slice: tiles may have the same vectors
  std::vector<int> first_tile;                // by m-slice
  std::vector<ColumnMoments> moments;         // by tile
  // backward
  const std::vector<BackwardPart>* gradients = nullptr;
  float* d_input = nullptr;
  std::vector<ProductChecks> input_checks;                // by group
  std::vector<ExpectedRows> weight_expected;              // by group
  std::vector<std::vector<std::uint8_t>> weight_applied;  // by group
  std::vector<bool> weight_done;                          // by group
  std::vector<std::vector<std::uint8_t>> input_applied;   // by tile
  std::vector<bool> input_done;                           // by tile
  // both
  std::vector<ExpectedRows> expected;  // by tile: of Z forward, of dX backward
  std::vector<Unit> state;
  std::vector<int> worker;
  std::vector<std::uint32_t> generation;
  std::optional<Error> fatal;

  void resize_units(std::size_t units) {
    state.assign(units, Unit::kTodo);
    worker.assign(units, -1);
    generation.assign(units, 0);
  }
  // To be issued again; what is on its way no longer counts.
  void reopen(std::size_t unit) {
    state[unit] = Unit::kTodo;
    generation[unit] += 1;
  }

  // ---- the instance that a slice of out-features belongs to ------------------------------------

  TileContext context(int m_slice) const {
    const OperatorKeys& keys = step->keys[plan->instance_of(m_slice)];
    return {&plan->op.geometry, &keys.n, &keys.p, pool, distribution};
  }
  const AxisKey& m_key(int m_slice) const {
    const std::size_t slice = static_cast<std::size_t>(m_slice) % plan->m_slices_each();
    return step->keys[plan->instance_of(m_slice)].m[slice];
  }
  const float* input_of(int m_slice) const { return input + input_offset(m_slice); }
  float* d_input_of(int m_slice) const { return d_input + input_offset(m_slice); }
  std::int64_t input_offset(int m_slice) const {
    return static_cast<std::int64_t>(plan->instance_of(m_slice)) *
           plan->op.geometry.input_elements();
  }

  // ---- where the out-features of a slice lie ---------------------------------------------------

  // Calls visit(part, its first out-feature in the slice, how many, out-features of the part).
  template <class Visit>
  void for_each_part(const Slice& slice, Visit visit) const {
    const std::vector<LinearPart>& parts = plan->op.parts;
    const std::size_t count = std::max<std::size_t>(parts.size(), 1);
    std::int64_t first = 0;  // of the part, among the operator's
    for (std::size_t k = 0; k < count; ++k) {
      const std::int64_t features = parts.empty() ? plan->op.geometry.m() : parts[k].features;
      const std::int64_t begin = std::max(slice.begin, first);
      const std::int64_t end = std::min(slice.end, first + features);
      if (begin < end) visit(k, begin - first, end - begin, features);
      first += features;
    }
  }
  // By out-feature of the slice: rows of n of a matrix of each part.
  template <class T, class MatrixOf>
  std::vector<T*> rows_of(int m_slice, MatrixOf matrix_of) const {
    const ConvGeometry& g = plan->op.geometry;
    const auto instance = static_cast<std::int64_t>(plan->instance_of(m_slice));
    std::vector<T*> rows;
    for_each_part(plan->m_slices[m_slice], [&](std::size_t k, std::int64_t first,
                                               std::int64_t count, std::int64_t /*features*/) {
      T* const matrix = matrix_of(k) + instance * g.m() * g.n();
      for (std::int64_t a = first; a < first + count; ++a) rows.push_back(matrix + a * g.n());
    });
    return rows;
  }
  WeightRows weights(int m_slice) const {
    return rows_of<const float>(m_slice, [&](std::size_t k) {
      return is_backward ? (*gradients)[k].weights : (*outputs)[k].weights;
    });
  }
  std::vector<float*> d_weights(int m_slice) const {
    return rows_of<float>(m_slice, [&](std::size_t k) { return (*gradients)[k].d_weights; });
  }
  std::vector<OutputColumns> output(int m_slice) const {
    std::vector<OutputColumns> columns;
    for_each_part(plan->m_slices[m_slice], [&](std::size_t k, std::int64_t first,
                                               std::int64_t count, std::int64_t features) {
      const ForwardPart& part = (*outputs)[k];
      columns.push_back({part.output + output_offset(m_slice) + first,
                         part.bias != nullptr ? part.bias + first : nullptr,
                         static_cast<std::size_t>(count), static_cast<std::size_t>(features)});
    });
    return columns;
  }
  std::vector<Columns> d_output(int m_slice) const {
    std::vector<Columns> columns;
    for_each_part(plan->m_slices[m_slice], [&](std::size_t k, std::int64_t first,
                                               std::int64_t count, std::int64_t features) {
      columns.push_back({(*gradients)[k].d_output + output_offset(m_slice) + first,
                         static_cast<std::size_t>(count), static_cast<std::size_t>(features)});
    });
    return columns;
  }
  std::int64_t output_offset(int m_slice) const {
    const ConvGeometry& g = plan->op.geometry;
    return static_cast<std::int64_t>(plan->instance_of(m_slice)) * g.p() * g.m();
  }
};

OffloadEngine::OffloadEngine(Plan plan, const EngineOptions& options,
                             const EngineResources& resources)
    : plan_(std::move(plan)),
      options_(options),
      res_(resources),
      steps_(plan_.ops.size()),
      kept_(plan_.ops.size()),
      soundness_(plan_.ops.size()) {
  for (const OpPlan& op : plan_.ops) {
    soundness_[op.op.index] = {{op.op.name, "forward", op.rounds_forward},
                               {op.op.name, "weight gradient", op.rounds_weight_gradient},
                               {op.op.name, "input gradient", op.rounds_input_gradient}};
  }
}

OffloadEngine::~OffloadEngine() {
  for (const auto& kept : kept_) {
    if (kept != nullptr) drop(kept->weight_id);
  }
}

Status OffloadEngine::begin_step(StepMode mode) {
  mode_ = mode;
  res_.dispatcher->set_step(step_);
  return res_.local->begin_step(mode);
}

Status OffloadEngine::end_step() {
  ++step_;
  // An operator that no gradient reaches had no backward.
  for (auto& step : steps_) {
    if (step != nullptr) drop_operands(*step);
    step.reset();
  }
  return res_.local->end_step();
}

Status OffloadEngine::forward(const LinearOp& op, const float* input,
                              const std::vector<ForwardPart>& parts) {
  const OpPlan& plan = plan_.ops[op.index];
  if (!plan.offloaded) return res_.local->forward(op, input, parts);

  const bool training = mode_ == StepMode::kTraining;
  auto step = std::make_unique<OperatorStep>();
  {
    const TimeScope scope(*res_.ledger, TimeKind::kKeys);
    draw_operator_keys(plan, *step);
  }
  const auto workers = static_cast<std::size_t>(res_.dispatcher->worker_count());
  step->weight_id.assign(plan.m_slices.size(), std::vector<std::uint64_t>(workers, kNotResident));
  step->input_id.assign(plan.p_slices.size(), std::vector<std::uint64_t>(workers, kNotResident));
  // The right operands of activation products change with the batch.
  const bool keeps = keeps_weights() && !op.of_activations;
  KeptWeights* const kept = keeps ? kept_[op.index].get() : nullptr;
  if (kept != nullptr) {
    step->keys[0].n = kept->n;
    step->keys[0].m = kept->m;
    step->weight_id = kept->weight_id;
  }
  step->group_of_tile.assign(plan.tiles.size(), -1);
  step->projections.resize(plan.tiles.size());

  Call call;
  call.number = ++call_count_;
  call.plan = &plan;
  call.step = step.get();
  call.pool = res_.pool;
  call.distribution = options_.goal.distribution;
  call.input = input;
  call.outputs = &parts;
  call.wants_moments = std::any_of(parts.begin(), parts.end(),
                                   [](const ForwardPart& p) { return p.moments != nullptr; });
  call.forward_checks.resize(plan.tiles.size());
  call.vectors_shared.assign(plan.m_slices.size(), true);
  call.first_tile.assign(plan.m_slices.size(), -1);
  for (std::size_t t = plan.tiles.size(); t-- > 0;) {
    call.first_tile[plan.tiles[t].m_slice] = static_cast<int>(t);
  }
  call.moments.resize(plan.tiles.size());
  call.expected.resize(plan.tiles.size());
  call.resize_units(plan.tiles.size());
  if (training && op.needs_weight_gradient) {
    const TimeScope scope(*res_.ledger, TimeKind::kCheck);
    for (std::size_t group = 0; group < plan.groups.size(); ++group) {
      for (const int tile : plan.groups[group].tiles)
        step->group_of_tile[tile] = static_cast<int>(group);
      step->gradient_checks.push_back(
          weight_gradient_checks(call.context(plan.groups[group].m_slice), *res_.random,
                                 soundness_[op.index].weight_gradient.rounds));
    }
    step->gradient_checks_used.assign(plan.groups.size(), false);
  }

  const std::uint64_t first_id = res_.dispatcher->next_id();
  TEMPO_RETURN_IF_ERROR(run(call));
  if (call.wants_moments) deliver_moments(call);
  if (training && op.has_backward()) {
    steps_[op.index] = std::move(step);
  } else if (keeps) {
    drop(step->input_id);
    OperatorKeys& keys = step->keys[0];
    kept_[op.index] = std::make_unique<KeptWeights>(
        KeptWeights{std::move(keys.n), std::move(keys.m), std::move(step->weight_id)});
  } else {
    const std::uint64_t last_id = res_.dispatcher->next_id();
    for (int w = 0; w < static_cast<int>(workers); ++w) res_.dispatcher->drop(w, first_id, last_id);
  }
  return {};
}

// Slices of one range of positions have the same count: joins them, then merges in order.
void OffloadEngine::deliver_moments(const Call& call) {
  const OpPlan& plan = *call.plan;
  const std::int64_t m = plan.op.geometry.m();
  ColumnMoments all;
  ColumnMoments joined;
  all.reset(m);
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const Slice& slice = plan.m_slices[plan.tiles[t].m_slice];
    if (plan.tiles[t].m_slice == 0) joined.reset(m);
    joined.count = call.moments[t].count;
    std::copy(call.moments[t].mean.begin(), call.moments[t].mean.end(),
              joined.mean.begin() + slice.begin);
    std::copy(call.moments[t].m2.begin(), call.moments[t].m2.end(),
              joined.m2.begin() + slice.begin);
    if (slice.end == m) all.merge(joined.count, joined.mean.data(), joined.m2.data());
  }
  std::int64_t at = 0;
  call.for_each_part({0, m}, [&](std::size_t k, std::int64_t, std::int64_t features, std::int64_t) {
    if (ColumnMoments* moments = (*call.outputs)[k].moments; moments != nullptr) {
      moments->reset(features);
      moments->merge(all.count, all.mean.data() + at, all.m2.data() + at);
    }
    at += features;
  });
}

Status OffloadEngine::backward(const LinearOp& op, const float* input,
                               const std::vector<BackwardPart>& parts, float* d_input,
                               bool accumulate_input) {
  const OpPlan& plan = plan_.ops[op.index];
  if (!plan.offloaded) return res_.local->backward(op, input, parts, d_input, accumulate_input);
  const ConvGeometry& g = op.geometry;
  OperatorStep& step = *steps_[op.index];
  if (d_input != nullptr && !accumulate_input) {
    std::memset(d_input, 0,
                static_cast<std::size_t>(op.instances * g.input_elements()) * sizeof(float));
  }
  const bool wants_weights = parts[0].d_weights != nullptr;
  Call call;
  call.number = ++call_count_;
  call.is_backward = true;
  call.plan = &plan;
  call.step = &step;
  call.pool = res_.pool;
  call.distribution = options_.goal.distribution;
  call.input = input;
  call.gradients = &parts;
  call.d_input = d_input;
  call.for_each_part({0, g.m()}, [&](std::size_t k, std::int64_t, std::int64_t features, auto) {
    if (!wants_weights) return;
    std::memset(parts[k].d_weights, 0,
                static_cast<std::size_t>(op.instances * features * g.n()) * sizeof(float));
  });
  call.input_checks.resize(plan.groups.size());
  call.weight_expected.resize(plan.groups.size());
  call.weight_applied.resize(plan.groups.size());
  for (std::size_t group = 0; group < plan.groups.size(); ++group) {
    call.weight_applied[group].assign(plan.m_slices[plan.groups[group].m_slice].size(), 0);
  }
  call.weight_done.assign(plan.groups.size(), !wants_weights);
  call.input_applied.resize(plan.tiles.size());
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    call.input_applied[t].assign(plan.p_slices[plan.tiles[t].p_slice].size(), 0);
  }
  call.input_done.assign(plan.tiles.size(), d_input == nullptr);
  call.expected.resize(plan.tiles.size());
  call.resize_units(plan.groups.size());

  Status status = run(call);
  drop_operands(step);
  steps_[op.index].reset();
  return status;
}

// Every instance has keys of its own: shared ones would link heads and samples.
void OffloadEngine::draw_operator_keys(const OpPlan& plan, OperatorStep& step) {
  const ConvGeometry& g = plan.op.geometry;
  const std::size_t p_each = plan.p_slices.size() / plan.instance_count();
  const std::vector<Slice> p_slices(plan.p_slices.begin(),
                                    plan.p_slices.begin() + static_cast<std::ptrdiff_t>(p_each));
  std::vector<std::size_t> m_sizes;
  for (std::size_t i = 0; i < plan.m_slices_each(); ++i) {
    m_sizes.push_back(static_cast<std::size_t>(plan.m_slices[i].size()));
  }
  for (std::size_t i = 0; i < plan.instance_count(); ++i) {
    step.keys.push_back(draw_keys(options_.scheme, *res_.random, options_.coefficients,
                                  static_cast<std::size_t>(g.n()), static_cast<std::size_t>(g.p()),
                                  m_sizes));
    for (TileRows& rows : make_tile_rows(g, step.keys.back().p, p_slices)) {
      step.rows.push_back(std::move(rows));
    }
  }
}

Status OffloadEngine::run(Call& call) {
  call_ = &call;
  notes_.clear();
  while (!call.fatal) {
    bool open = false;
    for (int unit = 0; unit < static_cast<int>(call.state.size()) && !call.fatal; ++unit) {
      if (call.state[unit] == Call::Unit::kDone) continue;
      open = true;
      if (call.state[unit] == Call::Unit::kIssued) continue;
      const int planned =
          call.is_backward ? call.plan->groups[unit].worker : call.plan->tiles[unit].worker;
      const std::optional<int> worker = res_.dispatcher->alive(planned)
                                            ? std::optional<int>(planned)
                                            : res_.dispatcher->successor(planned);
      call.state[unit] = Call::Unit::kIssued;
      call.generation[unit] += 1;
      bool issued = false;
      if (worker) {
        call.worker[unit] = *worker;
        issued = call.is_backward ? issue_gradients(call, unit, *worker)
                                  : issue_output(call, unit, *worker);
      }
      if (!issued && !call.fatal) do_inside(call, unit);
      res_.dispatcher->poll(false);
    }
    if (!open) break;
    const bool waiting = std::none_of(call.state.begin(), call.state.end(),
                                      [](Call::Unit s) { return s == Call::Unit::kTodo; }) &&
                         std::any_of(call.state.begin(), call.state.end(),
                                     [](Call::Unit s) { return s == Call::Unit::kIssued; });
    if (waiting && !call.fatal) res_.dispatcher->poll(true);
  }
  call_ = nullptr;
  if (call.fatal) return *call.fatal;
  return {};
}

std::uint64_t OffloadEngine::note(const Call& call, int kind, int unit, int tile,
                                  std::uint32_t generation) {
  notes_.push_back({call.number, kind, unit, tile, generation});
  return call.number << 32 | (notes_.size() - 1);
}

void OffloadEngine::drop(const std::vector<std::vector<std::uint64_t>>& ids) {
  for (const auto& by_worker : ids) {
    for (std::size_t w = 0; w < by_worker.size(); ++w) {
      if (by_worker[w] == kNotResident) continue;
      res_.dispatcher->drop(static_cast<int>(w), by_worker[w], by_worker[w]);
    }
  }
}

void OffloadEngine::drop_operands(const OperatorStep& step) {
  drop(step.weight_id);
  drop(step.input_id);
}

// ---- issuing -----------------------------------------------------------------------------------

bool OffloadEngine::ensure_weights(Call& call, int m_slice, int worker) {
  std::uint64_t& id = call.step->weight_id[m_slice][worker];
  if (id != kNotResident) return true;
  const Slice& slice = call.plan->m_slices[m_slice];
  Task task;
  task.verb = Verb::kPut;
  task.worker = static_cast<std::uint32_t>(worker);
  task.rows = static_cast<std::uint32_t>(slice.size());
  task.cols = static_cast<std::uint32_t>(call.plan->op.geometry.n());
  const std::optional<Slot> slot = res_.dispatcher->reserve(task.payload_bytes());
  if (!slot) return false;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kEncode);
    encode_weights(call.context(m_slice), call.weights(m_slice), call.m_key(m_slice), slot->data);
  }
  id = task.result = res_.dispatcher->next_id();
  res_.dispatcher->submit(task, slot, std::nullopt, this, note(call, kPutNote, -1, -1, 0));
  return true;
}

// Puts X' of the tile's positions where it is missing. Forward: also takes the tile's check sums.
bool OffloadEngine::ensure_input(Call& call, int tile_index, int worker) {
  const Tile& tile = call.plan->tiles[tile_index];
  const TileRows& rows = call.step->rows[tile.p_slice];
  std::uint64_t& id = call.step->input_id[tile.p_slice][worker];
  const int group = call.step->group_of_tile[tile_index];
  const bool projects = !call.is_backward && group >= 0;
  const ProductChecks* forward = call.is_backward ? nullptr : &call.forward_checks[tile_index];
  const ProductChecks* gradient = projects ? &call.step->gradient_checks[group] : nullptr;
  InputProjections* projections = projects ? &call.step->projections[tile_index] : nullptr;
  ExpectedRows* expected = call.is_backward ? nullptr : &call.expected[tile_index];

  std::optional<Slot> slot;
  Task task;
  if (id == kNotResident) {
    task.verb = Verb::kPut;
    task.worker = static_cast<std::uint32_t>(worker);
    task.rows = static_cast<std::uint32_t>(rows.size());
    task.cols = static_cast<std::uint32_t>(call.plan->op.geometry.n());
    slot = res_.dispatcher->reserve(task.payload_bytes());
    if (!slot) return false;
  } else if (call.is_backward) {
    return true;
  }
  {
    const TimeScope scope(*res_.ledger, TimeKind::kEncode);
    encode_input(call.context(tile.m_slice), call.input_of(tile.m_slice), rows, forward, expected,
                 gradient, projections, slot ? slot->data : nullptr);
  }
  if (slot) {
    id = task.result = res_.dispatcher->next_id();
    res_.dispatcher->submit(task, slot, std::nullopt, this, note(call, kPutNote, -1, -1, 0));
  }
  return true;
}

bool OffloadEngine::issue_output(Call& call, int unit, int worker) {
  const std::uint32_t generation = call.generation[unit];
  const Tile& tile = call.plan->tiles[unit];
  OperatorStep& step = *call.step;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kCheck);
    // Tiles of one slice share their vectors as long as none of them has been re-issued.
    const int twin = call.first_tile[tile.m_slice];
    if (call.vectors_shared[tile.m_slice] && generation == 1 && twin != unit &&
        call.generation[twin] == 1) {
      call.forward_checks[unit] = call.forward_checks[twin];
    } else {
      call.forward_checks[unit] = forward_checks(
          call.context(tile.m_slice), *res_.random, soundness_[call.plan->op.index].forward.rounds,
          call.weights(tile.m_slice), call.m_key(tile.m_slice));
    }
  }
  if (!ensure_weights(call, tile.m_slice, worker)) return false;
  if (call.generation[unit] != generation) return true;
  if (!ensure_input(call, unit, worker)) return false;
  if (call.generation[unit] != generation) return true;

  Task task;
  task.verb = Verb::kMultiply;
  task.worker = static_cast<std::uint32_t>(worker);
  task.a = step.input_id[tile.p_slice][worker];
  task.b = step.weight_id[tile.m_slice][worker];
  task.flags = kTransposeB | kReturn;
  task.rows = static_cast<std::uint32_t>(step.rows[tile.p_slice].size());
  task.cols = static_cast<std::uint32_t>(call.plan->m_slices[tile.m_slice].size());
  const std::optional<Slot> reply = res_.dispatcher->reserve(task.reply_bytes());
  if (!reply) return false;
  if (call.generation[unit] != generation) {
    res_.dispatcher->release(*reply);
    return true;
  }
  res_.dispatcher->submit(task, std::nullopt, reply, this,
                          note(call, kOutputNote, unit, unit, generation));
  return true;
}

// New vectors for dW when the old ones have served: the projections of X follow.
void OffloadEngine::refresh_projections(Call& call, int unit) {
  OperatorStep& step = *call.step;
  const TimeScope scope(*res_.ledger, TimeKind::kCheck);
  const int m_slice = call.plan->groups[unit].m_slice;
  const TileContext context = call.context(m_slice);
  step.gradient_checks[unit] = weight_gradient_checks(
      context, *res_.random, soundness_[call.plan->op.index].weight_gradient.rounds);
  step.gradient_checks_used[unit] = false;
  for (const int tile : call.plan->groups[unit].tiles) {
    encode_input(context, call.input_of(m_slice), step.rows[call.plan->tiles[tile].p_slice],
                 nullptr, nullptr, &step.gradient_checks[unit], &step.projections[tile], nullptr);
  }
}

bool OffloadEngine::issue_gradients(Call& call, int unit, int worker) {
  const std::uint32_t generation = call.generation[unit];
  const GradientGroup& group = call.plan->groups[unit];
  const Slice& slice = call.plan->m_slices[group.m_slice];
  const AxisKey& m_key = call.m_key(group.m_slice);
  const TileContext context = call.context(group.m_slice);
  OperatorStep& step = *call.step;
  const bool wants_weights = !call.weight_done[unit];
  int weight_rounds = 0;
  const auto moved_on = [&] { return call.generation[unit] != generation; };

  if (wants_weights) {
    // Tiles whose forward product was done inside have no projections yet.
    const bool incomplete = std::any_of(group.tiles.begin(), group.tiles.end(),
                                        [&](int t) { return step.projections[t].norms.empty(); });
    if (step.gradient_checks_used[unit] || incomplete) refresh_projections(call, unit);
    step.gradient_checks_used[unit] = true;
    weight_rounds = step.gradient_checks[unit].rounds;
    call.weight_expected[unit].reset(static_cast<std::size_t>(slice.size()), weight_rounds);
  }
  if (call.d_input != nullptr) {
    const TimeScope scope(*res_.ledger, TimeKind::kCheck);
    call.input_checks[unit] = input_gradient_checks(
        context, *res_.random, soundness_[call.plan->op.index].input_gradient.rounds,
        call.weights(group.m_slice));
  }
  const std::vector<Columns> d_output = call.d_output(group.m_slice);
  const std::uint64_t sum_id = res_.dispatcher->next_id();
  for (std::size_t i = 0; i < group.tiles.size(); ++i) {
    const int tile_index = group.tiles[i];
    const Tile& tile = call.plan->tiles[tile_index];
    const TileRows& rows = step.rows[tile.p_slice];
    const bool wants_input = !call.input_done[tile_index];
    if (!wants_weights && !wants_input) continue;
    if (wants_input && !ensure_weights(call, tile.m_slice, worker)) return false;
    if (moved_on()) return true;
    if (wants_weights && !ensure_input(call, tile_index, worker)) return false;
    if (moved_on()) return true;

    Task put;
    put.verb = Verb::kPut;
    put.worker = static_cast<std::uint32_t>(worker);
    put.rows = static_cast<std::uint32_t>(rows.size());
    put.cols = static_cast<std::uint32_t>(slice.size());
    const std::optional<Slot> slot = res_.dispatcher->reserve(put.payload_bytes());
    if (!slot) return false;
    if (moved_on()) {
      res_.dispatcher->release(*slot);
      return true;
    }
    {
      const TimeScope scope(*res_.ledger, TimeKind::kEncode);
      encode_gradient(context, d_output, rows, m_key,
                      wants_input ? &call.input_checks[unit] : nullptr, &call.expected[tile_index],
                      wants_weights ? &step.projections[tile_index] : nullptr, weight_rounds,
                      &call.weight_expected[unit], slot->data);
    }
    put.result = res_.dispatcher->next_id();
    res_.dispatcher->submit(put, slot, std::nullopt, this, note(call, kPutNote, -1, -1, 0));

    if (wants_input) {
      Task task;
      task.verb = Verb::kMultiply;
      task.worker = static_cast<std::uint32_t>(worker);
      task.a = put.result;
      task.b = step.weight_id[tile.m_slice][worker];
      task.flags = kReturn;
      task.rows = put.rows;
      task.cols = static_cast<std::uint32_t>(call.plan->op.geometry.n());
      const std::optional<Slot> reply = res_.dispatcher->reserve(task.reply_bytes());
      if (!reply) return false;
      if (moved_on()) {
        res_.dispatcher->release(*reply);
        return true;
      }
      res_.dispatcher->submit(task, std::nullopt, reply, this,
                              note(call, kInputGradientNote, unit, tile_index, generation));
    }
    if (wants_weights) {
      const bool last = i + 1 == group.tiles.size();
      Task task;
      task.verb = Verb::kMultiply;
      task.worker = static_cast<std::uint32_t>(worker);
      task.a = put.result;
      task.b = step.input_id[tile.p_slice][worker];
      task.result = sum_id;
      task.flags = kTransposeA | (i > 0 ? kAccumulate : 0U) | (last ? kReturn : kKeep);
      task.rows = static_cast<std::uint32_t>(slice.size());
      task.cols = static_cast<std::uint32_t>(call.plan->op.geometry.n());
      std::optional<Slot> reply;
      if (last) {
        reply = res_.dispatcher->reserve(task.reply_bytes());
        if (!reply) return false;
        if (moved_on()) {
          res_.dispatcher->release(*reply);
          return true;
        }
      }
      res_.dispatcher->submit(task, std::nullopt, reply, this,
                              last ? note(call, kWeightGradientNote, unit, -1, generation)
                                   : note(call, kPutNote, -1, -1, 0));
    }
    res_.dispatcher->drop(worker, put.result, put.result);
    if (moved_on()) return true;
  }
  res_.dispatcher->drop(worker, sum_id, sum_id);
  return true;
}

// ---- inside the enclave: no worker is left, or the numbers are beyond what a check can weigh ----

void OffloadEngine::do_inside(Call& call, int unit) {
  call.generation[unit] += 1;  // whatever is still on its way no longer counts
  const TimeScope scope(*res_.ledger, TimeKind::kLinearTee);
  if (call.is_backward) {
    compute_gradients_inside(call, unit);
  } else {
    compute_output_inside(call, unit);
  }
  call.state[unit] = Call::Unit::kDone;
}

void OffloadEngine::compute_output_inside(Call& call, int unit) {
  const Tile& tile = call.plan->tiles[unit];
  compute_output(call.context(tile.m_slice), call.input_of(tile.m_slice),
                 call.weights(tile.m_slice), call.step->rows[tile.p_slice],
                 call.output(tile.m_slice), call.wants_moments ? &call.moments[unit] : nullptr);
}

void OffloadEngine::compute_gradients_inside(Call& call, int unit) {
  const GradientGroup& group = call.plan->groups[unit];
  const TileContext context = call.context(group.m_slice);
  const auto n = static_cast<std::size_t>(context.geometry->n());
  const WeightRows weights = call.weights(group.m_slice);
  const std::vector<Columns> d_output = call.d_output(group.m_slice);
  AlignedBuffer<float> sum(call.weight_done[unit] ? 0 : weights.size() * n);
  for (const int tile_index : group.tiles) {
    const TileRows& rows = call.step->rows[call.plan->tiles[tile_index].p_slice];
    if (!call.input_done[tile_index]) {
      compute_input_gradient(context, d_output, weights, rows, call.input_applied[tile_index],
                             call.d_input_of(group.m_slice));
      call.input_done[tile_index] = true;
    }
    if (!call.weight_done[unit]) {
      compute_weight_gradient(context, call.input_of(group.m_slice), d_output, rows, sum.data());
    }
  }
  if (call.weight_done[unit]) return;
  const std::vector<float*> d_weights = call.d_weights(group.m_slice);
  for (std::size_t a = 0; a < d_weights.size(); ++a) {
    if (call.weight_applied[unit][a] != 0) continue;
    for (std::size_t j = 0; j < n; ++j) d_weights[a][j] += sum[a * n + j];
  }
  call.weight_done[unit] = true;
}

// ---- completions -------------------------------------------------------------------------------

void OffloadEngine::on_completion(std::uint64_t tag, int worker, const Completion& completion,
                                  const std::optional<Slot>& reply) {
  const std::uint64_t number = tag >> 32;
  const auto index = static_cast<std::size_t>(tag & 0xffffffffU);
  if (call_ == nullptr || call_->number != number) {  // of an operator that is long done
    if (reply) res_.dispatcher->release(*reply);
    return;
  }
  Call& call = *call_;
  const TaskNote task = notes_[index];
  if (completion.status != TaskStatus::kOk) {
    if (reply) res_.dispatcher->release(*reply);
    if (!call.fatal) fail_worker(call, worker, EngineEvent::Kind::kLost, status_text(completion));
    return;
  }
  const bool current = task.unit >= 0 && call.generation[task.unit] == task.generation &&
                       call.state[task.unit] == Call::Unit::kIssued && !call.fatal;
  if (current) {
    switch (task.kind) {
      case kOutputNote:
        finish_output(call, task.unit, *reply, worker);
        break;
      case kInputGradientNote:
        finish_input_gradient(call, task.unit, task.tile, *reply, worker);
        break;
      case kWeightGradientNote:
        finish_weight_gradient(call, task.unit, *reply, worker);
        break;
      default:
        break;
    }
  }
  if (reply) res_.dispatcher->release(*reply);
}

void OffloadEngine::fail_worker(Call& call, int worker, EngineEvent::Kind kind,
                                const std::string& detail) {
  res_.dispatcher->retire(worker, kind, call.plan->op.name, detail);
  for (std::size_t unit = 0; unit < call.state.size(); ++unit) {
    if (call.worker[unit] == worker && call.state[unit] == Call::Unit::kIssued) call.reopen(unit);
  }
}

// A refusal tells the workers something about the vectors that it was given with. Whatever else
// would be judged with them is multiplied again and judged with new ones.
void OffloadEngine::retire_vectors(Call& call, int m_slice) {
  if (!call.vectors_shared[m_slice]) return;
  call.vectors_shared[m_slice] = false;
  for (std::size_t unit = 0; unit < call.state.size(); ++unit) {
    const bool is_judged_with_them = call.plan->tiles[unit].m_slice == m_slice;
    if (is_judged_with_them && call.state[unit] == Call::Unit::kIssued) call.reopen(unit);
  }
}

// Rounds are planned for results whose terms add up as independent ones do. Where they cancel, the
// tolerance is larger against them, and vectors drawn from now on get another round.
void OffloadEngine::record_soundness(const CheckedProduct& product) {
  ProductSoundness& soundness = *product.soundness;
  const double tolerance = product.outcome.tolerance_over_rms;
  const auto miss_of = [&](int rounds) {
    SoundnessGoal goal = options_.goal;
    goal.checks = 1;
    return soundness_reached(tolerance, product.inner, rounds, goal);
  };
  const double miss = miss_of(product.rounds);
  soundness.checks += 1;
  soundness.tolerance_over_rms = std::max(soundness.tolerance_over_rms, tolerance);
  // Rows of a refused product that passed may have been kept: each had the chance of its own.
  soundness.miss += product.outcome.passed ? miss : miss * static_cast<double>(product.rows);
  if (miss > plan_.allowed_miss && soundness.rounds == product.rounds &&
      product.rounds < kMaxRounds && miss_of(product.rounds + 1) * kWorthwhileGain <= miss) {
    soundness.rounds += 1;
    res_.stats->rounds = std::max(res_.stats->rounds, soundness.rounds);
  }
}

void OffloadEngine::verdict(Call& call, int unit, int worker, const CheckedProduct& product) {
  EngineStats& stats = *res_.stats;
  stats.checks_done += 1;
  record_soundness(product);
  if (product.outcome.passed) {
    stats.workers[worker].products += 1;
    return;
  }
  stats.checks_failed += 1;
  stats.workers[worker].tampered += 1;
  fail_worker(
      call, worker, EngineEvent::Kind::kTampered,
      "wrong result: " + product.soundness->product + " product, part " + std::to_string(unit));
  if (!call.is_backward) retire_vectors(call, call.plan->tiles[unit].m_slice);
  if (options_.on_tamper == TamperPolicy::kAbort) {
    call.fatal = Error{ErrorCode::kTampered,
                       "a worker returned a wrong result",
                       "worker " + std::to_string(worker) + ", operator " + call.plan->op.name +
                           ", " + product.soundness->product,
                       "a product that passes its check",
                       "one that does not",
                       "do not use this worker; --on-tamper continue goes on without it"};
  }
}

void OffloadEngine::finish_output(Call& call, int unit, const Slot& reply, int worker) {
  const Tile& tile = call.plan->tiles[unit];
  const TileRows& rows = call.step->rows[tile.p_slice];
  const ProductChecks& checks = call.forward_checks[unit];
  CheckOutcome outcome;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kDecode);
    outcome = decode_output(call.context(tile.m_slice), reply.data, rows, call.m_key(tile.m_slice),
                            checks, call.expected[unit], call.output(tile.m_slice),
                            call.wants_moments ? &call.moments[unit] : nullptr);
  }
  if (!outcome.passed && !call.expected[unit].is_finite()) return do_inside(call, unit);
  if (outcome.passed) call.state[unit] = Call::Unit::kDone;
  verdict(call, unit, worker,
          {&soundness_[call.plan->op.index].forward, outcome, checks.rounds,
           call.plan->op.geometry.n(), rows.size()});
}

void OffloadEngine::finish_input_gradient(Call& call, int unit, int tile_index, const Slot& reply,
                                          int worker) {
  const Tile& tile = call.plan->tiles[tile_index];
  const TileRows& rows = call.step->rows[tile.p_slice];
  const std::int64_t features = call.plan->m_slices[tile.m_slice].size();
  const ProductChecks& checks = call.input_checks[unit];
  CheckOutcome outcome;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kDecode);
    outcome = decode_input_gradient(call.context(tile.m_slice), reply.data, rows, features, checks,
                                    call.expected[tile_index], call.input_applied[tile_index],
                                    call.d_input_of(tile.m_slice));
  }
  if (!outcome.passed && !call.expected[tile_index].is_finite()) return do_inside(call, unit);
  if (outcome.passed) call.input_done[tile_index] = true;
  const auto& tiles = call.plan->groups[unit].tiles;
  if (outcome.passed && call.weight_done[unit] &&
      std::all_of(tiles.begin(), tiles.end(), [&](int t) { return call.input_done[t]; })) {
    call.state[unit] = Call::Unit::kDone;
  }
  verdict(call, unit, worker,
          {&soundness_[call.plan->op.index].input_gradient, outcome, checks.rounds, features,
           rows.size()});
}

void OffloadEngine::finish_weight_gradient(Call& call, int unit, const Slot& reply, int worker) {
  const GradientGroup& group = call.plan->groups[unit];
  std::int64_t inner = 0;
  for (const int tile : group.tiles) {
    inner += static_cast<std::int64_t>(call.step->rows[call.plan->tiles[tile].p_slice].size());
  }
  const ProductChecks& checks = call.step->gradient_checks[unit];
  const std::vector<float*> d_weights = call.d_weights(group.m_slice);
  CheckOutcome outcome;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kDecode);
    outcome = decode_weight_gradient(call.context(group.m_slice), reply.data,
                                     call.m_key(group.m_slice), checks, call.weight_expected[unit],
                                     inner, call.weight_applied[unit], d_weights);
  }
  if (!outcome.passed && !call.weight_expected[unit].is_finite()) return do_inside(call, unit);
  if (outcome.passed) call.weight_done[unit] = true;
  if (outcome.passed && std::all_of(group.tiles.begin(), group.tiles.end(),
                                    [&](int t) { return call.input_done[t]; })) {
    call.state[unit] = Call::Unit::kDone;
  }
  verdict(call, unit, worker,
          {&soundness_[call.plan->op.index].weight_gradient, outcome, checks.rounds, inner,
           d_weights.size()});
}

void OffloadEngine::report_soundness(std::vector<ProductSoundness>& out) const {
  for (const OperatorSoundness& op : soundness_) {
    for (const ProductSoundness& product : {op.forward, op.weight_gradient, op.input_gradient}) {
      if (product.checks > 0) out.push_back(product);
    }
  }
}

}  // namespace tempo
