#include "enclave/nn/executor.h"

#include <algorithm>
#include <new>

#include "base/buffer.h"
#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/op.h"
#include "enclave/nn/parallel.h"
#include "enclave/nn/step_plan.h"

namespace tempo {
namespace {

std::size_t at(TensorId id) {
  return static_cast<std::size_t>(id);
}

std::size_t padded_floats(std::int64_t floats) {
  constexpr std::size_t kLine = kCacheLineBytes / sizeof(float);
  return (static_cast<std::size_t>(floats) + kLine - 1) / kLine * kLine;
}

}  // namespace

struct Executor::State {
  State(Graph& g, const ExecutorOptions& o, LinearEngine& e, ThreadPool& p, TimeLedger& l)
      : graph(g), options(o), engine(e), pool(p), ledger(l) {}

  Graph& graph;
  const ExecutorOptions options;
  LinearEngine& engine;
  ThreadPool& pool;
  TimeLedger& ledger;
  StepPlan plan;
  AlignedBuffer<std::byte> arena;
  std::vector<std::vector<std::int64_t>> constant_ints;  // by TensorId, at this batch size
  AlignedBuffer<float> parameter_gradients;
  std::vector<std::int64_t> parameter_offsets;  // by TensorId, floats; -1 for others
  // Late ones have two places: where backward writes, and where the one before wrote.
  std::vector<TensorId> late;
  std::vector<std::int64_t> late_offsets;  // by `late`: of the gradient before
  bool awaits_late = false;                // the last backward's may not be there yet
  bool has_late = false;                   // there is a gradient before
  AlignedBuffer<float> shared_weights;     // a second gradient of weights that several nodes use
  std::vector<bool> is_taken;              // by linear operator: the engine does it
  AlignedBuffer<float> right_operand;      // of a product, transposed
  AlignedBuffer<float> d_right_operand;
  std::vector<ColumnMoments> moments;            // by TensorId: of linear operators' results
  std::vector<const ColumnMoments*> moments_of;  // by TensorId: delivered in this step
  std::uint64_t step = 0;
  bool is_open = false;  // between begin_step and end_step

  void allocate() {
    arena = AlignedBuffer<std::byte>(static_cast<std::size_t>(plan.arena_bytes));
    for (const Tensor& tensor : graph.tensors) {
      constant_ints.push_back(ints_at(tensor, options.batch));
    }
    for (const LinearOp& op : plan.linear_ops) is_taken.push_back(engine.takes(op));
    allocate_right_operands();
    moments.resize(graph.tensors.size());
    moments_of.assign(graph.tensors.size(), nullptr);
    parameter_offsets.assign(graph.tensors.size(), -1);
    if (options.mode != StepMode::kTraining) return;
    std::size_t floats = 0, shared = 0;
    for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
      if (graph.tensors[id].kind != TensorKind::kParameter) continue;
      parameter_offsets[id] = static_cast<std::int64_t>(floats);
      floats += padded_floats(element_count(graph.tensors[id].declared));
    }
    find_late_parameters();
    for (const TensorId id : late) {
      late_offsets.push_back(static_cast<std::int64_t>(floats));
      floats += padded_floats(element_count(graph.tensors[at(id)].declared));
    }
    for (const PlannedNode& planned : plan.nodes) {
      if (planned.linear < 0 || !planned.accumulates[1]) continue;
      const LinearOp& op = plan.linear_ops[static_cast<std::size_t>(planned.linear)];
      if (op.of_activations) continue;
      shared = std::max(shared, static_cast<std::size_t>(op.geometry.m() * op.geometry.n()));
    }
    parameter_gradients = AlignedBuffer<float>(floats);
    shared_weights = AlignedBuffer<float>(shared);
  }

  // They are finished once backward is past its first layer, unless backward reads the weights.
  void find_late_parameters() {
    const LinearOp* const op = options.allows_late_gradients ? late_operator(graph, plan) : nullptr;
    if (op == nullptr || !options.defers_weight_gradients || !engine.defers(*op)) return;
    PlannedNode* first = nullptr;  // layer that goes backward
    for (PlannedNode& planned : plan.nodes) {
      if (planned.linear < 0 || !is_linear_node(graph, node_of(planned))) continue;
      if (planned.linear == op->index) late.push_back(node_of(planned).inputs[1]);
      const bool is_done = planned.has_backward && (planned.wants[0] || planned.wants[1]);
      if (is_done && planned.part == 0) first = &planned;
    }
    if (first->linear == op->index || op->needs_input_gradient) return;
    first->finished.insert(first->finished.end(), late.begin(), late.end());
  }

  void swap_late_gradients() {
    for (std::size_t i = 0; i < late.size(); ++i) {
      std::swap(parameter_offsets[at(late[i])], late_offsets[i]);
    }
  }

  // For products of two activations that the engine does and whose right operand is not as it
  // takes it.
  void allocate_right_operands() {
    std::size_t floats = 0, gradient_floats = 0;
    for (const PlannedNode& planned : plan.nodes) {
      if (!is_engines(planned)) continue;
      const LinearOp& op = plan.linear_ops[static_cast<std::size_t>(planned.linear)];
      if (!op.of_activations) continue;
      const auto size = static_cast<std::size_t>(op.instances * op.geometry.m() * op.geometry.n());
      const bool is_turned = !is_transposed(node_of(planned));
      if (is_turned) floats = std::max(floats, size);
      const bool has_gradient = op.needs_weight_gradient;
      if (has_gradient && (is_turned || planned.accumulates[1])) {
        gradient_floats = std::max(gradient_floats, size);
      }
    }
    right_operand = AlignedBuffer<float>(floats);
    d_right_operand = AlignedBuffer<float>(gradient_floats);
  }

  float* in_arena(std::int64_t offset) {
    return offset < 0 ? nullptr : reinterpret_cast<float*>(arena.data() + offset);
  }

  // Null for absent tensors. For integers see OpContext::ints().
  float* value(TensorId id) {
    if (id == kNoTensor) return nullptr;
    Tensor& tensor = graph.tensors[at(id)];
    if (is_fixed(tensor) && tensor.type == DataType::kInt64) {
      return reinterpret_cast<float*>(constant_ints[at(id)].data());
    }
    if (tensor.kind == TensorKind::kActivation || tensor.kind == TensorKind::kInput) {
      return in_arena(plan.value_offsets[at(id)]);
    }
    return tensor.floats.empty() ? nullptr : tensor.floats.data();
  }

  float* gradient(TensorId id) {
    if (parameter_offsets[at(id)] >= 0) {
      return parameter_gradients.data() + parameter_offsets[at(id)];
    }
    return in_arena(plan.gradient_offsets[at(id)]);
  }

  std::span<const float> gradient_of(TensorId parameter) {
    const Shape& shape = graph.tensors[at(parameter)].declared;
    const float* values = gradient(parameter);
    if (const auto found = std::ranges::find(late, parameter); found != late.end()) {
      if (!has_late) return {};
      values =
          parameter_gradients.data() + late_offsets[static_cast<std::size_t>(found - late.begin())];
    }
    return {values, static_cast<std::size_t>(element_count(shape))};
  }

  Status backward(GradientReader* reader);

  const Node& node_of(const PlannedNode& planned) const {
    return graph.nodes[static_cast<std::size_t>(planned.node)];
  }

  OpContext context_of(const PlannedNode& planned) {
    const Node& node = node_of(planned);
    OpContext context{.graph = graph,
                      .node = node,
                      .shapes = plan.shapes,
                      .pool = pool,
                      .mode = options.mode,
                      .seed = options.seed,
                      .step = step,
                      .node_index = planned.node,
                      .in = {},
                      .out = {},
                      .d_out = {},
                      .d_in = {},
                      .accumulate = {},
                      .fused_relu = planned.fused_relu,
                      .blocks = &plan.blocks,
                      .batch = options.batch};
    for (const TensorId id : node.inputs) context.in.push_back(value(id));
    context.out.push_back(value(planned.result));
    if (node.op_type == "BatchNormalization") {
      const bool updates = options.mode == StepMode::kTraining;
      context.out.push_back(updates ? value(node.inputs[3]) : nullptr);
      context.out.push_back(updates ? value(node.inputs[4]) : nullptr);
      context.moments = moments_of[at(node.inputs[0])];
    }
    if (planned.saved_offset >= 0) context.saved = arena.data() + planned.saved_offset;
    return context;
  }

  // True when the engine does the node; else its entry in the operator table does.
  bool is_engines(const PlannedNode& planned) const {
    return planned.linear >= 0 && is_taken[static_cast<std::size_t>(planned.linear)];
  }

  // ---- products of two activations: W is the right operand transposed --------------------------

  static bool is_transposed(const Node& node) { return node.int_or("transB", 0) != 0; }

  // `instances` matrices of rows x columns.
  void transpose_each(const LinearOp& op, const float* from, std::int64_t rows,
                      std::int64_t columns, float* to, bool accumulate) {
    const TimeScope scope(ledger, TimeKind::kNonLinear);
    pool.parallel_for(op.instances, grain_for(rows * columns),
                      [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t i = begin; i < end; ++i) {
                          const std::int64_t offset = i * rows * columns;
                          kernels::transpose(from + offset, rows, columns, to + offset, accumulate);
                        }
                      });
  }

  // Where it lies, or in `right_operand`.
  const float* weights_of_product(const LinearOp& op, const Node& node) {
    const float* right = value(node.inputs[1]);
    if (is_transposed(node)) return right;
    transpose_each(op, right, op.geometry.n(), op.geometry.m(), right_operand.data(), false);
    return right_operand.data();
  }

  Status forward_product(const PlannedNode& planned) {
    const Node& node = node_of(planned);
    const LinearOp& op = plan.linear_ops[static_cast<std::size_t>(planned.linear)];
    return engine.forward(
        op, value(node.inputs[0]),
        {{.weights = weights_of_product(op, node), .output = value(planned.result)}});
  }

  Status backward_product(const PlannedNode& planned) {
    const Node& node = node_of(planned);
    const LinearOp& op = plan.linear_ops[static_cast<std::size_t>(planned.linear)];
    float* d_input = planned.wants[0] ? gradient(node.inputs[0]) : nullptr;
    float* d_right = planned.wants[1] ? gradient(node.inputs[1]) : nullptr;
    const bool is_direct = is_transposed(node) && !planned.accumulates[1];
    float* d_weights = d_right == nullptr || is_direct ? d_right : d_right_operand.data();
    TEMPO_RETURN_IF_ERROR(engine.backward(op, value(node.inputs[0]),
                                          {{.weights = weights_of_product(op, node),
                                            .d_output = gradient(planned.result),
                                            .d_weights = d_weights}},
                                          d_input, planned.accumulates[0], false));
    if (d_right == nullptr || is_direct) return {};
    if (!is_transposed(node)) {
      transpose_each(op, d_weights, op.geometry.m(), op.geometry.n(), d_right,
                     planned.accumulates[1]);
      return {};
    }
    for_elements(pool, op.instances * op.geometry.m() * op.geometry.n(),
                 [&](std::int64_t begin, std::int64_t count) {
                   kernels::copy(d_weights + begin, d_right + begin, count, true);
                 });
    return {};
  }

  // ---- layers ----------------------------------------------------------------------------------

  // The nodes of the linear operator that nodes[i] is the first part of.
  std::span<const PlannedNode> parts_at(std::size_t i) const {
    std::size_t end = i + 1;
    while (end < plan.nodes.size() && plan.nodes[end].part > 0) ++end;
    return {plan.nodes.data() + i, end - i};
  }

  // Of the operator that nodes[i] is a part of; done with the first of them.
  Status forward_linear(std::size_t i) {
    if (plan.nodes[i].part > 0) return {};
    if (!is_linear_node(graph, node_of(plan.nodes[i]))) return forward_product(plan.nodes[i]);
    const std::span<const PlannedNode> nodes = parts_at(i);
    std::vector<ForwardPart> parts;
    for (const PlannedNode& planned : nodes) {
      const Node& node = node_of(planned);
      ColumnMoments* wanted = planned.delivers_moments ? &moments[at(planned.result)] : nullptr;
      moments_of[at(planned.result)] = wanted;
      parts.push_back({.weights = value(node.inputs[1]),
                       .bias = node.inputs.size() > 2 ? value(node.inputs[2]) : nullptr,
                       .output = value(planned.result),
                       .moments = wanted});
    }
    const LinearOp& op = plan.linear_ops[static_cast<std::size_t>(nodes[0].linear)];
    return engine.forward(op, value(node_of(nodes[0]).inputs[0]), parts);
  }

  // What the engine may prepare while it has to wait.
  void announce_weights() {
    for (std::size_t i = 0; i < plan.nodes.size(); ++i) {
      const PlannedNode& planned = plan.nodes[i];
      if (!is_engines(planned) || planned.part > 0 || !is_linear_node(graph, node_of(planned))) {
        continue;
      }
      std::vector<const float*> weights;
      for (const PlannedNode& part : parts_at(i)) weights.push_back(value(node_of(part).inputs[1]));
      engine.announce(plan.linear_ops[static_cast<std::size_t>(planned.linear)], weights);
    }
  }

  Status backward_linear(std::size_t i) {
    if (plan.nodes[i].part > 0) return {};
    if (!is_linear_node(graph, node_of(plan.nodes[i]))) return backward_product(plan.nodes[i]);
    const std::span<const PlannedNode> nodes = parts_at(i);
    const PlannedNode& first = nodes[0];
    const LinearOp& op = plan.linear_ops[static_cast<std::size_t>(first.linear)];
    const TensorId input = node_of(first).inputs[0];
    float* d_input = first.wants[0] ? gradient(input) : nullptr;
    const bool is_shared = first.accumulates[1];  // then the operator has no other part
    std::vector<BackwardPart> parts;
    for (const PlannedNode& planned : nodes) {
      const Node& node = node_of(planned);
      float* d_weights = planned.wants[1] ? gradient(node.inputs[1]) : nullptr;
      if (planned.wants.size() > 2 && planned.wants[2]) bias_gradient(planned);
      parts.push_back({.weights = value(node.inputs[1]),
                       .d_output = gradient(planned.result),
                       .d_weights = is_shared ? shared_weights.data() : d_weights});
    }
    if (d_input == nullptr && parts[0].d_weights == nullptr) return {};
    // Backward goes through the parts from the last one.
    TEMPO_RETURN_IF_ERROR(engine.backward(op, value(input), parts, d_input,
                                          nodes.back().accumulates[0],
                                          options.defers_weight_gradients && !is_shared));
    if (is_shared) {
      float* d_weights = gradient(node_of(first).inputs[1]);
      for_elements(pool, op.geometry.m() * op.geometry.n(),
                   [&](std::int64_t begin, std::int64_t count) {
                     kernels::copy(shared_weights.data() + begin, d_weights + begin, count, true);
                   });
    }
    return {};
  }

  void bias_gradient(const PlannedNode& planned) {
    const TimeScope scope(ledger, TimeKind::kNonLinear);
    const Node& node = node_of(planned);
    const float* d_output = gradient(planned.result);
    const Shape& shape = plan.shapes[at(planned.result)];
    const FeatureView view =  // the out-features of what is no image are its last dimension
        node.op_type == "Conv"
            ? feature_view(shape, plan.blocks[at(planned.result)])
            : FeatureView{.positions = element_count(shape) / shape.back(), .width = shape.back()};
    const std::vector<double> sums = reduce_rows(pool, view, 1, [&](const RowRun& run, double* to) {
      kernels::column_sums(d_output + run.offset, run.rows, run.width, to);
    });
    store_sums(sums, gradient(node.inputs[2]), planned.accumulates[2]);
  }

  void backward_other(const PlannedNode& planned) {
    const TimeScope scope(ledger, TimeKind::kNonLinear);
    OpContext context = context_of(planned);
    const Node& node = node_of(planned);
    context.d_out.push_back(gradient(planned.result));
    context.accumulate = planned.accumulates;
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      context.d_in.push_back(planned.wants[i] ? gradient(node.inputs[i]) : nullptr);
    }
    find_op(node.op_type)->backward(context);
  }
};

Executor::Executor() = default;
Executor::~Executor() = default;

Result<std::unique_ptr<Executor>> Executor::create(Graph& graph, const ExecutorOptions& options,
                                                   LinearEngine& engine, ThreadPool& pool,
                                                   TimeLedger& ledger) {
  Result<StepPlan> plan = make_step_plan(graph, options);
  if (!plan) return plan.error();
  std::unique_ptr<Executor> executor(new Executor);
  executor->state_ = std::make_unique<State>(graph, options, engine, pool, ledger);
  executor->state_->plan = std::move(*plan);
  try {
    executor->state_->allocate();
  } catch (const std::bad_alloc&) {
    return Error{.code = ErrorCode::kOutOfMemory,
                 .what = "the enclave's memory does not hold the model's tensors",
                 .where = graph.name,
                 .expected = std::to_string(executor->state_->plan.arena_bytes) + " bytes",
                 .next_step = "use a smaller batch"};
  }
  return executor;
}

Result<std::vector<LinearOp>> Executor::linear_ops(const Graph& graph,
                                                   const ExecutorOptions& options) {
  Result<StepPlan> plan = make_step_plan(graph, options);
  if (!plan) return plan.error();
  return std::move(plan->linear_ops);
}

Result<std::int64_t> Executor::arena_bytes(const Graph& graph, const ExecutorOptions& options) {
  Result<StepPlan> plan = make_step_plan(graph, options);
  if (!plan) return plan.error();
  return plan->arena_bytes;
}

std::size_t Executor::input_count() const {
  return state_->plan.inputs.size();
}

DataType Executor::input_type(std::size_t i) const {
  return state_->graph.tensors[at(state_->plan.inputs[i])].type;
}

std::span<float> Executor::input(std::size_t i) {
  const TensorId id = state_->plan.inputs[i];
  TEMPO_ASSERT(state_->graph.tensors[at(id)].type == DataType::kFloat32);
  return {state_->value(id), static_cast<std::size_t>(element_count(state_->plan.shapes[at(id)]))};
}

std::span<std::int64_t> Executor::input_ints(std::size_t i) {
  const TensorId id = state_->plan.inputs[i];
  TEMPO_ASSERT(state_->graph.tensors[at(id)].type == DataType::kInt64);
  return {OpContext::ints(state_->value(id)),
          static_cast<std::size_t>(element_count(state_->plan.shapes[at(id)]))};
}

std::int64_t Executor::batch() const {
  return state_->options.batch;
}

std::int64_t Executor::classes() const {
  const Shape& shape = output_shape(0);
  return shape.empty() ? 1 : shape.back();
}

Status Executor::forward(std::uint64_t step) {
  State& s = *state_;
  s.step = step;
  if (s.is_open) {
    s.is_open = false;
    TEMPO_RETURN_IF_ERROR(s.engine.end_step());
  }
  TEMPO_RETURN_IF_ERROR(s.engine.begin_step(s.options.mode));
  s.is_open = true;
  s.announce_weights();
  std::fill(s.moments_of.begin(), s.moments_of.end(), nullptr);
  for (std::size_t i = 0; i < s.plan.nodes.size(); ++i) {
    const PlannedNode& planned = s.plan.nodes[i];
    if (s.is_engines(planned)) {
      TEMPO_RETURN_IF_ERROR(s.forward_linear(i));
      continue;
    }
    const TimeScope scope(s.ledger, TimeKind::kNonLinear);
    OpContext context = s.context_of(planned);
    find_op(s.node_of(planned).op_type)->forward(context);
    TEMPO_RETURN_IF_ERROR(std::move(context.status));
  }
  if (s.options.mode == StepMode::kTraining) return {};
  s.is_open = false;
  return s.engine.end_step();
}

std::size_t Executor::output_count() const {
  return state_->plan.outputs.size();
}

const Shape& Executor::output_shape(std::size_t i) const {
  return state_->plan.shapes[at(state_->plan.outputs[i])];
}

std::span<const float> Executor::output(std::size_t i) const {
  const TensorId id = state_->plan.outputs[i];
  TEMPO_ASSERT(state_->graph.tensors[at(id)].type == DataType::kFloat32);
  return {state_->value(id), static_cast<std::size_t>(element_count(output_shape(i)))};
}

std::span<const std::int64_t> Executor::output_ints(std::size_t i) const {
  const TensorId id = state_->plan.outputs[i];
  TEMPO_ASSERT(state_->graph.tensors[at(id)].type == DataType::kInt64);
  return {OpContext::ints(state_->value(id)),
          static_cast<std::size_t>(element_count(output_shape(i)))};
}

std::span<float> Executor::d_output() {
  TEMPO_ASSERT(state_->options.mode == StepMode::kTraining);
  return {state_->gradient(state_->plan.outputs[0]), output().size()};
}

Status Executor::backward(GradientReader* reader) {
  State& s = *state_;
  TEMPO_ASSERT(s.options.mode == StepMode::kTraining && s.is_open);
  s.engine.offer(reader);
  Status status = s.backward(reader);
  s.engine.offer(nullptr);
  return status;
}

Status Executor::State::backward(GradientReader* reader) {
  has_late = awaits_late;
  if (has_late) swap_late_gradients();
  for (std::size_t i = plan.nodes.size(); i-- > 0;) {
    const PlannedNode& planned = plan.nodes[i];
    if (!planned.has_backward) continue;
    if (is_engines(planned)) {
      TEMPO_RETURN_IF_ERROR(backward_linear(i));
    } else {
      backward_other(planned);
    }
    if (reader == nullptr) continue;
    for (const TensorId id : planned.finished) {
      const std::span<const float> values = gradient_of(id);
      if (!values.empty()) reader->on_finished(id, values);
    }
  }
  is_open = false;
  awaits_late = !late.empty();
  return awaits_late ? engine.end_step_early() : engine.end_step();
}

const std::vector<TensorId>& Executor::late_parameters() const {
  return state_->late;
}

Status Executor::settle() {
  State& s = *state_;
  s.has_late = s.awaits_late;
  if (!s.awaits_late) return {};
  s.awaits_late = false;
  s.swap_late_gradients();
  return s.engine.settle();
}

std::span<const float> Executor::gradient(TensorId parameter) const {
  TEMPO_ASSERT(state_->graph.tensors[at(parameter)].kind == TensorKind::kParameter &&
               state_->options.mode == StepMode::kTraining);
  return state_->gradient_of(parameter);
}

}  // namespace tempo
