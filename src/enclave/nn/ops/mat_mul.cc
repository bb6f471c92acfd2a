#include <algorithm>

#include "base/buffer.h"
#include "enclave/nn/feature_view.h"
#include "enclave/nn/ops/onnx_ordered.h"
#include "enclave/nn/ops/op_defs.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

std::string unsupported(const Graph& graph, const Node& node) {
  const Tensor* left = input_tensor(graph, node, 0);
  const Tensor* right = input_tensor(graph, node, 1);
  for (const Tensor* tensor : {left, right}) {
    if (tensor == nullptr || tensor->type != DataType::kFloat32) return "only float32 operands";
    if (is_fixed(*tensor) && tensor->declared.size() < 2) return "only operands of rank 2 or more";
  }
  if (is_fixed(*left) && is_fixed(*right)) return "one operand must be an activation";
  if (is_fixed(*left) && left->storage != Storage::kOnnx) {
    return "a weight must not be a left and a right operand";
  }
  if (node.int_or("transB", 0) != 0 && !is_linear_node(graph, node)) return "transB with no weight";
  return "";
}

// Output shape by NumPy's rules: matrices in the last two dimensions, the others broadcast.
Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const Node& node = context.node;
  const Shape& a = context.inputs[0];
  const Shape& b = context.inputs[1];
  const std::string got = shape_to_string(a) + " and " + shape_to_string(b);
  if (a.size() < 2 || b.size() < 2) {
    return shape_error(node, "MatMul needs matrices", "rank 2 or more", got);
  }
  // An attribute of our own, for what import and fusion take as it is.
  const bool transposed = node.int_or("transB", 0) != 0;
  if (a.back() != b[b.size() - (transposed ? 1 : 2)]) {
    return shape_error(node, "MatMul's operands do not fit", "equal inner dimensions", got);
  }
  Shape out(std::max(a.size(), b.size()));
  out[out.size() - 1] = b[b.size() - (transposed ? 2 : 1)];
  out[out.size() - 2] = a[a.size() - 2];
  for (std::size_t i = 3; i <= out.size(); ++i) {
    const std::int64_t da = i <= a.size() ? a[a.size() - i] : 1;
    const std::int64_t db = i <= b.size() ? b[b.size() - i] : 1;
    if (da != db && da != 1 && db != 1) {
      return shape_error(node, "MatMul's operands do not broadcast", "equal leading dimensions",
                         got);
    }
    out[out.size() - i] = std::max(da, db);
  }
  return std::vector<Shape>{out};
}

ConvGeometry lower(const Node& node, const Graph&, const Shapes& shapes) {
  const Shape& in = shapes[static_cast<std::size_t>(node.inputs[0])];
  const Shape& out = shapes[static_cast<std::size_t>(node.outputs[0])];
  return {.batch = element_count(in) / in.back(), .in_c = in.back(), .out_c = out.back()};
}

// Which matrix of an operand goes with matrix `batch` of the result.
std::int64_t operand_index(const Shape& operand, const Shape& out, std::int64_t batch) {
  std::int64_t index = 0, stride = 1;
  for (std::size_t i = 3; i <= out.size(); ++i) {
    const std::int64_t dim = out[out.size() - i];
    const std::int64_t at = batch % dim;
    batch /= dim;
    if (i > operand.size()) continue;
    const std::int64_t own = operand[operand.size() - i];
    if (own != 1) index += at * stride;
    stride *= own;
  }
  return index;
}

struct Product {
  Shape a, b, out;
  std::int64_t rows, inner, columns, batches;
  bool is_b_transposed;
  std::int64_t b_stride;  // from one of its rows to the next

  explicit Product(const OpContext& context)
      : a(context.in_shape(0)),
        b(context.in_shape(1)),
        out(context.out_shape(0)),
        rows(out[out.size() - 2]),
        inner(a.back()),
        columns(out.back()),
        batches(element_count(out) / (rows * columns)),
        is_b_transposed(context.node.int_or("transB", 0) != 0),
        b_stride(b.back()) {}
};

void forward(OpContext& context) {
  const Product p(context);
  const OnnxOrdered a(context.pool, p.a, context.in_block(0), context.in[0]);
  const OnnxOrdered b(context.pool, p.b, context.in_block(1), context.in[1]);
  OnnxOrderedResult out(context.pool, p.out, context.out_block(0), context.out[0], false);
  for (std::int64_t i = 0; i < p.batches; ++i) {
    gemm(Transpose::kNo, Transpose{p.is_b_transposed}, p.rows, p.columns, p.inner, 1,
         a.data() + operand_index(p.a, p.out, i) * p.rows * p.inner, p.inner,
         b.data() + operand_index(p.b, p.out, i) * p.inner * p.columns, p.b_stride, 0,
         out.data() + i * p.rows * p.columns, p.columns);
  }
  out.finish();
}

// dA = dC B^T and dB = A^T dC (or its transpose, dC^T A), summed over what was broadcast.
void backward(OpContext& context) {
  const Product p(context);
  const OnnxOrdered d_out(context.pool, p.out, context.out_block(0), context.d_out[0]);
  for (const int side : {0, 1}) {
    const auto index = static_cast<std::size_t>(side);
    if (context.d_in[index] == nullptr) continue;
    const Shape& shape = context.in_shape(side);
    const OnnxOrdered other(context.pool, context.in_shape(1 - side), context.in_block(1 - side),
                            context.in[1 - index]);
    AlignedBuffer<float> gradient(static_cast<std::size_t>(element_count(shape)));
    for (std::int64_t i = 0; i < p.batches; ++i) {
      const float* d = d_out.data() + i * p.rows * p.columns;
      if (side == 0) {
        gemm(Transpose::kNo, Transpose{!p.is_b_transposed}, p.rows, p.inner, p.columns, 1, d,
             p.columns, other.data() + operand_index(p.b, p.out, i) * p.inner * p.columns,
             p.b_stride, 1, gradient.data() + operand_index(p.a, p.out, i) * p.rows * p.inner,
             p.inner);
      } else if (p.is_b_transposed) {
        gemm(Transpose::kYes, Transpose::kNo, p.columns, p.inner, p.rows, 1, d, p.columns,
             other.data() + operand_index(p.a, p.out, i) * p.rows * p.inner, p.inner, 1,
             gradient.data() + operand_index(p.b, p.out, i) * p.inner * p.columns, p.inner);
      } else {
        gemm(Transpose::kYes, Transpose::kNo, p.inner, p.columns, p.rows, 1,
             other.data() + operand_index(p.a, p.out, i) * p.rows * p.inner, p.inner, d, p.columns,
             1, gradient.data() + operand_index(p.b, p.out, i) * p.inner * p.columns, p.columns);
      }
    }
    from_onnx_order(context.pool, shape, context.in_block(side), gradient.data(),
                    context.d_in[index], context.accumulate[index]);
  }
}

double flops(const Node& node, const Shapes& shapes) {
  const std::int64_t inner = shapes[static_cast<std::size_t>(node.inputs[0])].back();
  const Shape& out = shapes[static_cast<std::size_t>(node.outputs[0])];
  return 2 * static_cast<double>(inner) * static_cast<double>(element_count(out));
}

}  // namespace

OpDef mat_mul_op() {
  return {.type = "MatMul",
          .is_linear = true,
          .notes = "of two activations: on workers unless an operand is broadcast",
          .unsupported = unsupported,
          .infer = infer,
          .lower = lower,
          .forward = forward,
          .backward = backward,
          .needs = {.inputs = true},
          .flops = flops};
}

}  // namespace tempo
