// What OffloadEngine asks of workers, and what it does inside when none can be asked.
#include <algorithm>

#include "base/buffer.h"
#include "enclave/offload/offload_call.h"
#include "enclave/offload/offload_engine.h"

namespace tempo {
namespace {

// An id on a worker that nobody needs beyond the tasks that are issued here.
struct TransientOperand {
  TransientOperand(Dispatcher& dispatcher_, int worker_)
      : dispatcher(dispatcher_), worker(worker_), id(dispatcher_.next_id()) {}
  ~TransientOperand() { dispatcher.drop(worker, id, id); }
  TransientOperand(const TransientOperand&) = delete;
  TransientOperand& operator=(const TransientOperand&) = delete;

  Dispatcher& dispatcher;
  const int worker;
  const std::uint64_t id;
};

}  // namespace

Task OffloadEngine::weights_task(const OffloadCall& call, int m_slice, int worker) {
  Task task;
  task.verb = Verb::kPut;
  task.worker = static_cast<std::uint32_t>(worker);
  task.rows = static_cast<std::uint32_t>(call.plan->m_slices[m_slice].size());
  task.cols = static_cast<std::uint32_t>(call.plan->in_features_of(m_slice));
  return task;
}

void OffloadEngine::put_weights(OffloadCall& call, int m_slice, int worker, const Slot& slot) {
  {
    const TimeScope scope(*res_.ledger, TimeKind::kEncode);
    encode_weights(call.context(m_slice), call.weights(m_slice), call.m_key(m_slice), slot.data);
  }
  Task task = weights_task(call, m_slice, worker);
  task.result = call.step->weight_id[m_slice][worker] = res_.dispatcher->next_id();
  res_.dispatcher->submit(task, slot, std::nullopt, this, note(call, NoteKind::kPut, -1, -1, 0));
}

bool OffloadEngine::ensure_weights(OffloadCall& call, int m_slice, int worker) {
  if (call.step->weight_id[m_slice][worker] != kNotResident) return true;
  const std::optional<Slot> slot =
      res_.dispatcher->reserve(weights_task(call, m_slice, worker).payload_bytes());
  if (!slot) return false;
  put_weights(call, m_slice, worker, *slot);
  return true;
}

// Puts X' of the tile's positions where it is missing. Forward: also takes the tile's check sums.
bool OffloadEngine::ensure_input(OffloadCall& call, int unit, int tile_index,
                                 std::uint32_t generation, int worker) {
  const Tile& tile = call.plan->tiles[tile_index];
  const TileRows& rows = call.step->rows[tile.p_slice];
  const bool is_missing = call.step->input_id[tile.p_slice][worker] == kNotResident;
  if (!is_missing && call.is_backward) return true;
  Task task;
  task.verb = Verb::kPut;
  task.worker = static_cast<std::uint32_t>(worker);
  task.rows = static_cast<std::uint32_t>(rows.size());
  task.cols = static_cast<std::uint32_t>(call.plan->in_features_of(tile.m_slice));
  std::optional<Slot> slot;
  if (is_missing) {
    slot = res_.dispatcher->reserve(task.payload_bytes());
    if (!slot) return false;
  }
  Attempt* const attempt = call.units[unit].find(generation);
  if (attempt == nullptr) {
    if (slot) res_.dispatcher->release(*slot);
    return true;
  }
  const int group = call.step->group_of_tile[tile_index];
  const bool projects = !call.is_backward && group >= 0;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kEncode);
    encode_input(call.context(tile.m_slice), call.input_of(tile.m_slice), rows,
                 call.is_backward ? nullptr : attempt->checks.get(),
                 call.is_backward ? nullptr : &attempt->expected[0],
                 projects ? call.step->gradient_checks[group].get() : nullptr,
                 projects ? &call.step->projections[tile_index] : nullptr,
                 slot ? slot->data : nullptr);
  }
  if (slot) {
    task.result = call.step->input_id[tile.p_slice][worker] = res_.dispatcher->next_id();
    res_.dispatcher->submit(task, slot, std::nullopt, this, note(call, NoteKind::kPut, -1, -1, 0));
  }
  return true;
}

bool OffloadEngine::issue_output(OffloadCall& call, int unit, std::uint32_t generation) {
  const Tile& tile = call.plan->tiles[unit];
  OperatorStep& step = *call.step;
  Unit& asked = call.units[unit];
  const int worker = asked.find(generation)->worker;
  const auto moved_on = [&] { return asked.find(generation) == nullptr; };
  {
    const TimeScope scope(*res_.ledger, TimeKind::kCheck);
    const auto draw = [&] {
      return std::make_shared<const ProductChecks>(
          forward_checks(call.context(tile.m_slice), *res_.random,
                         soundness_.rounds(call.plan->op.index, ProductKind::kForward),
                         call.weights(tile.m_slice), call.m_key(tile.m_slice)));
    };
    Attempt& attempt = *asked.find(generation);
    attempt.expected.resize(1);
    // Tiles of one slice share their vectors as long as none of them has been refused.
    attempt.shares_vectors = generation == 1 && !call.vectors_retired[tile.m_slice];
    SharedChecks& shared = call.vectors[tile.m_slice];
    if (attempt.shares_vectors && shared == nullptr) shared = draw();
    attempt.checks = attempt.shares_vectors ? shared : draw();
  }
  if (!ensure_weights(call, tile.m_slice, worker)) return false;
  if (moved_on()) return true;
  if (!ensure_input(call, unit, unit, generation, worker)) return false;
  if (moved_on()) return true;

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
  if (moved_on()) {
    res_.dispatcher->release(*reply);
    return true;
  }
  res_.dispatcher->submit(task, std::nullopt, reply, this,
                          note(call, NoteKind::kOutput, unit, unit, generation),
                          work_of(task, call.plan->in_features_of(tile.m_slice)));
  return true;
}

double OffloadEngine::work_of(const Task& product, std::int64_t inner) {
  return static_cast<double>(product.rows) * product.cols * static_cast<double>(inner);
}

// New vectors for dW when the old ones have served: the projections of X follow.
void OffloadEngine::refresh_projections(OffloadCall& call, int unit) {
  OperatorStep& step = *call.step;
  const TimeScope scope(*res_.ledger, TimeKind::kCheck);
  const int m_slice = call.plan->groups[unit].m_slice;
  const TileContext context = call.context(m_slice);
  step.gradient_checks[unit] = std::make_shared<const ProductChecks>(weight_gradient_checks(
      context, *res_.random, soundness_.rounds(call.plan->op.index, ProductKind::kWeightGradient)));
  for (const int tile : call.plan->groups[unit].tiles) {
    encode_input(context, call.input_of(m_slice), step.rows[call.plan->tiles[tile].p_slice],
                 nullptr, nullptr, step.gradient_checks[unit].get(), &step.projections[tile],
                 nullptr);
  }
}

bool OffloadEngine::issue_gradients(OffloadCall& call, int unit, std::uint32_t generation) {
  const GradientGroup& group = call.plan->groups[unit];
  const Slice& slice = call.plan->m_slices[group.m_slice];
  const AxisKey& m_key = call.m_key(group.m_slice);
  const TileContext context = call.context(group.m_slice);
  const auto n = static_cast<std::uint32_t>(context.n_key->size());
  OperatorStep& step = *call.step;
  Unit& asked = call.units[unit];
  const int worker = asked.find(generation)->worker;
  const bool wants_weights = !call.weight_done[unit];
  const auto moved_on = [&] { return asked.find(generation) == nullptr; };

  if (wants_weights) {
    // Tiles whose forward product was done inside have no projections yet.
    const bool incomplete = std::any_of(group.tiles.begin(), group.tiles.end(),
                                        [&](int t) { return step.projections[t].norms.empty(); });
    if (step.gradient_checks_used[unit] || incomplete) refresh_projections(call, unit);
    step.gradient_checks_used[unit] = true;
    Attempt& attempt = *asked.find(generation);
    attempt.checks = step.gradient_checks[unit];
    attempt.weight_expected.reset(static_cast<std::size_t>(slice.size()), attempt.checks->rounds);
  }
  {
    Attempt& attempt = *asked.find(generation);
    attempt.expected.resize(group.tiles.size());
    if (call.d_input != nullptr) {
      const TimeScope scope(*res_.ledger, TimeKind::kCheck);
      attempt.input_checks = std::make_shared<const ProductChecks>(
          input_gradient_checks(context, *res_.random,
                                soundness_.rounds(call.plan->op.index, ProductKind::kInputGradient),
                                call.weights(group.m_slice)));
    }
  }
  const std::vector<Columns> d_output = call.d_output(group.m_slice);
  const TransientOperand sum(*res_.dispatcher, worker);
  for (std::size_t i = 0; i < group.tiles.size(); ++i) {
    const int tile_index = group.tiles[i];
    const Tile& tile = call.plan->tiles[tile_index];
    const TileRows& rows = step.rows[tile.p_slice];
    const bool wants_input = !call.input_done[tile_index];
    if (!wants_weights && !wants_input) continue;
    if (wants_input && !ensure_weights(call, tile.m_slice, worker)) return false;
    if (moved_on()) return true;
    if (wants_weights && !ensure_input(call, unit, tile_index, generation, worker)) return false;
    if (moved_on()) return true;

    Task put;
    put.verb = Verb::kPut;
    put.worker = static_cast<std::uint32_t>(worker);
    put.rows = static_cast<std::uint32_t>(rows.size());
    put.cols = static_cast<std::uint32_t>(slice.size());
    const std::optional<Slot> slot = res_.dispatcher->reserve(put.payload_bytes());
    if (!slot) return false;
    Attempt* const attempt = asked.find(generation);
    if (attempt == nullptr) {
      res_.dispatcher->release(*slot);
      return true;
    }
    {
      const TimeScope scope(*res_.ledger, TimeKind::kEncode);
      encode_gradient(
          context, d_output, rows, m_key, wants_input ? attempt->input_checks.get() : nullptr,
          &attempt->expected[i], wants_weights ? &step.projections[tile_index] : nullptr,
          wants_weights ? attempt->checks->rounds : 0, &attempt->weight_expected, slot->data);
    }
    const TransientOperand gradient(*res_.dispatcher, worker);
    put.result = gradient.id;
    res_.dispatcher->submit(put, slot, std::nullopt, this, note(call, NoteKind::kPut, -1, -1, 0));

    if (wants_input) {
      Task task;
      task.verb = Verb::kMultiply;
      task.worker = static_cast<std::uint32_t>(worker);
      task.a = put.result;
      task.b = step.weight_id[tile.m_slice][worker];
      task.flags = kReturn;
      task.rows = put.rows;
      task.cols = n;
      const std::optional<Slot> reply = res_.dispatcher->reserve(task.reply_bytes());
      if (!reply) return false;
      if (moved_on()) {
        res_.dispatcher->release(*reply);
        return true;
      }
      res_.dispatcher->submit(
          task, std::nullopt, reply, this,
          note(call, NoteKind::kInputGradient, unit, static_cast<int>(i), generation),
          work_of(task, slice.size()));
    }
    if (wants_weights) {
      const bool last = i + 1 == group.tiles.size();
      Task task;
      task.verb = Verb::kMultiply;
      task.worker = static_cast<std::uint32_t>(worker);
      task.a = put.result;
      task.b = step.input_id[tile.p_slice][worker];
      task.result = sum.id;
      task.flags = kTransposeA | (i > 0 ? kAccumulate : 0U) | (last ? kReturn : kKeep);
      task.rows = static_cast<std::uint32_t>(slice.size());
      task.cols = n;
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
                              last ? note(call, NoteKind::kWeightGradient, unit, -1, generation)
                                   : note(call, NoteKind::kPut, -1, -1, 0),
                              work_of(task, put.rows));
    }
    if (moved_on()) return true;
  }
  return true;
}

// ---- inside the enclave: no worker is left, or the numbers are beyond what a check can weigh ----

void OffloadEngine::do_inside(OffloadCall& call, int unit) {
  const TimeScope scope(*res_.ledger, TimeKind::kLinearTee);
  if (call.is_backward) {
    compute_gradients_inside(call, unit);
  } else {
    compute_output_inside(call, unit);
  }
  call.units[unit].is_done = true;
  call.units[unit].attempts.clear();  // whatever is still on its way no longer counts
}

void OffloadEngine::compute_output_inside(OffloadCall& call, int unit) {
  const Tile& tile = call.plan->tiles[unit];
  compute_output(call.context(tile.m_slice), call.input_of(tile.m_slice),
                 call.weights(tile.m_slice), call.step->rows[tile.p_slice],
                 call.output(tile.m_slice), call.moments_of(unit));
}

void OffloadEngine::compute_gradients_inside(OffloadCall& call, int unit) {
  const GradientGroup& group = call.plan->groups[unit];
  const TileContext context = call.context(group.m_slice);
  const WeightRows weights = call.weights(group.m_slice);
  const std::vector<Columns> d_output = call.d_output(group.m_slice);
  AlignedBuffer<float> sum(call.weight_done[unit] ? 0 : weights.size() * context.n_key->size());
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
  add_weight_gradient(context, sum.data(), call.weight_applied[unit],
                      call.d_weights(group.m_slice));
  call.weight_done[unit] = true;
}

}  // namespace tempo
