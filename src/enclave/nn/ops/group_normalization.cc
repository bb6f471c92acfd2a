// GroupNormalization (Wu and He, 2018) and InstanceNormalization (Ulyanov et al., 2016), which is
// one group a channel: each group of channels of each image by its own mean and variance, then a
// scale and a bias.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

bool is_instance(const Node& node) {
  return node.op_type == "InstanceNormalization";
}

std::int64_t groups_of(const Node& node, const Shape& in) {
  return is_instance(node) ? in[1] : node.int_or("num_groups", 0);
}

// GroupNormalization had a scale and a bias a group before opset 21, a channel since.
bool has_parameters_by_group(const Node& node) {
  return !is_instance(node) && node.opset < 21;
}

std::string unsupported(const Graph& graph, const Node& node) {
  for (const std::size_t i : {1U, 2U}) {
    if (!has_fixed_floats(graph, node, i)) return "its scale and bias must be initializers";
  }
  const float epsilon = node.float_or("epsilon", 1e-5F);
  if (!(epsilon >= 0) || !std::isfinite(epsilon)) return "epsilon must not be negative";
  return unsupported_storage(graph, node);
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 3));
  const Node& node = context.node;
  const Shape& in = context.inputs[0];
  if (in.size() < 2) {
    return shape_error(node, node.op_type + " needs channels", "rank 2 or more",
                       shape_to_string(in));
  }
  const std::int64_t groups = groups_of(node, in);
  if (groups < 1 || in[1] % groups != 0) {
    return shape_error(node, "num_groups does not divide the channels",
                       "a divisor of " + std::to_string(in[1]), std::to_string(groups));
  }
  const Shape parameters = {has_parameters_by_group(node) ? groups : in[1]};
  for (const std::size_t i : {1U, 2U}) {
    if (context.inputs[i] == parameters) continue;
    return shape_error(node, node.op_type + "'s scale and bias do not fit its input",
                       shape_to_string(parameters), shape_to_string(context.inputs[i]));
  }
  return std::vector<Shape>{in};
}

// For backward: the mean of every group of every image, then its inverse deviation.
std::int64_t saved_bytes(const Node& node, const Shapes& shapes) {
  const Shape& in = shapes[static_cast<std::size_t>(node.inputs[0])];
  return 2 * in[0] * groups_of(node, in) * static_cast<std::int64_t>(sizeof(float));
}

// What both directions need to know. The kernels work on columns: channels, or where a channel lies
// in one piece, several columns a channel.
struct Geometry {
  static constexpr std::int64_t kColumnsOfPiece = 16;  // floats of the widest vectors

  FeatureView view;  // images apart, in every layout; its channels are the columns
  std::int64_t columns;
  std::int64_t groups;
  std::int64_t columns_of_parameter;  // that share a scale and a bias
  std::vector<float> scale, bias;     // by column

  explicit Geometry(const OpContext& context)
      : view(feature_view(context.in_shape(0), context.in_block(0))),
        groups(groups_of(context.node, context.in_shape(0))) {
    const Shape& shape = context.in_shape(0);
    if (view.images != shape[0]) {
      view.positions /= shape[0];
      view.images = shape[0];
    }
    if (view.width == 1) {
      view.width = std::gcd(view.positions, kColumnsOfPiece);
      view.positions /= view.width;
    }
    columns = view.channels();
    columns_of_parameter = columns / (has_parameters_by_group(context.node) ? groups : shape[1]);
    scale.resize(static_cast<std::size_t>(columns));
    bias.resize(scale.size());
    for (std::int64_t c = 0; c < columns; ++c) {
      scale[static_cast<std::size_t>(c)] = context.in[1][c / columns_of_parameter];
      bias[static_cast<std::size_t>(c)] = context.in[2][c / columns_of_parameter];
    }
  }

  std::int64_t columns_of_group() const { return columns / groups; }
  std::int64_t group_of(std::size_t column) const {
    return static_cast<std::int64_t>(column) / columns_of_group();
  }
  double elements_of_group() const {
    return static_cast<double>(columns_of_group() * view.positions);
  }
  // Offset of the first element of a column of an image.
  std::int64_t first_of(std::int64_t image, std::int64_t column) const {
    return view.offset(image, column / view.width, 0) + column % view.width;
  }

  // Calls body(image) for all of them, on several threads.
  template <class Body>
  void for_images(ThreadPool& pool, const Body& body) const {
    pool.parallel_for(view.images, grain_for(columns * view.positions),
                      [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t image = begin; image < end; ++image) body(image);
                      });
  }
  // Calls body(offset in memory, first column) for the blocks of an image: view.positions rows of
  // view.width each.
  template <class Body>
  void for_blocks(std::int64_t image, const Body& body) const {
    for (std::int64_t block = 0; block < view.blocks; ++block) {
      body(view.offset(image, block, 0), block * view.width);
    }
  }
};

// The map of one image, by column.
struct ImageMap {
  std::vector<float> mean, scale;
  const float* shift;
  bool relu;

  // mean, inverse: by group.
  ImageMap(const Geometry& g, const float* group_mean, const float* inverse, bool with_relu)
      : mean(g.scale.size()), scale(g.scale.size()), shift(g.bias.data()), relu(with_relu) {
    for (std::size_t c = 0; c < mean.size(); ++c) {
      mean[c] = group_mean[g.group_of(c)];
      scale[c] = g.scale[c] * inverse[g.group_of(c)];
    }
  }
  kernels::Normalization at(std::int64_t column) const {
    return {mean.data() + column, scale.data() + column, shift + column, relu};
  }
};

// Mean and inverse deviation of every group of an image: one pass, shifted by the group's first
// element so that a mean far from zero costs no digits.
void find_statistics(const Geometry& g, const float* x, std::int64_t image, double epsilon,
                     float* mean, float* inverse) {
  const auto columns = static_cast<std::size_t>(g.columns);
  std::vector<float> shift(columns);
  for (std::size_t c = 0; c < columns; ++c) {
    shift[c] = x[g.first_of(image, g.group_of(c) * g.columns_of_group())];
  }
  std::vector<double> sums(columns, 0.0), squares(columns, 0.0);
  g.for_blocks(image, [&](std::int64_t at, std::int64_t c) {
    kernels::column_moments(x + at, g.view.positions, g.view.width, shift.data() + c,
                            sums.data() + c, squares.data() + c);
  });
  const double count = g.elements_of_group();
  for (std::int64_t group = 0; group < g.groups; ++group) {
    const std::int64_t first = group * g.columns_of_group();
    double sum = 0, square = 0;
    for (std::int64_t c = first; c < first + g.columns_of_group(); ++c) {
      sum += sums[static_cast<std::size_t>(c)];
      square += squares[static_cast<std::size_t>(c)];
    }
    const double centre = sum / count;
    const double variance = (square - centre * sum) / count;  // rounding can take it below zero
    mean[group] =
        static_cast<float>(static_cast<double>(shift[static_cast<std::size_t>(first)]) + centre);
    inverse[group] = static_cast<float>(1 / std::sqrt((variance < 0 ? 0 : variance) + epsilon));
  }
}

void forward(OpContext& context) {
  const Geometry g(context);
  const auto epsilon = static_cast<double>(context.node.float_or("epsilon", 1e-5F));
  auto* saved = reinterpret_cast<float*>(context.saved);
  std::vector<float> own(saved == nullptr ? static_cast<std::size_t>(2 * g.view.images * g.groups)
                                          : 0);
  float* means = saved == nullptr ? own.data() : saved;
  float* inverses = means + g.view.images * g.groups;
  g.for_images(context.pool, [&](std::int64_t image) {
    float* mean = means + image * g.groups;
    float* inverse = inverses + image * g.groups;
    find_statistics(g, context.in[0], image, epsilon, mean, inverse);
    const ImageMap map(g, mean, inverse, context.fused_relu);
    g.for_blocks(image, [&](std::int64_t at, std::int64_t c) {
      kernels::normalize(map.at(c), context.in[0] + at, g.view.positions, g.view.width,
                         context.out[0] + at);
    });
  });
}

// Sums over the images, and over the columns that share a parameter.
void store_parameter_gradient(OpContext& context, const Geometry& g, std::size_t input,
                              const std::vector<double>& by_image) {
  if (context.d_in[input] == nullptr) return;
  const auto columns = static_cast<std::size_t>(g.columns);
  const auto shared = static_cast<std::size_t>(g.columns_of_parameter);
  std::vector<double> sums(columns / shared, 0.0);
  for (std::size_t i = 0; i < by_image.size(); ++i) sums[i % columns / shared] += by_image[i];
  store_sums(sums, context.d_in[input], context.accumulate[input]);
}

// With h = (x - mean) * inverse over the n elements of a group and k = scale * dz:
//   dx = inverse * (k - sum k / n - h * sum (k h) / n), d_bias = sum dz, d_scale = sum dz * h.
void backward(OpContext& context) {
  const Geometry g(context);
  const auto* means = reinterpret_cast<const float*>(context.saved);
  const float* inverses = means + g.view.images * g.groups;
  const auto columns = static_cast<std::size_t>(g.columns);
  // By image and column, so that their sums do not depend on the threads.
  std::vector<double> d_bias(static_cast<std::size_t>(g.view.images) * columns, 0.0);
  std::vector<double> d_scale(d_bias.size(), 0.0);
  g.for_images(context.pool, [&](std::int64_t image) {
    const float* inverse = inverses + image * g.groups;
    const ImageMap map(g, means + image * g.groups, inverse, context.fused_relu);
    double* sums = d_bias.data() + image * g.columns;
    double* products = d_scale.data() + image * g.columns;
    g.for_blocks(image, [&](std::int64_t at, std::int64_t c) {
      kernels::normalize_sums(map.at(c), context.in[0] + at, context.d_out[0] + at,
                              g.view.positions, g.view.width, sums + c, products + c);
    });
    std::vector<double> sum_k(static_cast<std::size_t>(g.groups), 0.0), sum_kh(sum_k);
    for (std::size_t c = 0; c < columns; ++c) {
      const auto group = static_cast<std::size_t>(g.group_of(c));
      products[c] *= static_cast<double>(inverse[group]);
      sum_k[group] += static_cast<double>(g.scale[c]) * sums[c];
      sum_kh[group] += static_cast<double>(g.scale[c]) * products[c];
    }
    if (context.d_in[0] == nullptr) return;
    std::vector<float> slope(columns), offset(columns);
    for (std::size_t c = 0; c < columns; ++c) {
      const auto group = static_cast<std::size_t>(g.group_of(c));
      const auto factor = static_cast<double>(inverse[group]) / g.elements_of_group();
      slope[c] = static_cast<float>(-factor * static_cast<double>(inverse[group]) * sum_kh[group]);
      offset[c] = static_cast<float>(-factor * sum_k[group]);
    }
    g.for_blocks(image, [&](std::int64_t at, std::int64_t c) {
      kernels::normalize_backward(map.at(c), context.in[0] + at, context.d_out[0] + at,
                                  slope.data() + c, offset.data() + c, g.view.positions,
                                  g.view.width, context.d_in[0] + at, context.accumulate[0]);
    });
  });
  store_parameter_gradient(context, g, 1, d_scale);
  store_parameter_gradient(context, g, 2, d_bias);
}

OpDef normalization_op(std::string_view type, int min_opset) {
  return {.type = type,
          .min_opset = min_opset,
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .needs = {.inputs = true},
          .blocking = Blocking::kSame,
          .in_place_inputs = 1,
          .relu_fusion = ReluFusion::kRecomputes,
          .saved_bytes = saved_bytes,
          .flops_an_element = 7};
}

}  // namespace

OpDef group_normalization_op() {
  OpDef op = normalization_op("GroupNormalization", 18);
  op.notes = "scale and bias a group before opset 21, a channel since";
  return op;
}
OpDef instance_normalization_op() {
  return normalization_op("InstanceNormalization", 6);
}

}  // namespace tempo
