#include <algorithm>

#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"

namespace tempo {
namespace {

// A required attribute; 1 before ONNX demanded it.
Result<std::size_t> axis_of(const Node& node, std::size_t rank) {
  return checked_axis(node, node.int_or("axis", 1), rank);
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  const Node& node = context.node;
  TEMPO_RETURN_IF_ERROR(check_inputs(context, std::max<std::size_t>(1, node.inputs.size())));
  Shape out = context.inputs[0];
  const auto axis = axis_of(node, out.size());
  if (!axis) return axis.error();
  for (std::size_t i = 1; i < context.inputs.size(); ++i) {
    Shape expected = context.inputs[i];
    if (expected.size() == out.size()) expected[*axis] = out[*axis];
    if (expected != out) {
      return shape_error(
          node, "Concat's operands do not fit",
          shape_to_string(context.inputs[0]) + " but for dimension " + std::to_string(*axis),
          shape_to_string(context.inputs[i]));
    }
    if (out[*axis] > kMaxTensorElements - context.inputs[i][*axis]) {
      return shape_error(node, "Concat's result is too large");
    }
    out[*axis] += context.inputs[i][*axis];
  }
  return std::vector<Shape>{out};
}

std::string unsupported(const Graph& graph, const Node& node) {
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const Tensor* tensor = input_tensor(graph, node, i);
    if (tensor == nullptr) return "an operand is absent";
    if (tensor->type != type_of_first(graph, node)) return "its operands have several types";
  }
  return unsupported_storage(graph, node);
}

// Calls body(i, where operand i lies in the result).
template <class Body>
void for_operands(const OpContext& context, const Body& body) {
  const std::size_t axis = *axis_of(context.node, context.out_shape(0).size());
  Part part{0, activation_strides(context.out_shape(0), context.out_block(0))};
  for (std::size_t i = 0; i < context.node.inputs.size(); ++i) {
    body(i, part);
    part.offset += context.in_shape(static_cast<int>(i))[axis] * part.strides[axis];
  }
}

void forward(OpContext& context) {
  const DataType type = type_of_first(context.graph, context.node);
  for_operands(context, [&](std::size_t i, const Part& part) {
    const int input = static_cast<int>(i);
    const Shape& dims = context.in_shape(input);
    copy_part(context.pool, type, dims, context.in[i],
              {0, activation_strides(dims, context.in_block(input))}, context.out[0], part);
  });
}

void backward(OpContext& context) {
  for_operands(context, [&](std::size_t i, const Part& part) {
    if (context.d_in[i] == nullptr) return;
    const int input = static_cast<int>(i);
    const Shape& dims = context.in_shape(input);
    strided_copy(context.pool, dims, context.d_out[0] + part.offset, part.strides, context.d_in[i],
                 activation_strides(dims, context.in_block(input)), context.accumulate[i]);
  });
}

}  // namespace

OpDef concat_op() {
  return {.type = "Concat",
          .unsupported = unsupported,
          .output_type = type_of_first,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .flops_an_element = 0};
}

}  // namespace tempo
