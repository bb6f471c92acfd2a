// LayerNormalization (Ba, Kiros and Hinton, 2016): each row of features by its own mean and
// variance, then a scale and a bias a feature.
#include <cmath>

#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/onnx_ordered.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// The first normalised dimension; the rank when the axis is out of range.
std::size_t first_dim(const Node& node, std::size_t rank) {
  const std::int64_t axis = node.int_or("axis", -1);
  const std::int64_t dim = axis < 0 ? axis + static_cast<std::int64_t>(rank) : axis;
  return dim < 0 || dim >= static_cast<std::int64_t>(rank) ? rank : static_cast<std::size_t>(dim);
}

struct Rows {
  std::int64_t count = 1;
  std::int64_t width = 1;

  Rows(const Node& node, const Shape& shape) {
    const std::size_t first = first_dim(node, shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i) (i < first ? count : width) *= shape[i];
  }
};

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const Node& node = context.node;
  const Shape& in = context.inputs[0];
  const std::size_t first = first_dim(node, in.size());
  if (first == in.size()) {
    return shape_error(node, "LayerNormalization's axis is out of range",
                       "below " + std::to_string(in.size()),
                       std::to_string(node.int_or("axis", -1)));
  }
  const Shape features(in.begin() + static_cast<std::ptrdiff_t>(first), in.end());
  for (std::size_t i = 1; i < context.inputs.size() && i < 3; ++i) {
    if (node.inputs[i] == kNoTensor || context.inputs[i] == features) continue;
    return shape_error(node, "LayerNormalization's scale and bias do not fit its input",
                       shape_to_string(features), shape_to_string(context.inputs[i]));
  }
  return std::vector<Shape>{in};
}

std::string unsupported(const Graph& graph, const Node& node) {
  for (const std::size_t i : {1U, 2U}) {
    const Tensor* tensor = input_tensor(graph, node, i);
    if (tensor != nullptr && !has_fixed_floats(graph, node, i)) {
      return "its scale and bias must be initializers";
    }
  }
  return unsupported_storage(graph, node);
}

// For backward: the mean of every row, then its inverse deviation.
std::int64_t saved_bytes(const Node& node, const Shapes& shapes) {
  const Rows rows(node, shapes[static_cast<std::size_t>(node.inputs[0])]);
  return 2 * rows.count * static_cast<std::int64_t>(sizeof(float));
}

void forward(OpContext& context) {
  const Shape& shape = context.in_shape(0);
  const Rows rows(context.node, shape);
  const double epsilon = static_cast<double>(context.node.float_or("epsilon", 1e-5F));
  auto* saved = reinterpret_cast<float*>(context.saved);
  const OnnxOrdered x(context.pool, shape, context.in_block(0), context.in[0]);
  OnnxOrderedResult y(context.pool, shape, context.out_block(0), context.out[0], false);
  const float* scale = context.in[1];
  const float* bias = context.in.size() > 2 ? context.in[2] : nullptr;
  context.pool.parallel_for(
      rows.count, grain_for(rows.width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          const float* from = x.data() + r * rows.width;
          float* to = y.data() + r * rows.width;
          double sum = 0;
          for (std::int64_t i = 0; i < rows.width; ++i) sum += static_cast<double>(from[i]);
          const double mean = sum / static_cast<double>(rows.width);
          double squares = 0;
          for (std::int64_t i = 0; i < rows.width; ++i) {
            const double d = static_cast<double>(from[i]) - mean;
            squares += d * d;
          }
          const double variance = squares / static_cast<double>(rows.width);
          const auto centre = static_cast<float>(mean);
          const auto inverse = static_cast<float>(1 / std::sqrt(variance + epsilon));
          if (saved != nullptr) {
            saved[r] = centre;
            saved[rows.count + r] = inverse;
          }
          for (std::int64_t i = 0; i < rows.width; ++i) {
            const float z = (from[i] - centre) * inverse * scale[i];
            to[i] = bias == nullptr ? z : z + bias[i];
          }
        }
      });
  y.finish();
}

// With g = scale * dy and h the normalised input: dx = inverse * (g - mean(g) - h * mean(g h)).
void input_gradient(OpContext& context, const Rows& rows, const float* x, const float* dy) {
  const Shape& shape = context.in_shape(0);
  const auto* saved = reinterpret_cast<const float*>(context.saved);
  const float* scale = context.in[1];
  OnnxOrderedResult dx(context.pool, shape, context.in_block(0), context.d_in[0],
                       context.accumulate[0]);
  const bool accumulate = dx.accumulates();
  const auto width = static_cast<double>(rows.width);
  context.pool.parallel_for(
      rows.count, grain_for(rows.width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          const float* xr = x + r * rows.width;
          const float* dyr = dy + r * rows.width;
          float* to = dx.data() + r * rows.width;
          const float centre = saved[r], inverse = saved[rows.count + r];
          double sum = 0, product = 0;
          for (std::int64_t i = 0; i < rows.width; ++i) {
            const float g = dyr[i] * scale[i];
            sum += static_cast<double>(g);
            product += static_cast<double>(g * (xr[i] - centre) * inverse);
          }
          const auto mean_g = static_cast<float>(sum / width);
          const auto mean_product = static_cast<float>(product / width);
          for (std::int64_t i = 0; i < rows.width; ++i) {
            const float h = (xr[i] - centre) * inverse;
            const float d = inverse * (dyr[i] * scale[i] - mean_g - h * mean_product);
            to[i] = accumulate ? to[i] + d : d;
          }
        }
      });
  dx.finish();
}

void parameter_gradients(OpContext& context, const Rows& rows, const float* x, const float* dy) {
  const auto* saved = reinterpret_cast<const float*>(context.saved);
  const bool wants_bias = context.d_in.size() > 2 && context.d_in[2] != nullptr;
  const FeatureView view{.positions = rows.count, .width = rows.width};
  if (context.d_in[1] != nullptr) {
    const std::vector<double> sums =
        reduce_rows(context.pool, view, 1, [&](const RowRun& run, double* to) {
          for (std::int64_t k = 0; k < run.rows; ++k) {
            const std::int64_t r = run.offset / rows.width + k;
            const float centre = saved[r], inverse = saved[rows.count + r];
            for (std::int64_t i = 0; i < rows.width; ++i) {
              const std::int64_t at = r * rows.width + i;
              to[i] += static_cast<double>(dy[at] * (x[at] - centre) * inverse);
            }
          }
        });
    store_sums(sums, context.d_in[1], context.accumulate[1]);
  }
  if (wants_bias) {
    const std::vector<double> sums =
        reduce_rows(context.pool, view, 1, [&](const RowRun& run, double* to) {
          kernels::column_sums(dy + run.offset, run.rows, run.width, to);
        });
    store_sums(sums, context.d_in[2], context.accumulate[2]);
  }
}

void backward(OpContext& context) {
  const Shape& shape = context.in_shape(0);
  const Rows rows(context.node, shape);
  const OnnxOrdered x(context.pool, shape, context.in_block(0), context.in[0]);
  const OnnxOrdered dy(context.pool, shape, context.out_block(0), context.d_out[0]);
  parameter_gradients(context, rows, x.data(), dy.data());
  // Last: its place may be that of d_out.
  if (context.d_in[0] != nullptr) input_gradient(context, rows, x.data(), dy.data());
}

}  // namespace

OpDef layer_normalization_op() {
  return {.type = "LayerNormalization",
          .min_opset = 17,
          .notes = kFusedNotes,
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .needs = {.inputs = true},
          .in_place_inputs = 1,
          .saved_bytes = saved_bytes,
          .flops_an_element = 8};
}

}  // namespace tempo
