// File: enclave/offload/offload_engine.h
// The LinearEngine that sends products to untrusted workers. Runs exactly one Plan.
//
// Life of an operator in a training step: forward draws its keys, leaves W' and X' resident on the
// workers and takes Z' back; backward sends D' only, takes one dW' a group and one dX' a tile. A
// stack of layers does so once for all of them; of products of activations, each instance has keys,
// tiles and groups of its own.
// A worker that is lost or returns a wrong result is retired for the rest of the job; its tiles are
// encoded again under the same keys (hence byte for byte the same), checked with new vectors, and
// go to the next worker, or are done in the enclave when there is none. A row of a result changes
// enclave memory only after it passed its check, and once.
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
  Scheme scheme = Scheme::kTempo;
  CoefficientSpace coefficients;
  SoundnessGoal goal;
  TamperPolicy on_tamper = TamperPolicy::kContinue;
  // Inference only, and not secure (docs/security.md): the n and m keys of an operator live as long
  // as the engine, and so does W' on the workers. The weights must not change meanwhile.
  bool reuses_keys = false;
};

class OffloadEngine final : public LinearEngine, private CompletionSink {
 public:
  OffloadEngine(Plan plan, const EngineOptions& options, const EngineResources& resources);
  ~OffloadEngine() override;

  bool takes(const LinearOp& op) const override {
    return !op.of_activations || plan_.ops[op.index].offloaded;
  }
  Status begin_step(StepMode mode) override;
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override;
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input) override;
  Status end_step() override;

  const Plan& plan() const { return plan_; }
  // Appends the measured soundness of every offloaded product of this plan.
  void report_soundness(std::vector<ProductSoundness>& out) const;

 private:
  struct OperatorStep;
  struct KeptWeights;
  struct Call;
  struct CheckedProduct;

  void on_completion(std::uint64_t tag, int worker, const Completion& completion,
                     const std::optional<Slot>& reply) override;
  void finish_output(Call& call, int unit, const Slot& reply, int worker);
  void finish_input_gradient(Call& call, int unit, int tile, const Slot& reply, int worker);
  void finish_weight_gradient(Call& call, int unit, const Slot& reply, int worker);
  void record_soundness(const CheckedProduct& product);
  void verdict(Call& call, int unit, int worker, const CheckedProduct& product);
  void retire_vectors(Call& call, int m_slice);
  void fail_worker(Call& call, int worker, EngineEvent::Kind kind, const std::string& detail);

  Status run(Call& call);
  static void deliver_moments(const Call& call);
  // False when workers cannot be used (any more): do it inside.
  bool issue_output(Call& call, int unit, int worker);
  bool issue_gradients(Call& call, int unit, int worker);
  void do_inside(Call& call, int unit);
  void compute_output_inside(Call& call, int unit);
  void compute_gradients_inside(Call& call, int unit);
  bool ensure_weights(Call& call, int m_slice, int worker);
  bool ensure_input(Call& call, int tile, int worker);
  void refresh_projections(Call& call, int unit);
  void draw_operator_keys(const OpPlan& plan, OperatorStep& step);

  bool keeps_weights() const { return options_.reuses_keys && mode_ == StepMode::kInference; }
  void drop(const std::vector<std::vector<std::uint64_t>>& ids);  // [slice][worker]
  void drop_operands(const OperatorStep& step);
  std::uint64_t note(const Call& call, int kind, int unit, int tile, std::uint32_t generation);

  Plan plan_;
  const EngineOptions options_;
  const EngineResources res_;
  StepMode mode_ = StepMode::kTraining;
  std::uint64_t step_ = 0;
  std::vector<std::unique_ptr<OperatorStep>> steps_;
  std::vector<std::unique_ptr<KeptWeights>> kept_;  // by operator; with reuses_keys
  // By operator: the rounds that new check vectors are drawn for, and what checks came to.
  struct OperatorSoundness {
    ProductSoundness forward, weight_gradient, input_gradient;
  };
  std::vector<OperatorSoundness> soundness_;
  Call* call_ = nullptr;  // the call in progress
  std::uint64_t call_count_ = 0;
  struct TaskNote {
    std::uint64_t call;
    int kind, unit, tile;
    std::uint32_t generation;
  };
  std::vector<TaskNote> notes_;  // of the call in progress; tag = call number << 32 | index
};

}  // namespace tempo
