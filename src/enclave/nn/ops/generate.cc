// Operators that make tensors of constants: Range and ConstantOfShape.
#include <algorithm>
#include <cmath>

#include "enclave/nn/ops/op_defs.h"

namespace tempo {
namespace {

// --- ConstantOfShape ---

// The attribute `value`, or null for the float 0.
const Tensor* value_of(const Node& node) {
  const auto found = node.attributes.find("value");
  return found == node.attributes.end() ? nullptr : std::get_if<Tensor>(&found->second.value);
}

std::string unsupported_fill(const Graph&, const Node& node) {
  const Tensor* value = value_of(node);
  if (value == nullptr) {
    return node.attributes.contains("value") ? "its value is no tensor of numbers" : "";
  }
  return value->floats.size() + value->ints.size() == 1 ? "" : "its value must be one number";
}

DataType fill_type(const Graph&, const Node& node) {
  const Tensor* value = value_of(node);
  return value == nullptr ? DataType::kFloat32 : value->type;
}

Result<std::vector<Shape>> infer_fill(const ShapeContext& context) {
  const auto shape = constant_ints(context, 0);
  if (!shape) return shape_error(context.node, "ConstantOfShape lacks its shape", "input 0");
  for (const std::int64_t dim : *shape) {
    if (dim >= 1) continue;
    return shape_error(context.node, "ConstantOfShape's result is empty", "dimensions above 0",
                       shape_to_string(*shape));
  }
  return std::vector<Shape>{*shape};
}

void fill_forward(OpContext& context) {
  const Tensor* value = value_of(context.node);
  const std::int64_t count = element_count(context.out_shape(0));
  if (value != nullptr && value->type == DataType::kInt64) {
    std::fill_n(OpContext::ints(context.out[0]), count, value->ints[0]);
  } else {
    std::fill_n(context.out[0], count, value == nullptr ? 0.0F : value->floats[0]);
  }
}

// --- Range ---

constexpr double kMaxRange = 1 << 24;

struct Limits {
  double start = 0, limit = 0, delta = 1;
};

// Of constants of either type; integers up to 2^53.
Limits limits_of(const ShapeContext& context) {
  const auto number = [&](std::size_t i) {
    const Tensor& tensor = *input_tensor(context.graph, context.node, i);
    if (tensor.type == DataType::kFloat32) return static_cast<double>(tensor.floats[0]);
    return static_cast<double>(ints_at(tensor, context.batch)[0]);
  };
  return {number(0), number(1), number(2)};
}

std::string unsupported_range(const Graph& graph, const Node& node) {
  for (std::size_t i = 0; i < 3; ++i) {
    const Tensor* tensor = input_tensor(graph, node, i);
    if (tensor == nullptr || tensor->floats.size() + tensor->ints.size() != 1) {
      return "its limits must be constant numbers";
    }
    if (tensor->type != type_of_first(graph, node)) return "its limits have several types";
  }
  return "";
}

Result<std::vector<Shape>> infer_range(const ShapeContext& context) {
  const Limits limits = limits_of(context);
  const double count = std::ceil((limits.limit - limits.start) / limits.delta);
  if (!(count >= 1 && count <= kMaxRange)) {
    return shape_error(context.node, "Range has no elements, or too many",
                       "1 to " + std::to_string(static_cast<std::int64_t>(kMaxRange)),
                       std::to_string(count));
  }
  return std::vector<Shape>{{static_cast<std::int64_t>(count)}};
}

void range_forward(OpContext& context) {
  const Limits limits = limits_of(context.shape_context());
  const std::int64_t count = context.out_shape(0)[0];
  const bool is_float = type_of_first(context.graph, context.node) == DataType::kFloat32;
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = limits.start + static_cast<double>(i) * limits.delta;
    if (is_float) {
      context.out[0][i] = static_cast<float>(value);
    } else {
      OpContext::ints(context.out[0])[i] = static_cast<std::int64_t>(value);
    }
  }
}

}  // namespace

OpDef constant_of_shape_op() {
  return {.type = "ConstantOfShape",
          .min_opset = 9,
          .notes = "of a constant shape, which may contain the batch size",
          .unsupported = unsupported_fill,
          .output_type = fill_type,
          .infer = infer_fill,
          .forward = fill_forward,
          .flops_an_element = 0};
}

OpDef range_op() {
  return {.type = "Range",
          .min_opset = 11,
          .notes = "between constants, which may depend on the batch size",
          .unsupported = unsupported_range,
          .output_type = type_of_first,
          .infer = infer_range,
          .forward = range_forward};
}

}  // namespace tempo
