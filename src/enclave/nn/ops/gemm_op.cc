#include "enclave/nn/ops/op_defs.h"

namespace tempo {
namespace {

// Weights lie as (m, n) in memory, whatever transB says.
std::string unsupported(const Graph& graph, const Node& node) {
  if (node.int_or("transA", 0) != 0) return "only transA = 0";
  if (node.float_or("alpha", 1) != 1 || node.float_or("beta", 1) != 1) {
    return "only alpha = beta = 1";
  }
  const Tensor* input = input_tensor(graph, node, 0);
  if (input == nullptr || is_fixed(*input)) return "A must be an activation";
  if (!has_fixed_floats(graph, node, 1)) return "B must be an initializer";
  const Tensor& weights = *input_tensor(graph, node, 1);
  const Storage storage = node.int_or("transB", 0) == 0 ? Storage::kTransposed : Storage::kOnnx;
  if (weights.declared.size() != 2 || weights.storage != storage) return "B must be a matrix";
  const Tensor* bias = input_tensor(graph, node, 2);
  if (bias == nullptr) return "";
  if (!has_fixed_floats(graph, node, 2)) return "C must be an initializer";
  const std::int64_t m = weights.declared[storage == Storage::kOnnx ? 0 : 1];
  if (bias->declared != Shape{m} && bias->declared != Shape{1, m}) {
    return "C must be a vector of the output's columns";
  }
  return "";
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const Shape& in = context.inputs[0];
  const Shape& weights = context.inputs[1];
  if (in.size() != 2 || weights.size() != 2) {
    return shape_error(context.node, "Gemm needs matrices", "rank 2",
                       shape_to_string(in) + " and " + shape_to_string(weights));
  }
  const bool transposed = context.node.int_or("transB", 0) != 0;
  const std::int64_t n = transposed ? weights[1] : weights[0];
  if (in[1] != n) {
    return shape_error(context.node, "Gemm's operands do not fit",
                       std::to_string(in[1]) + " inner elements", std::to_string(n));
  }
  return std::vector<Shape>{{in[0], transposed ? weights[0] : weights[1]}};
}

ConvGeometry lower(const Node& node, const Graph&, const Shapes& shapes) {
  const Shape& in = shapes[static_cast<std::size_t>(node.inputs[0])];
  const Shape& out = shapes[static_cast<std::size_t>(node.outputs[0])];
  return {.batch = in[0], .in_c = in[1], .out_c = out[1]};
}

}  // namespace

OpDef gemm_op() {
  return {.type = "Gemm",
          .is_linear = true,
          .notes = "by weights, plus a bias; other forms as Transpose, MatMul, Mul and Add",
          .unsupported = unsupported,
          .infer = infer,
          .lower = lower,
          .needs = {.inputs = true},
          .blocking = Blocking::kFree};
}

}  // namespace tempo
