#include "enclave/nn/step_plan.h"

#include <algorithm>
#include <map>

#include "enclave/nn/layout.h"
#include "enclave/nn/memory_plan.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

std::size_t at(TensorId id) {
  return static_cast<std::size_t>(id);
}

Error unsupported_graph(const Graph& graph, std::string what, std::string expected,
                        std::string got) {
  return Error{.code = ErrorCode::kUnsupportedModel,
               .what = std::move(what),
               .where = graph.name,
               .expected = std::move(expected),
               .got = std::move(got)};
}

// A buffer of the arena while it is being planned: one tensor, or several that lie in the same
// place one after the other.
class Buffers {
 public:
  int add(std::int64_t bytes, int first, int last) {
    lifetimes_.push_back({bytes, first, last});
    return static_cast<int>(lifetimes_.size()) - 1;
  }
  void extend(int buffer, int last) {
    Lifetime& life = lifetimes_[static_cast<std::size_t>(buffer)];
    life.last = std::max(life.last, last);
  }
  int last(int buffer) const { return lifetimes_[static_cast<std::size_t>(buffer)].last; }
  const std::vector<Lifetime>& lifetimes() const { return lifetimes_; }

 private:
  std::vector<Lifetime> lifetimes_;
};

class Planner {
 public:
  Planner(const Graph& graph, const ExecutorOptions& options)
      : graph_(graph), options_(options), training_(options.mode == StepMode::kTraining) {}

  Result<StepPlan> run() {
    if (graph_.nodes.size() > kMaxPlannedNodes) {
      return unsupported_graph(graph_, "the graph has too many nodes",
                               "at most " + std::to_string(kMaxPlannedNodes),
                               std::to_string(graph_.nodes.size()));
    }
    Result<Shapes> shapes = infer_shapes(graph_, options_.batch);
    if (!shapes) return shapes.error();
    plan_.shapes = std::move(*shapes);
    TEMPO_RETURN_IF_ERROR(check_ends());
    plan_.blocks = choose_blocks(graph_, plan_.shapes, options_.channel_block);
    for (const TensorId id : plan_.outputs) {
      if (is_onnx_order(plan_.shapes[at(id)], plan_.blocks[at(id)])) continue;
      return unsupported_graph(graph_, "an output of the graph is an image",
                               "an Identity before it, as import writes",
                               graph_.tensors[at(id)].name);
    }
    find_readers();
    choose_nodes();
    if (training_) find_gradients();
    stack_linear_nodes();
    if (training_) {
      find_accumulations();
      find_finished_parameters();
    }
    place_values();
    if (training_) place_gradients();
    place_saved();
    const MemoryPlan memory = plan_memory(buffers_.lifetimes());
    plan_.arena_bytes = memory.arena_bytes;
    plan_.peak_bytes = peak_bytes(buffers_.lifetimes());
    plan_.value_offsets = offsets(memory, value_buffers_);
    plan_.gradient_offsets = offsets(memory, gradient_buffers_);
    const std::vector<std::int64_t> saved = offsets(memory, saved_buffers_);
    for (std::size_t i = 0; i < plan_.nodes.size(); ++i) plan_.nodes[i].saved_offset = saved[i];
    return std::move(plan_);
  }

 private:
  Status check_ends() {
    plan_.inputs = graph_.inputs;
    for (const TensorId id : graph_.outputs) {
      if (plan_.outputs.empty() || !training_) plan_.outputs.push_back(id);
    }
    is_output_.assign(graph_.tensors.size(), false);
    for (const TensorId id : plan_.outputs) {
      const Tensor& tensor = graph_.tensors[at(id)];
      is_output_[at(id)] = true;
      if (tensor.kind != TensorKind::kActivation) {
        return unsupported_graph(graph_, "an output of the graph is made by no node",
                                 "at least one node", tensor.name);
      }
    }
    if (plan_.inputs.empty() || plan_.outputs.empty()) {
      return unsupported_graph(graph_, "the graph has no inputs or no outputs", "one of each", "");
    }
    if (training_ && graph_.tensors[at(plan_.outputs[0])].type != DataType::kFloat32) {
      return unsupported_graph(graph_, "the graph's first output cannot be trained on", "float32",
                               "integers");
    }
    return {};
  }

  // Nodes that the output depends on, and which of them read a tensor.
  void find_readers() {
    std::vector<bool> needed(graph_.tensors.size(), false);
    for (const TensorId id : plan_.outputs) needed[at(id)] = true;
    live_.assign(graph_.nodes.size(), false);
    readers_.resize(graph_.tensors.size());
    for (std::size_t n = graph_.nodes.size(); n-- > 0;) {
      const Node& node = graph_.nodes[n];
      for (const TensorId id : node.outputs) {
        if (id != kNoTensor && needed[at(id)]) live_[n] = true;
      }
      if (!live_[n]) continue;
      for (const TensorId id : node.inputs) {
        if (id == kNoTensor) continue;
        needed[at(id)] = true;
        readers_[at(id)].push_back(static_cast<int>(n));
      }
    }
  }

  // The only node that reads a tensor, or -1.
  int only_reader(TensorId id) const {
    return !is_output_[at(id)] && readers_[at(id)].size() == 1 ? readers_[at(id)][0] : -1;
  }

  void choose_nodes() {
    std::vector<bool> done_by_other(graph_.nodes.size(), false);
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      if (!live_[n] || done_by_other[n]) continue;
      const Node& node = graph_.nodes[n];
      const OpDef& op = *find_op(node.op_type);
      PlannedNode planned{.node = static_cast<int>(n), .result = node.outputs[0]};
      const int reader = only_reader(planned.result);
      if (reader >= 0 && op.relu_fusion != ReluFusion::kNo) {
        const Node& next = graph_.nodes[static_cast<std::size_t>(reader)];
        if (next.op_type == "Relu") {
          planned.fused_relu = true;
          planned.result = next.outputs[0];
          done_by_other[static_cast<std::size_t>(reader)] = true;
        }
      }
      if (is_linear_node(graph_, node)) {
        planned.linear = 0;  // which one, stack_linear_nodes() says
        planned.delivers_moments = reader >= 0 && takes_moments(reader, planned.result);
      } else if (is_batched_product(node)) {
        planned.linear = 0;
      }
      plan_.nodes.push_back(std::move(planned));
    }
  }

  // A MatMul of two activations that is as many products as each operand has matrices: nothing is
  // broadcast, and everything lies in ONNX's order.
  bool is_batched_product(const Node& node) const {
    if (node.op_type != "MatMul") return false;
    const Shape& out = plan_.shapes[at(node.outputs[0])];
    for (const TensorId id : {node.inputs[0], node.inputs[1], node.outputs[0]}) {
      const Shape& shape = plan_.shapes[at(id)];
      if (is_fixed(graph_.tensors[at(id)]) || !is_onnx_order(shape, plan_.blocks[at(id)]) ||
          !std::equal(shape.begin(), shape.end() - 2, out.begin(), out.end() - 2)) {
        return false;
      }
    }
    return true;
  }

  bool takes_moments(int reader, TensorId result) const {
    const Node& node = graph_.nodes[static_cast<std::size_t>(reader)];
    const std::size_t rank = plan_.shapes[at(result)].size();
    return training_ && node.op_type == "BatchNormalization" && node.inputs[0] == result &&
           (rank == 2 || rank == 4) &&
           graph_.tensors[at(node.inputs[3])].kind == TensorKind::kStatistic;
  }

  const OpDef& op_of(const PlannedNode& planned) const {
    return *find_op(node_of(planned).op_type);
  }
  const Node& node_of(const PlannedNode& planned) const {
    return graph_.nodes[static_cast<std::size_t>(planned.node)];
  }

  // Which gradients are wanted, and which of those come.
  void find_gradients() {
    std::vector<bool> needs_gradient(graph_.tensors.size(), false);
    for (std::size_t i = 0; i < graph_.tensors.size(); ++i) {
      needs_gradient[i] = graph_.tensors[i].kind == TensorKind::kParameter &&
                          graph_.tensors[i].type == DataType::kFloat32;
    }
    for (PlannedNode& planned : plan_.nodes) {
      const bool passes_on = graph_.tensors[at(planned.result)].type == DataType::kFloat32 &&
                             (planned.linear >= 0 || op_of(planned).backward != nullptr);
      for (const TensorId id : node_of(planned).inputs) {
        planned.wants.push_back(passes_on && id != kNoTensor && needs_gradient[at(id)]);
        planned.has_backward = planned.has_backward || planned.wants.back();
      }
      needs_gradient[at(planned.result)] = planned.has_backward;
    }
    std::vector<bool> is_reached = is_output_;
    for (std::size_t i = plan_.nodes.size(); i-- > 0;) {
      PlannedNode& planned = plan_.nodes[i];
      planned.has_backward = planned.has_backward && is_reached[at(planned.result)];
      for (std::size_t k = 0; k < planned.wants.size(); ++k) {
        planned.wants[k] = planned.wants[k] && planned.has_backward;
        if (planned.wants[k]) is_reached[at(node_of(planned).inputs[k])] = true;
      }
    }
  }

  // Linear nodes that are one operator; indices into plan_.nodes.
  struct Stack {
    ConvGeometry geometry;  // of the first one
    std::vector<std::size_t> nodes;
  };

  // Layers that read the same input become one operator where the first of them stands: the others
  // need nothing that is not there.
  void stack_linear_nodes() {
    std::vector<Stack> stacks;
    std::vector<int> stack_at(plan_.nodes.size(), -1);  // by the first of its nodes
    std::vector<bool> is_later_part(plan_.nodes.size(), false);
    std::map<TensorId, std::vector<std::size_t>> stacks_of;  // by input
    for (std::size_t i = 0; i < plan_.nodes.size(); ++i) {
      const PlannedNode& planned = plan_.nodes[i];
      if (planned.linear < 0) continue;
      if (!is_linear_node(graph_, node_of(planned))) {
        stack_at[i] = static_cast<int>(stacks.size());
        stacks.push_back({{}, {i}});
        continue;
      }
      const ConvGeometry geometry = op_of(planned).lower(node_of(planned), graph_, plan_.shapes);
      std::vector<std::size_t>& candidates = stacks_of[node_of(planned).inputs[0]];
      const auto found = std::ranges::find_if(
          candidates, [&](std::size_t k) { return may_join(stacks[k], planned, geometry); });
      if (found != candidates.end()) {
        stacks[*found].nodes.push_back(i);
        is_later_part[i] = true;
        continue;
      }
      stack_at[i] = static_cast<int>(stacks.size());
      candidates.push_back(stacks.size());
      stacks.push_back({geometry, {i}});
    }
    std::vector<PlannedNode> nodes;
    for (std::size_t i = 0; i < plan_.nodes.size(); ++i) {
      if (is_later_part[i]) continue;
      if (stack_at[i] < 0) {
        nodes.push_back(plan_.nodes[i]);
        continue;
      }
      const Stack& stack = stacks[static_cast<std::size_t>(stack_at[i])];
      const bool is_layer = is_linear_node(graph_, node_of(plan_.nodes[stack.nodes[0]]));
      plan_.linear_ops.push_back(is_layer ? linear_op(stack)
                                          : batched_product(plan_.nodes[stack.nodes[0]]));
      for (std::size_t k = 0; k < stack.nodes.size(); ++k) {
        nodes.push_back(plan_.nodes[stack.nodes[k]]);
        nodes.back().linear = plan_.linear_ops.back().index;
        nodes.back().part = static_cast<int>(k);
      }
    }
    plan_.nodes = std::move(nodes);
  }

  // Whether a node with the stack's input can be a part of it. What is trained, or used, apart from
  // the rest stays an operator of its own.
  bool may_join(const Stack& stack, const PlannedNode& b, ConvGeometry geometry) const {
    const PlannedNode& a = plan_.nodes[stack.nodes[0]];
    const auto is_used_once = [&](const PlannedNode& planned) {
      return readers_[at(node_of(planned).inputs[1])].size() == 1;
    };
    geometry.out_c = stack.geometry.out_c;
    return geometry.groups == 1 && geometry == stack.geometry && is_used_once(a) &&
           is_used_once(b) && a.has_backward == b.has_backward &&
           (!a.has_backward || a.wants[1] == b.wants[1]) &&
           plan_.blocks[at(node_of(a).outputs[0])] == plan_.blocks[at(node_of(b).outputs[0])];
  }

  LinearOp linear_op(const Stack& stack) const {
    const PlannedNode& first = plan_.nodes[stack.nodes[0]];
    const Node& node = node_of(first);
    LinearOp op{.index = static_cast<int>(plan_.linear_ops.size()),
                .name = node.name,
                .geometry = stack.geometry,
                .parts = {},
                .needs_input_gradient = first.has_backward && first.wants[0],
                .needs_weight_gradient = first.has_backward && first.wants[1]};
    const int input_block = plan_.blocks[at(node.inputs[0])];
    const int output_block = plan_.blocks[at(node.outputs[0])];
    if (node.op_type == "Conv") {
      op.input_block = input_block;
      op.output_block = output_block;
    } else {  // rows of features, whatever the rank: import sees to it
      TEMPO_ASSERT(is_onnx_order(plan_.shapes[at(node.inputs[0])], input_block) &&
                   is_onnx_order(plan_.shapes[at(node.outputs[0])], output_block));
    }
    if (stack.nodes.size() == 1) return op;
    op.name.clear();
    op.geometry.out_c = 0;
    for (const std::size_t i : stack.nodes) {
      const PlannedNode& part = plan_.nodes[i];
      const ConvGeometry g = op_of(part).lower(node_of(part), graph_, plan_.shapes);
      op.parts.push_back({.name = node_of(part).name, .features = g.m()});
      op.name += (op.name.empty() ? "" : " + ") + op.parts.back().name;
      op.geometry.out_c += g.m();
    }
    return op;
  }

  LinearOp batched_product(const PlannedNode& planned) const {
    const Node& node = node_of(planned);
    const std::int64_t inner = plan_.shapes[at(node.inputs[0])].back();
    const Shape& out = plan_.shapes[at(node.outputs[0])];
    const std::int64_t rows = out[out.size() - 2];
    return {.index = static_cast<int>(plan_.linear_ops.size()),
            .name = node.name,
            .geometry = {.batch = rows, .in_c = inner, .out_c = out.back()},
            .parts = {},
            .instances = element_count(out) / (rows * out.back()),
            .of_activations = true,
            .needs_input_gradient = planned.has_backward && planned.wants[0],
            .needs_weight_gradient = planned.has_backward && planned.wants[1]};
  }

  // Which gradients add to what is there: backward runs in reverse.
  void find_accumulations() {
    std::vector<bool> contributed = is_output_;  // the loss's gradient is there from the start
    for (std::size_t i = plan_.nodes.size(); i-- > 0;) {
      PlannedNode& planned = plan_.nodes[i];
      const std::vector<TensorId>& inputs = node_of(planned).inputs;
      planned.accumulates.resize(inputs.size(), false);
      for (std::size_t k = 0; k < inputs.size(); ++k) {
        if (!planned.wants[k]) continue;
        planned.accumulates[k] = contributed[at(inputs[k])];
        contributed[at(inputs[k])] = true;
      }
    }
  }

  void find_finished_parameters() {
    std::vector<int> finished(graph_.tensors.size(), -1);  // step by TensorId
    for (std::size_t i = 0; i < plan_.nodes.size(); ++i) {
      const PlannedNode& planned = plan_.nodes[i];
      const std::vector<TensorId>& inputs = node_of(planned).inputs;
      for (std::size_t k = 0; k < inputs.size(); ++k) {
        if (!planned.wants[k] || graph_.tensors[at(inputs[k])].kind != TensorKind::kParameter) {
          continue;
        }
        finished[at(inputs[k])] = std::max(finished[at(inputs[k])], settled_step(i));
      }
    }
    for (std::size_t id = 0; id < finished.size(); ++id) {
      if (finished[id] < 0 || finished[id] == last_step()) continue;
      const int node = last_step() - 1 - finished[id];  // whose backward_step() that is
      plan_.nodes[static_cast<std::size_t>(node)].finished.push_back(static_cast<TensorId>(id));
    }
  }

  // Steps: node i runs forward at step i and backward at the mirrored one; a stack runs where its
  // first part stands.
  int forward_step(std::size_t i) const { return static_cast<int>(i) - plan_.nodes[i].part; }
  int backward_step(std::size_t i) const {
    return static_cast<int>(2 * plan_.nodes.size()) - 1 - forward_step(i);
  }
  // When everything that a node reads for its backward is free. A layer's weight gradient may be
  // awaited until the layer before it is done (LinearEngine::backward).
  int settled_step(std::size_t i) const {
    if (!options_.defers_weight_gradients || plan_.nodes[i].linear < 0 ||
        !is_linear_node(graph_, node_of(plan_.nodes[i]))) {
      return backward_step(i);
    }
    for (std::size_t k = i; k-- > 0;) {
      const PlannedNode& before = plan_.nodes[k];
      const bool is_layer = before.linear >= 0 && before.linear != plan_.nodes[i].linear &&
                            is_linear_node(graph_, node_of(before));
      if (is_layer && before.has_backward && (before.wants[0] || before.wants[1]))
        return backward_step(k);
    }
    return last_step();
  }
  int first_backward_step() const { return static_cast<int>(plan_.nodes.size()); }
  int last_step() const { return static_cast<int>(2 * plan_.nodes.size()); }

  std::int64_t bytes(TensorId id) const {
    return element_count(plan_.shapes[at(id)]) * element_bytes(graph_.tensors[at(id)].type);
  }

  // Steps until which the values of tensors are read.
  std::vector<int> last_reads() const {
    std::vector<int> last(graph_.tensors.size(), -1);
    const auto read = [&](TensorId id, int step) {
      if (id != kNoTensor) last[at(id)] = std::max(last[at(id)], step);
    };
    for (std::size_t i = 0; i < plan_.nodes.size(); ++i) {
      const PlannedNode& planned = plan_.nodes[i];
      const OpDef& op = op_of(planned);
      const Node& node = node_of(planned);
      for (const TensorId id : node.inputs) read(id, forward_step(i));
      read(planned.result, forward_step(i));
      if (!planned.has_backward) continue;
      if (op.needs.inputs) {
        for (const TensorId id : node.inputs) read(id, settled_step(i));
      }
      if (op.needs.outputs || (planned.fused_relu && op.relu_fusion == ReluFusion::kReadsOutput)) {
        read(planned.result, backward_step(i));
      }
    }
    // Outlives the step: the caller reads it until the next one.
    for (const TensorId id : plan_.outputs) read(id, last_step());
    return last;
  }

  // Whether a tensor may lie where another one, of which it is made, has lain.
  bool may_share(const PlannedNode& planned, std::size_t input) const {
    const OpDef& op = op_of(planned);
    const Node& node = node_of(planned);
    if (planned.linear >= 0 || input >= static_cast<std::size_t>(op.in_place_inputs)) return false;
    const TensorId id = node.inputs[input];
    if (id == kNoTensor || graph_.tensors[at(id)].kind != TensorKind::kActivation ||
        graph_.tensors[at(id)].type != graph_.tensors[at(planned.result)].type) {
      return false;
    }
    if (plan_.shapes[at(id)] == plan_.shapes[at(planned.result)]) {
      return plan_.blocks[at(id)] == plan_.blocks[at(planned.result)];
    }
    return op.keeps_order != nullptr && op.keeps_order(node, plan_.shapes, plan_.blocks);
  }

  void place_values() {
    const std::vector<int> last = last_reads();
    value_buffers_.assign(graph_.tensors.size(), -1);
    // Filled before the first node runs.
    for (const TensorId id : plan_.inputs) {
      value_buffers_[at(id)] = buffers_.add(bytes(id), 0, std::max(0, last[at(id)]));
    }
    for (std::size_t i = 0; i < plan_.nodes.size(); ++i) {
      const PlannedNode& planned = plan_.nodes[i];
      const int end = last[at(planned.result)];
      int buffer = -1;
      // Outputs outlive the step, so that they must not lie where the next input is filled in.
      const bool is_output = is_output_[at(planned.result)];
      const std::vector<TensorId>& inputs = node_of(planned).inputs;
      for (std::size_t k = 0; !is_output && buffer < 0 && k < inputs.size(); ++k) {
        if (may_share(planned, k) && value_buffers_[at(inputs[k])] >= 0 &&
            buffers_.last(value_buffers_[at(inputs[k])]) == forward_step(i)) {
          buffer = value_buffers_[at(inputs[k])];
          buffers_.extend(buffer, end);
        }
      }
      if (buffer < 0) {
        buffer = buffers_.add(bytes(planned.result), is_output ? 0 : forward_step(i), end);
      }
      value_buffers_[at(planned.result)] = buffer;
    }
  }

  void place_gradients() {
    gradient_buffers_.assign(graph_.tensors.size(), -1);
    const TensorId output = plan_.outputs[0];
    gradient_buffers_[at(output)] =
        buffers_.add(bytes(output), first_backward_step(), first_backward_step());
    for (std::size_t i = plan_.nodes.size(); i-- > 0;) {
      const PlannedNode& planned = plan_.nodes[i];
      if (!planned.has_backward) continue;
      const int step = backward_step(i);
      const int from = gradient_buffers_[at(planned.result)];
      buffers_.extend(from, settled_step(i));
      const std::vector<TensorId>& inputs = node_of(planned).inputs;
      bool is_taken = false;  // only one gradient may take the place of the result's
      for (std::size_t k = 0; k < inputs.size(); ++k) {
        if (!planned.wants[k] || graph_.tensors[at(inputs[k])].kind == TensorKind::kParameter) {
          continue;
        }
        int& buffer = gradient_buffers_[at(inputs[k])];
        if (buffer >= 0) {
          buffers_.extend(buffer, step);
        } else if (!is_taken && may_share(planned, k)) {
          buffer = from;
          is_taken = true;
        } else {
          buffer = buffers_.add(bytes(inputs[k]), step, step);
        }
      }
    }
  }

  void place_saved() {
    saved_buffers_.assign(plan_.nodes.size(), -1);
    if (!training_) return;
    for (std::size_t i = 0; i < plan_.nodes.size(); ++i) {
      const PlannedNode& planned = plan_.nodes[i];
      const OpDef& op = op_of(planned);
      if (planned.linear >= 0 || op.saved_bytes == nullptr) continue;
      saved_buffers_[i] =
          buffers_.add(op.saved_bytes(node_of(planned), plan_.shapes), forward_step(i),
                       planned.has_backward ? backward_step(i) : forward_step(i));
    }
  }

  static std::vector<std::int64_t> offsets(const MemoryPlan& memory,
                                           const std::vector<int>& buffers) {
    std::vector<std::int64_t> result;
    result.reserve(buffers.size());
    for (const int buffer : buffers) {
      result.push_back(buffer < 0 ? -1 : memory.offsets[static_cast<std::size_t>(buffer)]);
    }
    return result;
  }

  const Graph& graph_;
  const ExecutorOptions& options_;
  const bool training_;
  StepPlan plan_;
  std::vector<bool> is_output_;            // by TensorId
  std::vector<bool> live_;                 // by node
  std::vector<std::vector<int>> readers_;  // live nodes by TensorId, one entry a use
  Buffers buffers_;
  std::vector<int> value_buffers_;     // by TensorId
  std::vector<int> gradient_buffers_;  // by TensorId
  std::vector<int> saved_buffers_;     // by planned node
};

}  // namespace

const LinearOp* late_operator(const Graph& graph, const StepPlan& plan) {
  std::vector<int> readers(graph.tensors.size(), 0);
  const LinearOp* late = nullptr;
  TensorId weights = kNoTensor;
  for (const PlannedNode& planned : plan.nodes) {
    const Node& node = graph.nodes[static_cast<std::size_t>(planned.node)];
    for (const TensorId id : node.inputs) {
      if (id != kNoTensor) ++readers[at(id)];
    }
    if (late != nullptr || planned.linear < 0 || !planned.has_backward) continue;
    if (!is_linear_node(graph, node) || !(planned.wants[0] || planned.wants[1])) continue;
    late = &plan.linear_ops[static_cast<std::size_t>(planned.linear)];
    weights = node.inputs[1];  // of a stack, all have one reader
  }
  const bool may_come_late =
      late != nullptr && late->needs_weight_gradient && readers[at(weights)] == 1;
  return may_come_late ? late : nullptr;
}

Result<StepPlan> make_step_plan(const Graph& graph, const ExecutorOptions& options) {
  return Planner(graph, options).run();
}

}  // namespace tempo
