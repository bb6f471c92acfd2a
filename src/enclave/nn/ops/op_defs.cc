#include "enclave/nn/ops/op_defs.h"

namespace tempo {

Error shape_error(const Node& node, std::string what, std::string expected, std::string got) {
  return Error{.code = ErrorCode::kBadModel,
               .what = std::move(what),
               .where = node.name,
               .expected = std::move(expected),
               .got = std::move(got)};
}

Status check_inputs(const ShapeContext& context, std::size_t required) {
  const Node& node = context.node;
  if (node.inputs.size() < required || context.inputs.size() != node.inputs.size()) {
    return shape_error(node, node.op_type + " lacks inputs", "at least " + std::to_string(required),
                       std::to_string(node.inputs.size()));
  }
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] == kNoTensor) {
      if (i < required) {
        return shape_error(node, node.op_type + " lacks an input", "input " + std::to_string(i));
      }
      continue;
    }
    const Tensor& tensor = *input_tensor(context.graph, node, i);
    if (i >= required && tensor.kind == TensorKind::kConstant && tensor.type == DataType::kInt64) {
      continue;  // a list, of axes or sizes, which may be empty
    }
    for (const std::int64_t dim : context.inputs[i]) {
      if (dim >= 1) continue;
      return shape_error(node, "an input of " + node.op_type + " is empty", "dimensions above 0",
                         shape_to_string(context.inputs[i]));
    }
  }
  return {};
}

const Tensor* input_tensor(const Graph& graph, const Node& node, std::size_t i) {
  if (i >= node.inputs.size() || node.inputs[i] == kNoTensor) return nullptr;
  return &graph.tensors[static_cast<std::size_t>(node.inputs[i])];
}

bool has_fixed_floats(const Graph& graph, const Node& node, std::size_t i) {
  const Tensor* tensor = input_tensor(graph, node, i);
  return tensor != nullptr && is_fixed(*tensor) && tensor->type == DataType::kFloat32;
}

std::string unsupported_storage(const Graph& graph, const Node& node) {
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const Tensor* tensor = input_tensor(graph, node, i);
    if (tensor != nullptr && tensor->storage != Storage::kOnnx) {
      return "a weight must not be its operand as well";
    }
  }
  return "";
}

Error index_error(const Node& node, std::int64_t size, std::int64_t index) {
  return Error{.code = ErrorCode::kBadData,
               .what = "an index is out of range",
               .where = node.name,
               .expected = "below " + std::to_string(size),
               .got = std::to_string(index),
               .next_step = "check the data against the model's vocabulary"};
}

DataType type_of_first(const Graph& graph, const Node& node) {
  return input_tensor(graph, node, 0)->type;
}

DataType integer_type(const Graph&, const Node&) {
  return DataType::kInt64;
}

Result<std::size_t> checked_axis(const Node& node, std::int64_t axis, std::size_t rank) {
  const auto signed_rank = static_cast<std::int64_t>(rank);
  if (axis < -signed_rank || axis >= signed_rank) {
    return shape_error(
        node, "an axis of " + node.op_type + " is out of range",
        "from " + std::to_string(-signed_rank) + " to " + std::to_string(signed_rank - 1),
        std::to_string(axis));
  }
  return static_cast<std::size_t>(axis < 0 ? axis + signed_rank : axis);
}

std::optional<std::vector<std::int64_t>> constant_ints(const ShapeContext& context, std::size_t i) {
  const Tensor* tensor = input_tensor(context.graph, context.node, i);
  if (tensor == nullptr) return std::nullopt;
  return ints_at(*tensor, context.batch);
}

Result<std::vector<Shape>> same_shape(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  return std::vector<Shape>{context.inputs[0]};
}

}  // namespace tempo
