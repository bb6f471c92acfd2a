#include "enclave/graph/evaluate.h"

#include <algorithm>
#include <cctype>

#include "enclave/graph/infer_node.h"
#include "enclave/graph/onnx_schema.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

// Operators with state of their own, and those that a linear engine does, are left to the graph.
bool can_evaluate(const OpDef& op, const Node& node) {
  return node.opset >= op.min_opset && op.forward != nullptr && !op.is_linear &&
         op.saved_bytes == nullptr && op.type != "BatchNormalization";
}

bool has_type(char letter, DataType type) {
  const int lower = std::tolower(letter);
  return lower == 'a' || (lower == 'f') == (type == DataType::kFloat32);
}

bool is_empty_list(const std::optional<Tensor>& operand) {
  return operand && operand->type == DataType::kInt64 && operand->declared == Shape{0};
}

// True when an empty list makes an empty list.
bool passes_nothing_on(const Node& node) {
  constexpr std::int64_t kOnnxFloat = 1;  // TensorProto.DataType
  return node.op_type == "Slice" || node.op_type == "Identity" ||
         (node.op_type == "Cast" && node.int_or("to", kOnnxFloat) != kOnnxFloat);
}

float* values_of(Tensor& tensor) {
  if (tensor.type == DataType::kFloat32) return tensor.floats.data();
  return reinterpret_cast<float*>(tensor.ints.data());
}

}  // namespace

std::optional<Tensor> evaluate_node(const Node& node, std::vector<std::optional<Tensor>> operands,
                                    std::int64_t max_elements) {
  // Shape rules take no empty operands, but lists of dimensions are empty at times.
  if (node.op_type == "Concat") std::erase_if(operands, is_empty_list);
  if (passes_nothing_on(node) && !operands.empty() && is_empty_list(operands[0])) {
    return operands[0];
  }
  const OpDef* op = find_op(node.op_type);
  const OpSchema* schema = find_schema(node.op_type);
  if (op == nullptr || schema == nullptr || !can_evaluate(*op, node) ||
      !schema->takes(operands.size())) {
    return std::nullopt;
  }
  Graph graph;
  Node alone = node;
  Shapes shapes;
  std::vector<Shape> inputs;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    inputs.emplace_back();
    alone.inputs.push_back(kNoTensor);
    if (!operands[i]) {
      if (i < schema->required) return std::nullopt;
      continue;
    }
    Tensor& operand = *operands[i];
    const char letter = schema->letter(i);
    if (!has_type(letter, operand.type)) return std::nullopt;
    if (std::islower(letter) != 0) operand.kind = TensorKind::kActivation;
    alone.inputs[i] = static_cast<TensorId>(graph.tensors.size());
    inputs[i] = operand.declared;
    shapes.push_back(operand.declared);
    graph.tensors.push_back(std::move(operand));
  }
  if (op->unsupported != nullptr && !op->unsupported(graph, alone).empty()) return std::nullopt;
  const Result<std::vector<Shape>> outputs =
      op->infer({.graph = graph, .node = alone, .inputs = std::move(inputs), .allows_empty = true});
  if (!outputs) return std::nullopt;
  const std::int64_t count = bounded_element_count((*outputs)[0]);
  if (count < 0 || count > max_elements) return std::nullopt;

  alone.outputs = {static_cast<TensorId>(graph.tensors.size())};
  shapes.push_back((*outputs)[0]);
  Tensor result{.kind = TensorKind::kConstant, .declared = shapes.back()};
  if (op->output_type != nullptr) result.type = op->output_type(graph, alone);
  if (count == 0) return result;
  const auto size = static_cast<std::size_t>(count);
  (result.type == DataType::kFloat32 ? result.floats.resize(size) : result.ints.resize(size));
  graph.tensors.push_back({.type = result.type});

  ThreadPool pool(1);
  const std::vector<int> blocks(graph.tensors.size(), kOnnxOrder);
  OpContext context{.graph = graph,
                    .node = alone,
                    .shapes = shapes,
                    .pool = pool,
                    .mode = StepMode::kInference,
                    .in = {},
                    .out = {values_of(result)},
                    .d_out = {},
                    .d_in = {},
                    .accumulate = {},
                    .blocks = &blocks};
  for (const TensorId id : alone.inputs) {
    context.in.push_back(id == kNoTensor ? nullptr
                                         : values_of(graph.tensors[static_cast<std::size_t>(id)]));
  }
  op->forward(context);
  if (!context.status.ok()) return std::nullopt;
  return result;
}

}  // namespace tempo
