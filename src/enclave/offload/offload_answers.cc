// What OffloadEngine makes of the answers of workers: verdicts, decoding, retirement.
#include <algorithm>
#include <string>
#include <utility>

#include "enclave/offload/offload_call.h"
#include "enclave/offload/offload_engine.h"
#include "wire/tamper.h"

namespace tempo {
namespace {

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

void OffloadEngine::on_completion(std::uint64_t tag, int worker, const Completion& completion,
                                  const std::optional<Slot>& reply) {
  const auto open = std::find_if(calls_.begin(), calls_.end(),
                                 [&](const auto& call) { return call->number == tag >> 32; });
  // Of the operator whose weights are sent ahead, or of one that is long done.
  OffloadCall* const call = open != calls_.end() ? open->get() : nullptr;
  if (completion.status != TaskStatus::kOk) {
    if (!fatal_) {
      const std::string name = call != nullptr ? call->plan->op.name : "";
      fail_worker({EngineEvent::Kind::kLost, worker, name, status_text(completion)});
    }
  } else if (call != nullptr && !fatal_) {
    const OffloadCall::TaskNote task = call->notes[tag & 0xffffffffU];
    Attempt* const attempt =
        task.unit >= 0 ? call->units[task.unit].find(task.generation) : nullptr;
    if (attempt != nullptr && task.kind == NoteKind::kOutput) {
      finish_output(*call, task.unit, *attempt, *reply);
    } else if (attempt != nullptr && task.kind == NoteKind::kInputGradient) {
      finish_input_gradient(*call, task.unit, task.tile, *attempt, *reply);
    } else if (attempt != nullptr && task.kind == NoteKind::kWeightGradient) {
      finish_weight_gradient(*call, task.unit, *attempt, *reply);
    }
  }
  if (reply) res_.dispatcher->release(*reply);
}

// What was resident there is gone for good: where it is next needed it is encoded again, in the
// same bytes.
void OffloadEngine::fail_worker(EngineEvent event) {
  const int worker = event.worker;
  res_.dispatcher->retire(std::move(event));
  for (const auto& call : calls_) {
    for (Unit& unit : call->units) {
      std::erase_if(unit.attempts, [&](const Attempt& a) { return a.worker == worker; });
    }
  }
}

// A refusal tells the workers something about the vectors that it was given with. Whatever else
// would be judged with them is multiplied again and judged with new ones.
void OffloadEngine::retire_vectors(OffloadCall& call, int m_slice) {
  if (call.vectors_retired[m_slice]) return;
  call.vectors_retired[m_slice] = true;
  for (std::size_t unit = 0; unit < call.units.size(); ++unit) {
    if (call.plan->tiles[unit].m_slice != m_slice) continue;
    std::erase_if(call.units[unit].attempts, [](const Attempt& a) { return a.shares_vectors; });
  }
}

// True when the product passed. positions, m_slice: its tile, or its gradient group.
bool OffloadEngine::verdict(OffloadCall& call, int worker, const CheckedProduct& product,
                            const Slice& positions, int m_slice, const CheckOutcome& outcome) {
  EngineStats& stats = *res_.stats;
  stats.checks_done += 1;
  stats.rounds = std::max(stats.rounds, soundness_.record(product, outcome));
  if (outcome.passed) {
    stats.workers[worker].products += 1;
    return true;
  }
  stats.checks_failed += 1;
  stats.workers[worker].tampered += 1;
  const Slice& features = call.plan->m_slices[m_slice];
  const TamperRecord tamper{.product = std::string(product_kind_name(product.kind)),
                            .instance = static_cast<std::int64_t>(call.plan->instance_of(m_slice)),
                            .positions_begin = positions.begin,
                            .positions_end = positions.end,
                            .features_begin = features.begin,
                            .features_end = features.end,
                            .rows = product.rows,
                            .refused_rows = outcome.refused_rows,
                            .rounds = product.rounds,
                            .deviation = outcome.deviation_over_rms,
                            .tolerance = outcome.refused_tolerance_over_rms};
  const std::string& name = call.plan->op.name;
  fail_worker({EngineEvent::Kind::kTampered, worker, name, tamper_text(tamper), step_, tamper});
  if (!call.is_backward) retire_vectors(call, m_slice);
  if (options_.on_tamper == TamperPolicy::kAbort) {
    fatal_ = Error{ErrorCode::kTampered,
                   "a worker returned a wrong result",
                   "worker " + std::to_string(worker) + ", operator " + name,
                   "a product that passes its check",
                   tamper_text(tamper),
                   "do not use this worker; --on-tamper quarantine goes on without it"};
  }
  return false;
}

void OffloadEngine::finish_output(OffloadCall& call, int unit, const Attempt& attempt,
                                  const Slot& reply) {
  const Tile& tile = call.plan->tiles[unit];
  const TileRows& rows = call.step->rows[tile.p_slice];
  CheckOutcome outcome;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kDecode);
    outcome = decode_output(call.context(tile.m_slice), reply.data, rows, call.m_key(tile.m_slice),
                            *attempt.checks, attempt.expected[0], call.output(tile.m_slice),
                            call.moments_of(unit));
  }
  if (!outcome.passed && !attempt.expected[0].is_finite()) return do_inside(call, unit);
  const CheckedProduct product{call.plan->op.index, ProductKind::kForward, attempt.checks->rounds,
                               call.plan->in_features_of(tile.m_slice), rows.size()};
  if (!verdict(call, attempt.worker, product, call.plan->p_slices[tile.p_slice], tile.m_slice,
               outcome)) {
    return;
  }
  call.units[unit].is_done = true;
  call.units[unit].attempts.clear();
}

void OffloadEngine::finish_input_gradient(OffloadCall& call, int unit, int position,
                                          const Attempt& attempt, const Slot& reply) {
  const int tile_index = call.plan->groups[unit].tiles[position];
  if (call.input_done[tile_index]) return;  // another worker was quicker
  const Tile& tile = call.plan->tiles[tile_index];
  const TileRows& rows = call.step->rows[tile.p_slice];
  const std::int64_t features = call.plan->m_slices[tile.m_slice].size();
  CheckOutcome outcome;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kDecode);
    outcome = decode_input_gradient(call.context(tile.m_slice), reply.data, rows, features,
                                    *attempt.input_checks, attempt.expected[position],
                                    call.input_applied[tile_index], call.d_input_of(tile.m_slice));
  }
  if (!outcome.passed && !attempt.expected[position].is_finite()) return do_inside(call, unit);
  const CheckedProduct product{call.plan->op.index, ProductKind::kInputGradient,
                               attempt.input_checks->rounds, features, rows.size()};
  if (!verdict(call, attempt.worker, product, call.plan->p_slices[tile.p_slice], tile.m_slice,
               outcome)) {
    return;
  }
  call.input_done[tile_index] = true;
  call.close_if_done(unit);
}

void OffloadEngine::finish_weight_gradient(OffloadCall& call, int unit, const Attempt& attempt,
                                           const Slot& reply) {
  if (call.weight_done[unit]) return;  // another worker was quicker
  const GradientGroup& group = call.plan->groups[unit];
  std::int64_t inner = 0;
  Slice positions = call.plan->p_slices[call.plan->tiles[group.tiles[0]].p_slice];
  for (const int tile : group.tiles) {
    const Slice& part = call.plan->p_slices[call.plan->tiles[tile].p_slice];
    inner += part.size();
    positions = {std::min(positions.begin, part.begin), std::max(positions.end, part.end)};
  }
  const std::vector<float*> d_weights = call.d_weights(group.m_slice);
  CheckOutcome outcome;
  {
    const TimeScope scope(*res_.ledger, TimeKind::kDecode);
    outcome = decode_weight_gradient(
        call.context(group.m_slice), reply.data, call.m_key(group.m_slice), *attempt.checks,
        attempt.weight_expected, inner, call.weight_applied[unit], d_weights);
  }
  if (!outcome.passed && !attempt.weight_expected.is_finite()) return do_inside(call, unit);
  const CheckedProduct product{call.plan->op.index, ProductKind::kWeightGradient,
                               attempt.checks->rounds, inner, d_weights.size()};
  if (!verdict(call, attempt.worker, product, positions, group.m_slice, outcome)) return;
  call.weight_done[unit] = true;
  call.close_if_done(unit);
}

}  // namespace tempo
