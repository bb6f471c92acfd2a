#include <algorithm>
#include <array>

#include "enclave/nn/op.h"
#include "enclave/nn/ops/op_defs.h"

namespace tempo {

std::span<const OpDef> op_table() {
  static const std::array kTable = {
      abs_op(),
      acos_op(),
      acosh_op(),
      add_op(),
      and_op(),
      arg_max_op(),
      arg_min_op(),
      asin_op(),
      asinh_op(),
      atan_op(),
      atanh_op(),
      attention_op(),
      average_pool_op(),
      batch_normalization_op(),
      cast_op(),
      cast_like_op(),
      ceil_op(),
      celu_op(),
      clip_op(),
      concat_op(),
      constant_op(),
      constant_of_shape_op(),
      conv_op(),
      cos_op(),
      cosh_op(),
      cum_sum_op(),
      depth_to_space_op(),
      div_op(),
      dropout_op(),
      elu_op(),
      equal_op(),
      erf_op(),
      exp_op(),
      expand_op(),
      eye_like_op(),
      flatten_op(),
      floor_op(),
      gather_op(),
      gather_elements_op(),
      gather_nd_op(),
      gelu_op(),
      gemm_op(),
      global_average_pool_op(),
      greater_op(),
      greater_or_equal_op(),
      group_normalization_op(),
      hard_sigmoid_op(),
      hard_swish_op(),
      hardmax_op(),
      identity_op(),
      instance_normalization_op(),
      is_inf_op(),
      is_nan_op(),
      layer_normalization_op(),
      leaky_relu_op(),
      less_op(),
      less_or_equal_op(),
      log_op(),
      log_softmax_op(),
      mat_mul_op(),
      max_op(),
      max_pool_op(),
      mean_op(),
      min_op(),
      mish_op(),
      mod_op(),
      mul_op(),
      neg_op(),
      not_op(),
      one_hot_op(),
      or_op(),
      p_relu_op(),
      pad_op(),
      pow_op(),
      range_op(),
      reciprocal_op(),
      reduce_l1_op(),
      reduce_l2_op(),
      reduce_log_sum_op(),
      reduce_log_sum_exp_op(),
      reduce_max_op(),
      reduce_mean_op(),
      reduce_min_op(),
      reduce_prod_op(),
      reduce_sum_op(),
      reduce_sum_square_op(),
      relu_op(),
      reshape_op(),
      round_op(),
      selu_op(),
      sequence_at_op(),
      shape_op(),
      shrink_op(),
      sigmoid_op(),
      sign_op(),
      sin_op(),
      sinh_op(),
      size_op(),
      slice_op(),
      softmax_op(),
      softplus_op(),
      softsign_op(),
      space_to_depth_op(),
      split_op(),
      split_to_sequence_op(),
      sqrt_op(),
      squeeze_op(),
      sub_op(),
      sum_op(),
      swish_op(),
      tan_op(),
      tanh_op(),
      thresholded_relu_op(),
      tile_op(),
      transpose_op(),
      trilu_op(),
      unsqueeze_op(),
      where_op(),
      xor_op(),
  };
  return kTable;
}

const OpDef* find_op(std::string_view onnx_type) {
  for (const OpDef& op : op_table()) {
    if (op.type == onnx_type) return &op;
  }
  return nullptr;
}

OpWork forward_work(const Graph& graph, const Node& node, const Shapes& shapes) {
  const OpDef& op = *find_op(node.op_type);
  double largest = 0, bytes = 0;
  const auto add = [&](TensorId id) {
    if (id == kNoTensor) return;
    const auto index = static_cast<std::size_t>(id);
    const bool is_float = graph.tensors[index].type == DataType::kFloat32;
    const auto elements = static_cast<double>(element_count(shapes[index]));
    largest = std::max(largest, elements);
    bytes += elements * (is_float ? sizeof(float) : sizeof(std::int64_t));
  };
  for (const TensorId id : node.inputs) add(id);
  add(node.outputs[0]);
  OpWork work{.flops = op.flops_an_element * largest, .bytes = bytes};
  if (is_linear_node(graph, node)) {
    work.flops = 2 * static_cast<double>(op.lower(node, graph, shapes).multiply_adds());
  } else if (op.flops != nullptr) {
    work.flops = op.flops(node, shapes);
  }
  return work;
}

bool is_linear_node(const Graph& graph, const Node& node) {
  const OpDef* op = find_op(node.op_type);
  if (op == nullptr || !op->is_linear) return false;
  if (node.op_type != "MatMul") return true;
  const Tensor* weights = input_tensor(graph, node, 1);
  const Storage storage = node.int_or("transB", 0) == 0 ? Storage::kTransposed : Storage::kOnnx;
  return weights != nullptr && is_fixed(*weights) && weights->declared.size() == 2 &&
         weights->storage == storage;
}

}  // namespace tempo
