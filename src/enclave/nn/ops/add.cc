#include <algorithm>
#include <array>

#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// Deepest memory of a result: rank 4 blocked has 5 dimensions, and so has rank 5.
constexpr std::size_t kMaxDims = 8;

std::string unsupported(const Graph& graph, const Node& node) {
  for (std::size_t i = 0; i < 2; ++i) {
    const Tensor* tensor = input_tensor(graph, node, i);
    if (tensor == nullptr || tensor->type != DataType::kFloat32) return "only float32 operands";
    if (tensor->storage != Storage::kOnnx) return "a weight must not be added as well";
  }
  return "";
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const Shape& a = context.inputs[0];
  const Shape& b = context.inputs[1];
  Shape out(std::max(a.size(), b.size()), 1);
  for (std::size_t i = 1; i <= out.size(); ++i) {
    const std::int64_t da = i <= a.size() ? a[a.size() - i] : 1;
    const std::int64_t db = i <= b.size() ? b[b.size() - i] : 1;
    if (da != db && da != 1 && db != 1) {
      return shape_error(context.node, "Add's operands do not broadcast", shape_to_string(a),
                         shape_to_string(b));
    }
    out[out.size() - i] = std::max(da, db);
  }
  if (out.size() > kMaxDims - 1) {
    return shape_error(context.node, "Add's operands have too many dimensions",
                       "at most " + std::to_string(kMaxDims - 1), std::to_string(out.size()));
  }
  return std::vector<Shape>{out};
}

// How a tensor is walked in the order in which the result lies in memory.
struct Walk {
  std::array<std::int64_t, kMaxDims> dims{};
  std::size_t rank = 0;

  std::int64_t elements() const {
    std::int64_t count = 1;
    for (std::size_t i = 0; i < rank; ++i) count *= dims[i];
    return count;
  }
};
using Strides = std::array<std::int64_t, kMaxDims>;

// One logical dimension of the result in memory, outermost first: `step` indices of dimension
// `dim` at a time.
struct MemoryDim {
  std::size_t dim;
  std::int64_t size;
  std::int64_t step;
};

std::vector<MemoryDim> memory_dims(const Shape& shape, int block, bool onnx_order) {
  std::vector<MemoryDim> dims;
  if (shape.size() != 4 || onnx_order) {
    for (std::size_t i = 0; i < shape.size(); ++i) dims.push_back({i, shape[i], 1});
    return dims;
  }
  const std::int64_t width = block == 0 ? shape[1] : block;
  return {{0, shape[0], 1},
          {1, shape[1] / width, width},
          {2, shape[2], 1},
          {3, shape[3], 1},
          {1, width, 1}};
}

// Element stride of one memory dimension of the result in an operand; 0 where it broadcasts.
std::int64_t stride_in(const Shape& operand, const std::vector<MemoryDim>& layout,
                       std::size_t out_rank, const MemoryDim& out_dim) {
  const std::size_t missing = out_rank - operand.size();
  if (out_dim.dim < missing || operand[out_dim.dim - missing] == 1) return 0;
  const std::size_t dim = out_dim.dim - missing;
  // The outermost memory dimension of `dim` whose step divides out_dim's step.
  std::int64_t stride = 1, best = 0;
  for (std::size_t i = layout.size(); i-- > 0;) {
    if (layout[i].dim == dim && out_dim.step % layout[i].step == 0) {
      best = stride * (out_dim.step / layout[i].step);
    }
    stride *= layout[i].size;
  }
  return best;
}

struct Plan {
  Walk walk;
  std::array<Strides, 2> strides{};
  std::array<bool, 2> is_whole{};  // the operand is walked element for element

  explicit Plan(const OpContext& context) {
    const Shape& out = context.out_shape(0);
    const std::vector<MemoryDim> out_dims = memory_dims(out, context.out_block(0), false);
    walk.rank = out_dims.size();
    for (std::size_t i = 0; i < walk.rank; ++i) walk.dims[i] = out_dims[i].size;
    for (int side = 0; side < 2; ++side) {
      const auto s = static_cast<std::size_t>(side);
      const Tensor& tensor = *input_tensor(context.graph, context.node, s);
      const Shape& shape = context.in_shape(side);
      const auto layout = memory_dims(shape, context.in_block(side), is_fixed(tensor));
      std::int64_t dense = 1;
      is_whole[s] = true;
      for (std::size_t i = walk.rank; i-- > 0;) {
        strides[s][i] = stride_in(shape, layout, out.size(), out_dims[i]);
        is_whole[s] = is_whole[s] && (walk.dims[i] == 1 || strides[s][i] == dense);
        dense *= walk.dims[i];
      }
    }
  }

  // Calls body(out offset, offset in a, offset in b) for the innermost rows in [begin, end).
  template <class Body>
  void rows(std::int64_t begin, std::int64_t end, const Body& body) const {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t rest = row;
      std::array<std::int64_t, 2> at{};
      for (std::size_t i = walk.rank - 1; i-- > 0;) {
        const std::int64_t index = rest % walk.dims[i];
        rest /= walk.dims[i];
        at[0] += index * strides[0][i];
        at[1] += index * strides[1][i];
      }
      body(row * walk.dims[walk.rank - 1], at[0], at[1]);
    }
  }
  std::int64_t width() const { return walk.rank == 0 ? 1 : walk.dims[walk.rank - 1]; }
  std::int64_t row_count() const { return walk.elements() / width(); }
  // The operand is one row that goes to every row of the result.
  bool is_row(std::size_t side) const {
    for (std::size_t i = 0; i + 1 < walk.rank; ++i) {
      if (walk.dims[i] > 1 && strides[side][i] != 0) return false;
    }
    return inner_stride(side) == 1;
  }
  std::int64_t inner_stride(std::size_t side) const {
    return walk.rank == 0 ? 0 : strides[side][walk.rank - 1];
  }
};

void forward(OpContext& context) {
  const Plan plan(context);
  float* out = context.out[0];
  const float* a = context.in[0];
  const float* b = context.in[1];
  if (plan.is_whole[0] && plan.is_whole[1]) {
    for_elements(context.pool, plan.walk.elements(), [&](std::int64_t begin, std::int64_t count) {
      kernels::add(a + begin, b + begin, out + begin, count, context.fused_relu);
    });
    return;
  }
  const std::int64_t width = plan.width();
  const std::int64_t sa = plan.inner_stride(0), sb = plan.inner_stride(1);
  context.pool.parallel_for(
      plan.row_count(), grain_for(width), [&](std::int64_t begin, std::int64_t end) {
        plan.rows(begin, end, [&](std::int64_t to, std::int64_t from_a, std::int64_t from_b) {
          if (sa == 1 && sb == 1) {
            kernels::add(a + from_a, b + from_b, out + to, width, context.fused_relu);
            return;
          }
          for (std::int64_t i = 0; i < width; ++i) {
            out[to + i] = a[from_a + i * sa] + b[from_b + i * sb];
          }
          if (context.fused_relu) kernels::relu(out + to, out + to, width);
        });
      });
}

// d_out, masked where the Relu was shut.
struct OutputGradient {
  const float* d_out;
  const float* out;  // null without a fused Relu

  void give(std::int64_t begin, std::int64_t count, float* to, bool accumulate) const {
    if (out != nullptr) {
      kernels::relu_backward(out + begin, d_out + begin, to, count, accumulate);
    } else {
      kernels::copy(d_out + begin, to, count, accumulate);
    }
  }
};

void backward_whole(OpContext& context, const OutputGradient& gradient, std::size_t side,
                    std::int64_t elements) {
  for_elements(context.pool, elements, [&](std::int64_t begin, std::int64_t count) {
    gradient.give(begin, count, context.d_in[side] + begin, context.accumulate[side]);
  });
}

// Sums over rows for an operand that is one row, such as a bias.
void backward_row(OpContext& context, const OutputGradient& gradient, const Plan& plan,
                  std::size_t side) {
  const FeatureView view{.positions = plan.row_count(), .width = plan.width()};
  const std::vector<double> sums =
      reduce_rows(context.pool, view, 1, [&](const RowRun& run, double* to) {
        if (gradient.out == nullptr) {
          kernels::column_sums(gradient.d_out + run.offset, run.rows, run.width, to);
          return;
        }
        std::vector<float> row(static_cast<std::size_t>(run.width));
        for (std::int64_t r = 0; r < run.rows; ++r) {
          gradient.give(run.offset + r * run.width, run.width, row.data(), false);
          kernels::column_sums(row.data(), 1, run.width, to);
        }
      });
  store_sums(sums, context.d_in[side], context.accumulate[side]);
}

// Sums over whatever was broadcast, on one thread.
void backward_sums(OpContext& context, const OutputGradient& gradient, const Plan& plan,
                   std::size_t side) {
  const std::int64_t elements = element_count(context.in_shape(static_cast<int>(side)));
  std::vector<double> sums(static_cast<std::size_t>(elements), 0.0);
  const std::int64_t width = plan.width();
  const std::int64_t stride = plan.inner_stride(side);
  std::vector<float> row(static_cast<std::size_t>(width));
  plan.rows(0, plan.row_count(), [&](std::int64_t from, std::int64_t to_a, std::int64_t to_b) {
    double* to = sums.data() + (side == 0 ? to_a : to_b);
    gradient.give(from, width, row.data(), false);
    if (stride == 1) {
      kernels::column_sums(row.data(), 1, width, to);
      return;
    }
    for (std::int64_t i = 0; i < width; ++i) to[i * stride] += static_cast<double>(row[i]);
  });
  store_sums(sums, context.d_in[side], context.accumulate[side]);
}

void backward(OpContext& context) {
  const Plan plan(context);
  const OutputGradient gradient{context.d_out[0], context.fused_relu ? context.out[0] : nullptr};
  // An operand whose gradient lies where d_out lies goes last.
  for (const bool in_place : {false, true}) {
    for (std::size_t side = 0; side < 2; ++side) {
      float* d_in = context.d_in[side];
      if (d_in == nullptr || (d_in == context.d_out[0]) != in_place) continue;
      if (plan.is_whole[side]) {
        backward_whole(context, gradient, side, plan.walk.elements());
      } else if (plan.is_row(side)) {
        backward_row(context, gradient, plan, side);
      } else {
        backward_sums(context, gradient, plan, side);
      }
    }
  }
}

}  // namespace

OpDef add_op() {
  return {.type = "Add",
          .min_opset = 7,
          .notes = "with broadcasting",
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .blocking = Blocking::kSame,
          .in_place_inputs = 2,
          .relu_fusion = ReluFusion::kReadsOutput};
}

}  // namespace tempo
