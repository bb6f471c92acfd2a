#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/window.h"

namespace tempo {
namespace {

std::string unsupported(const Graph& graph, const Node& node) {
  if (!has_fixed_floats(graph, node, 1)) return "weights must be an initializer";
  const Tensor& weights = *input_tensor(graph, node, 1);
  if (weights.declared.size() != 4 || weights.storage != Storage::kConvWeights) {
    return "only two-dimensional convolutions";
  }
  if (input_tensor(graph, node, 2) != nullptr && !has_fixed_floats(graph, node, 2)) {
    return "the bias must be an initializer";
  }
  return unsupported_window(node);
}

Result<Window> window_of(const Node& node, const Shape& in, const Shape& weights) {
  return make_window(node, in, {weights[2], weights[3]}, false);
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const Node& node = context.node;
  const Shape& in = context.inputs[0];
  const Shape& weights = context.inputs[1];
  if (in.size() != 4 || weights.size() != 4) {
    return shape_error(node, "Conv needs images and weights of rank 4", "rank 4",
                       shape_to_string(in) + " and " + shape_to_string(weights));
  }
  const std::int64_t groups = node.int_or("group", 1);
  if (groups < 1 || in[1] % groups != 0 || weights[0] % groups != 0) {
    return shape_error(
        node, "Conv's groups do not divide its channels",
        "a divisor of " + std::to_string(in[1]) + " and " + std::to_string(weights[0]),
        std::to_string(groups));
  }
  if (in[1] / groups != weights[1]) {
    return shape_error(node, "Conv's weights do not fit its input",
                       std::to_string(in[1] / groups) + " input channels a group",
                       std::to_string(weights[1]));
  }
  const Shape kernel = node.ints_or("kernel_shape", {weights[2], weights[3]});
  if (kernel != Shape{weights[2], weights[3]}) {
    return shape_error(node, "kernel_shape contradicts the weights", shape_to_string(weights),
                       shape_to_string(kernel));
  }
  if (context.inputs.size() > 2 && node.inputs[2] != kNoTensor &&
      context.inputs[2] != Shape{weights[0]}) {
    return shape_error(node, "Conv's bias does not fit its weights", shape_to_string({weights[0]}),
                       shape_to_string(context.inputs[2]));
  }
  Result<Window> window = window_of(node, in, weights);
  if (!window) return window.error();
  return std::vector<Shape>{{in[0], weights[0], window->out[0], window->out[1]}};
}

ConvGeometry lower(const Node& node, const Graph& graph, const Shapes& shapes) {
  const Shape& in = shapes[static_cast<std::size_t>(node.inputs[0])];
  const Shape& weights = input_tensor(graph, node, 1)->declared;
  Result<Window> window = window_of(node, in, weights);
  TEMPO_ASSERT(window.ok());  // the shape rule has made it before
  const Window& w = *window;
  return {.batch = in[0],
          .in_h = in[2],
          .in_w = in[3],
          .in_c = in[1],
          .out_h = w.out[0],
          .out_w = w.out[1],
          .out_c = weights[0],
          .kernel_h = w.kernel[0],
          .kernel_w = w.kernel[1],
          .stride_h = w.stride[0],
          .stride_w = w.stride[1],
          .pad_top = w.pad_begin[0],
          .pad_left = w.pad_begin[1],
          .pad_bottom = w.pad_end[0],
          .pad_right = w.pad_end[1],
          .dilation_h = w.dilation[0],
          .dilation_w = w.dilation[1],
          .groups = node.int_or("group", 1)};
}

}  // namespace

OpDef conv_op() {
  return {.type = "Conv",
          .is_linear = true,
          .notes = "two-dimensional; weights and bias are initializers; grouped ones stay inside",
          .unsupported = unsupported,
          .infer = infer,
          .lower = lower,
          .needs = {.inputs = true},
          .blocking = Blocking::kFree,
          .takes_images = true};
}

}  // namespace tempo
