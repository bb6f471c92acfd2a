#include "enclave/job/memory_estimate.h"

#include <algorithm>

#include "enclave/nn/step_plan.h"
#include "enclave/offload/local_engine.h"
#include "enclave/train/optimizer.h"

namespace tempo {
namespace {

// Of a process that holds neither model nor data, where the system does not say.
constexpr std::uint64_t kIdleBytes = std::uint64_t{16} << 20;
// Products inside make oneDNN load its code and take buffers, and convolutions make it compile
// kernels: as measured, for nothing in its interface tells.
constexpr std::uint64_t kLoadedByProducts = std::uint64_t{6} << 20;
constexpr std::uint64_t kLoadedByConvolutions = std::uint64_t{6} << 20;

class Estimator {
 public:
  Estimator(const Graph& graph, const JobEngines& engines) : graph_(graph), engines_(engines) {}

  // One executor with its engine. Executors take turns: only their arenas add up.
  Status add_executor(std::int64_t batch, StepMode mode) {
    ExecutorOptions options;
    options.batch = batch;
    options.mode = mode;
    options.channel_block = engines_.channel_block();
    options.defers_weight_gradients = engines_.defers_weight_gradients();
    options.allows_late_gradients = engines_.allows_late_gradients();
    const auto step = make_step_plan(graph_, options);
    if (!step.ok()) return step.error();
    const auto plan = engines_.plan_for(step->linear_ops, mode);
    if (!plan.ok()) return plan.error();
    activations_ += static_cast<std::uint64_t>(step->arena_bytes);
    const LinearOp* const late = options.allows_late_gradients && mode == StepMode::kTraining
                                     ? late_operator(graph_, *step)
                                     : nullptr;
    std::uint64_t carried = 0;
    if (late != nullptr && plan->ops[static_cast<std::size_t>(late->index)].offloaded) {
      const ConvGeometry& g = late->geometry;
      carried = static_cast<std::uint64_t>(g.input_elements() + g.p() * g.m()) * sizeof(float) +
                plan->ops[static_cast<std::size_t>(late->index)].kept_bytes;
      late_gradients_ += static_cast<std::uint64_t>(g.m() * g.n()) * sizeof(float);
    }
    engine_ = std::max(engine_, plan->engine_bytes + carried);
    for (const PlannedNode& node : step->nodes) {
      const OpPlan* op =
          node.linear < 0 ? nullptr : &plan->ops[static_cast<std::size_t>(node.linear)];
      if (op != nullptr && op->offloaded) continue;
      include_product_of_activations(node, op, step->shapes);
      if (op == nullptr) continue;
      const bool adds_input = node.has_backward && node.wants[0] && node.accumulates[0];
      scratch_.include(op->op, adds_input);
      has_products_ = true;
      has_convolutions_ |= !op->op.geometry.is_fully_connected();
    }
    return {};
  }

  void write_to(MemoryEstimate& memory) const {
    memory.activations = activations_;
    memory.engine = engine_;
    memory.scratch = scratch_.bytes() + gradient_;
    memory.parameters += late_gradients_;
  }

  // Of code that no process has loaded before its first step.
  std::uint64_t loaded_by_a_step() const {
    return (has_products_ ? kLoadedByProducts : 0) +
           (has_convolutions_ ? kLoadedByConvolutions : 0);
  }

 private:
  // MatMul of the operator table gathers a gradient before it adds it.
  void include_product_of_activations(const PlannedNode& node, const OpPlan* op,
                                      const Shapes& shapes) {
    const Node& in_graph = graph_.nodes[static_cast<std::size_t>(node.node)];
    const bool is_of_table = op == nullptr || op->op.of_activations;
    if (in_graph.op_type != "MatMul" || !is_of_table) return;
    has_products_ = true;
    for (std::size_t i = 0; node.has_backward && i < in_graph.inputs.size(); ++i) {
      if (!node.wants[i]) continue;
      const Shape& shape = shapes[static_cast<std::size_t>(in_graph.inputs[i])];
      gradient_ =
          std::max(gradient_, static_cast<std::uint64_t>(element_count(shape)) * sizeof(float));
    }
  }

  const Graph& graph_;
  const JobEngines& engines_;
  std::uint64_t activations_ = 0;
  std::uint64_t engine_ = 0;
  LocalScratch scratch_;
  std::uint64_t gradient_ = 0;
  std::uint64_t late_gradients_ = 0;  // the second ones
  bool has_products_ = false;         // inside
  bool has_convolutions_ = false;
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
  std::uint64_t turned = 0;  // the largest one that lies otherwise than in the file
  for (const Tensor& tensor : graph.tensors) {
    const std::uint64_t bytes = tensor.floats.size() * sizeof(float);
    (tensor.kind == TensorKind::kParameter ? trained : fixed) += bytes;
    if (tensor.storage != Storage::kOnnx) turned = std::max(turned, bytes);
  }
  const bool infers = predicts(spec);
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

  const std::uint64_t held = trained + fixed + sizes.data_bytes;
  const std::uint64_t idle = sizes.resident_bytes > held ? sizes.resident_bytes - held : kIdleBytes;
  const std::uint64_t loaded = estimator.loaded_by_a_step();
  memory.program = idle + loaded;

  // The weights beside the message and the file that they are read from or, when all that steps
  // need is gone but for their code, written to; one that lies otherwise is there a second time.
  const std::uint64_t file_bytes = trained + fixed + 2 * sizes.model_bytes;
  const std::uint64_t reading = file_bytes + turned;
  const std::uint64_t writing = infers ? 0 : file_bytes + turned + loaded;
  const std::uint64_t step_bytes = memory.total() - memory.data - idle;
  memory.model_file = std::max({reading, writing, step_bytes}) - step_bytes;
  return memory;
}

}  // namespace tempo
