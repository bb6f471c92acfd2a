#include "enclave/graph/graph.h"
#include "enclave/graph/infer_node.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

Error too_large(const std::string& name, const Shape& shape) {
  return Error{.code = ErrorCode::kBadModel,
               .what = "a tensor is too large",
               .where = name,
               .expected = "at most " + std::to_string(kMaxTensorElements) + " elements",
               .got = shape_to_string(shape),
               .next_step = "use a smaller batch or model"};
}

}  // namespace

std::int64_t bounded_element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) {
    if (dim < 0 || (dim > 0 && count > kMaxTensorElements / dim)) return -1;
    count *= dim;
  }
  return count;
}

Result<std::vector<Shape>> infer_node(const Graph& graph, const Node& node,
                                      std::vector<Shape> inputs, std::int64_t batch) {
  const OpDef* op = find_op(node.op_type);
  if (op == nullptr) {
    return Error{.code = ErrorCode::kUnsupportedModel,
                 .what = "operator " + node.op_type + " is not supported",
                 .where = node.name};
  }
  Result<std::vector<Shape>> shapes = op->infer(
      ShapeContext{.graph = graph, .node = node, .inputs = std::move(inputs), .batch = batch});
  if (!shapes) return shapes;
  if (shapes->size() < node.outputs.size()) {
    return Error{.code = ErrorCode::kBadModel,
                 .what = "a node has too many outputs",
                 .where = node.name,
                 .expected = std::to_string(shapes->size()),
                 .got = std::to_string(node.outputs.size())};
  }
  for (const Shape& shape : *shapes) {
    if (bounded_element_count(shape) < 0) return too_large(node.name, shape);
  }
  return shapes;
}

Result<Shapes> infer_shapes(const Graph& graph, std::int64_t batch) {
  if (batch < 1) {
    return Error{.code = ErrorCode::kUsage,
                 .what = "the batch size makes no sense",
                 .expected = "at least 1",
                 .got = std::to_string(batch)};
  }
  Shapes shapes(graph.tensors.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Tensor& tensor = graph.tensors[i];
    if (tensor.kind == TensorKind::kActivation) continue;
    shapes[i] = tensor.declared;
    for (std::int64_t& dim : shapes[i]) {
      if (dim == kBatchDim) dim = batch;
    }
    if (bounded_element_count(shapes[i]) < 0) return too_large(tensor.name, shapes[i]);
  }
  for (const Node& node : graph.nodes) {
    std::vector<Shape> inputs;
    inputs.reserve(node.inputs.size());
    for (const TensorId id : node.inputs) {
      inputs.push_back(id == kNoTensor ? Shape{} : shapes[static_cast<std::size_t>(id)]);
    }
    Result<std::vector<Shape>> outputs = infer_node(graph, node, std::move(inputs), batch);
    if (!outputs) return outputs.error();
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] == kNoTensor) continue;
      shapes[static_cast<std::size_t>(node.outputs[i])] = std::move((*outputs)[i]);
    }
  }
  return shapes;
}

}  // namespace tempo
