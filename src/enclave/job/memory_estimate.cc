#include "enclave/job/memory_estimate.h"

#include <algorithm>

#include "enclave/nn/step_plan.h"
#include "enclave/offload/local_engine.h"
#include "enclave/train/optimizer.h"

namespace tempo {
namespace {

// Of a process that holds neither model nor data, where the system does not say.
constexpr std::uint64_t kIdleBytes = std::uint64_t{16} << 20;
// Code of Tempo and its libraries that the first step loads, and the kernels that oneDNN compiles.
constexpr std::uint64_t kLoadedByAStep = std::uint64_t{12} << 20;

class Estimator {
 public:
  Estimator(const Graph& graph, const JobEngines& engines) : graph_(graph), engines_(engines) {}

  // One executor with its engine. Executors take turns: only their arenas add up.
  Status add_executor(std::int64_t batch, StepMode mode) {
    ExecutorOptions options;
    options.batch = batch;
    options.mode = mode;
    options.channel_block = engines_.channel_block();
    const auto step = make_step_plan(graph_, options);
    if (!step.ok()) return step.error();
    const auto plan = engines_.plan_for(step->linear_ops, mode);
    if (!plan.ok()) return plan.error();
    activations_ += static_cast<std::uint64_t>(step->arena_bytes);
    engine_ = std::max(engine_, plan->engine_bytes);
    for (const PlannedNode& node : step->nodes) {
      if (node.linear < 0) continue;
      const OpPlan& op = plan->ops[static_cast<std::size_t>(node.linear)];
      const bool adds_input = node.has_backward && node.wants[0] && node.accumulates[0];
      if (!op.offloaded) scratch_.include(op.op, adds_input);
    }
    return {};
  }

  void write_to(MemoryEstimate& memory) const {
    memory.activations = activations_;
    memory.engine = engine_;
    memory.scratch = scratch_.bytes();
  }

 private:
  const Graph& graph_;
  const JobEngines& engines_;
  std::uint64_t activations_ = 0;
  std::uint64_t engine_ = 0;
  LocalScratch scratch_;
};

// Of the predictions, and of the file that they are copied to.
Result<std::uint64_t> prediction_bytes(const Graph& graph, std::int64_t samples) {
  const auto shapes = infer_shapes(graph, 1);
  if (!shapes.ok()) return shapes.error();
  const std::int64_t outputs = element_count((*shapes)[static_cast<std::size_t>(graph.outputs[0])]);
  constexpr double kLimit = 1e18;  // more than any memory; keeps the sum from overflowing
  const double bytes = static_cast<double>(samples) * static_cast<double>(outputs) *
                       static_cast<double>(2 * sizeof(float));
  return static_cast<std::uint64_t>(std::min(bytes, kLimit));
}

}  // namespace

Result<MemoryEstimate> estimate_memory(const Graph& graph, const JobSpec& spec,
                                       const JobEngines& engines, const JobSizes& sizes) {
  std::uint64_t trained = 0;
  std::uint64_t fixed = 0;
  for (const Tensor& tensor : graph.tensors) {
    (tensor.kind == TensorKind::kParameter ? trained : fixed) +=
        tensor.floats.size() * sizeof(float);
  }
  const bool infers = spec.kind == JobKind::kInfer;
  const std::int64_t inference_batch =
      sizes.test_samples == 0 ? spec.batch : std::min(spec.batch, sizes.test_samples);

  MemoryEstimate memory;
  Estimator estimator(graph, engines);
  memory.data = sizes.data_bytes;
  memory.parameters = trained + fixed;
  if (infers) {
    TEMPO_RETURN_IF_ERROR(estimator.add_executor(inference_batch, StepMode::kInference));
    const auto predictions = prediction_bytes(graph, sizes.test_samples);
    if (!predictions.ok()) return predictions.error();
    memory.data += *predictions;
  } else {
    std::uint64_t gradients = spec.accumulate > 1 ? 1 : 0;  // their sum; those of each executor
    if (sizes.length.has_full_batches) {
      TEMPO_RETURN_IF_ERROR(estimator.add_executor(spec.batch, StepMode::kTraining));
      ++gradients;
    }
    if (sizes.length.rest > 0) {
      TEMPO_RETURN_IF_ERROR(estimator.add_executor(sizes.length.rest, StepMode::kTraining));
      ++gradients;
    }
    if (sizes.test_samples > 0) {
      TEMPO_RETURN_IF_ERROR(estimator.add_executor(inference_batch, StepMode::kInference));
    }
    memory.parameters += trained * gradients;
    memory.optimizer = trained * static_cast<std::uint64_t>(optimizer_state_values(spec.optimizer));
  }
  estimator.write_to(memory);

  // The weights beside the message and the file that they are read from, or (training, when all
  // that steps need is gone but for their code) written to.
  std::uint64_t file_bytes = trained + fixed + 2 * sizes.model_bytes;
  if (infers) file_bytes -= std::min(file_bytes, kLoadedByAStep);
  const std::uint64_t step_bytes = memory.total() - memory.data;
  memory.model_file = std::max(file_bytes, step_bytes) - step_bytes;

  const std::uint64_t held = trained + fixed + sizes.data_bytes;
  memory.program =
      kLoadedByAStep + (sizes.resident_bytes > held ? sizes.resident_bytes - held : kIdleBytes);
  return memory;
}

}  // namespace tempo
