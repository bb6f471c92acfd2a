#include "enclave/train/logit_bypass.h"

#include <algorithm>
#include <optional>

namespace tempo {
namespace {

std::optional<std::size_t> producer_of(const Graph& graph, TensorId tensor) {
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const auto& outputs = graph.nodes[i].outputs;
    if (std::find(outputs.begin(), outputs.end(), tensor) != outputs.end()) return i;
  }
  return std::nullopt;
}

std::ptrdiff_t uses_of(const Graph& graph, TensorId tensor) {
  std::ptrdiff_t uses = 0;
  for (const Node& node : graph.nodes) {
    uses += std::count(node.inputs.begin(), node.inputs.end(), tensor);
  }
  return uses;
}

bool over_classes(const Node& softmax) {
  constexpr int kLastAxisOpset = 13;  // before it, the default axis was 1: the same in rank 2
  const std::int64_t axis = softmax.int_or("axis", softmax.opset < kLastAxisOpset ? 1 : -1);
  return axis == 1 || axis == -1;
}

// Identity, or a Flatten or Reshape that leaves the shape as it is.
bool passes_on(const Graph& graph, const Shapes& shapes, const Node& node) {
  if (node.op_type == "Identity") return true;
  if (node.op_type != "Flatten" && node.op_type != "Reshape") return false;
  const auto shape_of = [&](TensorId id) { return shapes[static_cast<std::size_t>(id)]; };
  return graph.tensors[static_cast<std::size_t>(node.inputs[0])].kind == TensorKind::kActivation &&
         shape_of(node.inputs[0]) == shape_of(node.outputs[0]);
}

}  // namespace

Result<LogitBypass> LogitBypass::apply(Graph& graph, LossKind loss) {
  LogitBypass bypass(graph);
  if (graph.outputs.size() != 1 || loss == LossKind::kMse) return bypass;
  const std::string_view function = loss == LossKind::kBce ? "Sigmoid" : "Softmax";
  constexpr std::int64_t kAnyBatch = 2;
  const auto shapes = infer_shapes(graph, kAnyBatch);
  if (!shapes.ok()) return shapes.error();
  std::vector<std::size_t> chain;  // from the output backwards
  TensorId tensor = graph.outputs[0];
  bool shared = false;
  while (true) {
    const auto at = producer_of(graph, tensor);
    if (!at) return bypass;
    const Node& node = graph.nodes[*at];
    const bool is_function = node.op_type == function;
    if (node.inputs.empty() || (!is_function && !passes_on(graph, *shapes, node))) return bypass;
    shared = shared || uses_of(graph, tensor) > (tensor == graph.outputs[0] ? 0 : 1);
    chain.push_back(*at);
    tensor = node.inputs[0];
    if (!is_function) continue;
    const bool fits = loss == LossKind::kBce || over_classes(node);
    if (fits && !shared) break;
    return Error{ErrorCode::kUnsupportedModel,
                 "the model's last " + node.op_type + " cannot be trained",
                 node.name,
                 "one over the classes (axis 1 or -1) that nothing else reads",
                 fits ? "one that other nodes read" : "one over the batch",
                 "export the model without its last " + node.op_type};
  }
  std::sort(chain.begin(), chain.end());
  for (const std::size_t at : chain) bypass.removed_.emplace_back(at, graph.nodes[at]);
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    graph.nodes.erase(graph.nodes.begin() + static_cast<std::ptrdiff_t>(*it));
  }
  bypass.output_ = graph.outputs[0];
  graph.outputs[0] = tensor;
  return bypass;
}

LogitBypass::LogitBypass(LogitBypass&& other) noexcept
    : graph_(other.graph_), output_(other.output_), removed_(std::move(other.removed_)) {
  other.removed_.clear();
}

LogitBypass::~LogitBypass() {
  if (removed_.empty()) return;
  for (auto& [at, node] : removed_) {
    graph_->nodes.insert(graph_->nodes.begin() + static_cast<std::ptrdiff_t>(at), std::move(node));
  }
  graph_->outputs[0] = output_;
}

}  // namespace tempo
