// File: enclave/offload/offload_engine.h
// The LinearEngine that sends products to untrusted workers. Runs exactly one Plan.
//
// Life of an operator in a training step: forward draws its keys, leaves W' and X' resident on the
// workers and takes Z' back; backward sends D' only, takes one dW' a group and one dX' a tile. A
// stack of layers does so once for all of them; of products of activations, each instance has keys,
// tiles and groups of its own. While results are awaited, the next operator's W' is encoded and
// sent; weight gradients are awaited while the operator before goes backward, those of the last one
// in the next step, if the caller wants that (end_step_early).
//
// A worker that is lost or returns a wrong result is retired; its tiles are encoded again under the
// same keys (hence byte for byte the same), checked with new vectors, and go to another worker. A
// late one is asked no more until it answers; others are asked for the same, and the first result
// that passes its check counts. After three attempts, or with no worker left, the enclave does the
// tile. A row of a result changes enclave memory only after it passed its check, and once.
//
// Work is dealt anew at the start of a step, in proportion to the speeds measured so far.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/random.h"
#include "base/thread_pool.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/offload/dispatcher.h"
#include "enclave/offload/engine_stats.h"
#include "enclave/offload/linear.h"
#include "enclave/offload/plan.h"
#include "enclave/offload/soundness_book.h"
#include "enclave/offload/tile_passes.h"
#include "enclave/schemes/scheme.h"

namespace tempo {

// What engines of one job share. All must outlive them.
struct EngineResources {
  Dispatcher* dispatcher = nullptr;
  LinearEngine* local = nullptr;  // does what the plan keeps inside
  RandomSource* random = nullptr;
  ThreadPool* pool = nullptr;
  TimeLedger* ledger = nullptr;
  EngineStats* stats = nullptr;
};

struct EngineOptions {
  PlanOptions plan;  // that the first plan was made with
  CoefficientSpace coefficients;
  TamperPolicy on_tamper = TamperPolicy::kQuarantine;
  // Inference only, and not secure (docs/security.md): the n and m keys of an operator live as long
  // as the engine, and so does W' on the workers. The weights must not change meanwhile.
  bool reuses_keys = false;
  // Speeds that drift move no work between workers; only one that comes or goes does.
  bool keeps_shares = false;
};

enum class NoteKind : std::uint8_t;
struct Attempt;
struct OffloadCall;
struct OperatorStep;

class OffloadEngine final : public LinearEngine, private CompletionSink {
 public:
  OffloadEngine(Plan plan, const EngineOptions& options, const EngineResources& resources);
  ~OffloadEngine() override;

  bool takes(const LinearOp& op) const override {
    return !op.of_activations || plan_.ops[op.index].offloaded;
  }
  void offer(IdleWork* work) override { idle_work_ = work; }
  Status begin_step(StepMode mode) override;
  void announce(const LinearOp& op, const std::vector<const float*>& weights) override;
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override;
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input, bool may_defer) override;
  Status end_step() override;
  bool defers(const LinearOp& op) const override {
    return plan_.ops[op.index].offloaded && !op.of_activations;
  }
  Status end_step_early() override;
  Status settle() override;

  const Plan& plan() const { return plan_; }
  // Appends the measured soundness of every offloaded product of this plan.
  void report_soundness(std::vector<ProductSoundness>& out) const { soundness_.report(out); }

 private:
  struct KeptWeights;

  void deal_by_speed();
  std::unique_ptr<OperatorStep> make_step(const OpPlan& plan);
  void draw_operator_keys(const OpPlan& plan, OperatorStep& step);
  void set_view(OffloadCall& call, const OpPlan& plan, OperatorStep& step) const;
  OffloadCall& open_call(const OpPlan& plan, OperatorStep& step);
  void close_call(const OffloadCall& call);
  Status settle(OffloadCall& call);
  Status close_step();
  void carry(OffloadCall& call);
  void adopt_workers(OffloadCall& call) const;
  static ColumnMoments joined_moments(const OffloadCall& call);
  static void deliver_moments(const OffloadCall& call, const ColumnMoments& all);
  bool keeps_weights(const LinearOp& op) const {
    return options_.reuses_keys && mode_ == StepMode::kInference && !op.of_activations;
  }
  void drop(std::vector<std::vector<std::uint64_t>>& ids);  // [slice][worker]
  void drop_operands(OperatorStep& step);

  Status work_until(OffloadCall& call, bool (OffloadCall::*is_over)() const);
  void issue_open_units(OffloadCall& call);
  void replace_late_attempts();
  bool send_weights_ahead();

  // These give false when workers cannot be used (any more): do it inside.
  bool ask(OffloadCall& call, int unit, int worker);
  bool issue_output(OffloadCall& call, int unit, std::uint32_t generation);
  bool issue_gradients(OffloadCall& call, int unit, std::uint32_t generation);
  bool ensure_weights(OffloadCall& call, int m_slice, int worker);
  bool ensure_input(OffloadCall& call, int unit, int tile, std::uint32_t generation, int worker);
  static Task weights_task(const OffloadCall& call, int m_slice, int worker);
  void put_weights(OffloadCall& call, int m_slice, int worker, const Slot& slot);
  void refresh_projections(OffloadCall& call, int unit);
  static std::uint64_t note(OffloadCall& call, NoteKind kind, int unit, int tile,
                            std::uint32_t generation);
  static double work_of(const Task& product, std::int64_t inner);
  void do_inside(OffloadCall& call, int unit);
  void compute_output_inside(OffloadCall& call, int unit);
  void compute_gradients_inside(OffloadCall& call, int unit);

  void on_completion(std::uint64_t tag, int worker, const Completion& completion,
                     const std::optional<Slot>& reply) override;
  void finish_output(OffloadCall& call, int unit, const Attempt& attempt, const Slot& reply);
  // position: of the tile in its group.
  void finish_input_gradient(OffloadCall& call, int unit, int position, const Attempt& attempt,
                             const Slot& reply);
  void finish_weight_gradient(OffloadCall& call, int unit, const Attempt& attempt,
                              const Slot& reply);
  bool verdict(OffloadCall& call, int worker, const CheckedProduct& product, const Slice& positions,
               int m_slice, const CheckOutcome& outcome);
  void retire_vectors(OffloadCall& call, int m_slice);
  void fail_worker(EngineEvent event);

  Plan plan_;
  const EngineOptions options_;
  // options_.plan with the workers as they were when work was last dealt, or did not fit them.
  PlanOptions dealt_;
  const EngineResources res_;
  IdleWork* idle_work_ = nullptr;
  StepMode mode_ = StepMode::kTraining;
  std::uint64_t step_ = 0;
  std::vector<std::unique_ptr<OperatorStep>> steps_;  // by operator
  std::vector<std::vector<const float*>> announced_;  // by operator: weights by part
  std::unique_ptr<OffloadCall> ahead_;                // the operator whose weights go ahead
  std::vector<std::unique_ptr<KeptWeights>> kept_;    // by operator; with reuses_keys
  SoundnessBook soundness_;
  // Open calls: those whose weight gradients are awaited, then the current one.
  std::vector<std::unique_ptr<OffloadCall>> calls_;
  std::uint64_t call_count_ = 0;
  std::optional<Error> fatal_;
  Dispatcher::Clock::time_point late_check_;
};

}  // namespace tempo
