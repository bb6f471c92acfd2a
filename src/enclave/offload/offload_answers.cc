// What OffloadEngine makes of the answers of workers: verdicts, decoding, retirement.
#include <algorithm>
#include <string>

#include "enclave/integrity/soundness.h"
#include "enclave/obfuscation/kernels.h"
#include "enclave/offload/offload_call.h"
#include "enclave/offload/offload_engine.h"

namespace tempo {
namespace {

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

// What a verdict is given on.
struct OffloadEngine::CheckedProduct {
  ProductSoundness* soundness = nullptr;
  CheckOutcome outcome;
  int rounds = 0;          // of the vectors that it was judged with
  std::int64_t inner = 0;  // length of the dot products
  std::size_t rows = 0;
};

void OffloadEngine::on_completion(std::uint64_t tag, int worker, const Completion& completion,
                                  const std::optional<Slot>& reply) {
  const auto open = std::find_if(calls_.begin(), calls_.end(),
                                 [&](const auto& call) { return call->number == tag >> 32; });
  // Of the operator whose weights are sent ahead, or of one that is long done.
  OffloadCall* const call = open != calls_.end() ? open->get() : nullptr;
  if (completion.status != TaskStatus::kOk) {
    if (!fatal_) {
      const std::string name = call != nullptr ? call->plan->op.name : "";
      fail_worker(name, worker, EngineEvent::Kind::kLost, status_text(completion));
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
void OffloadEngine::fail_worker(const std::string& operator_name, int worker,
                                EngineEvent::Kind kind, const std::string& detail) {
  res_.dispatcher->retire(worker, kind, operator_name, detail);
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

// Rounds are planned for results whose terms add up as independent ones do. Where they cancel, the
// tolerance is larger against them, and vectors drawn from now on get another round.
void OffloadEngine::record_soundness(const CheckedProduct& product) {
  ProductSoundness& soundness = *product.soundness;
  const double tolerance = product.outcome.tolerance_over_rms;
  const auto miss_of = [&](int rounds) {
    SoundnessGoal goal = options_.plan.goal;
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

// True when the product passed.
bool OffloadEngine::verdict(OffloadCall& call, int unit, int worker,
                            const CheckedProduct& product) {
  EngineStats& stats = *res_.stats;
  stats.checks_done += 1;
  record_soundness(product);
  if (product.outcome.passed) {
    stats.workers[worker].products += 1;
    return true;
  }
  stats.checks_failed += 1;
  stats.workers[worker].tampered += 1;
  fail_worker(
      call.plan->op.name, worker, EngineEvent::Kind::kTampered,
      "wrong result: " + product.soundness->product + " product, part " + std::to_string(unit));
  if (!call.is_backward) retire_vectors(call, call.plan->tiles[unit].m_slice);
  if (options_.on_tamper == TamperPolicy::kAbort) {
    fatal_ = Error{ErrorCode::kTampered,
                   "a worker returned a wrong result",
                   "worker " + std::to_string(worker) + ", operator " + call.plan->op.name + ", " +
                       product.soundness->product,
                   "a product that passes its check",
                   "one that does not",
                   "do not use this worker; --on-tamper continue goes on without it"};
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
  if (!verdict(call, unit, attempt.worker,
               {&soundness_[call.plan->op.index].forward, outcome, attempt.checks->rounds,
                call.plan->in_features_of(tile.m_slice), rows.size()})) {
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
  if (!verdict(call, unit, attempt.worker,
               {&soundness_[call.plan->op.index].input_gradient, outcome,
                attempt.input_checks->rounds, features, rows.size()})) {
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
  for (const int tile : group.tiles) {
    inner += static_cast<std::int64_t>(call.step->rows[call.plan->tiles[tile].p_slice].size());
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
  if (!verdict(call, unit, attempt.worker,
               {&soundness_[call.plan->op.index].weight_gradient, outcome, attempt.checks->rounds,
                inner, d_weights.size()})) {
    return;
  }
  call.weight_done[unit] = true;
  call.close_if_done(unit);
}

void OffloadEngine::report_soundness(std::vector<ProductSoundness>& out) const {
  for (const OperatorSoundness& op : soundness_) {
    for (const ProductSoundness& product : {op.forward, op.weight_gradient, op.input_gradient}) {
      if (product.checks > 0) out.push_back(product);
    }
  }
}

}  // namespace tempo
