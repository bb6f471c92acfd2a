// File: enclave/nn/ops/op_defs.h
// The entries of the operator table, one function a file of operators, and what their shape rules
// share.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "enclave/nn/op.h"

namespace tempo {

OpDef abs_op();
OpDef acos_op();
OpDef acosh_op();
OpDef add_op();
OpDef and_op();
OpDef arg_max_op();
OpDef arg_min_op();
OpDef asin_op();
OpDef asinh_op();
OpDef atan_op();
OpDef atanh_op();
OpDef attention_op();
OpDef average_pool_op();
OpDef batch_normalization_op();
OpDef cast_op();
OpDef cast_like_op();
OpDef ceil_op();
OpDef celu_op();
OpDef clip_op();
OpDef concat_op();
OpDef constant_op();
OpDef constant_of_shape_op();
OpDef conv_op();
OpDef cos_op();
OpDef cosh_op();
OpDef cum_sum_op();
OpDef depth_to_space_op();
OpDef div_op();
OpDef dropout_op();
OpDef elu_op();
OpDef equal_op();
OpDef erf_op();
OpDef exp_op();
OpDef expand_op();
OpDef eye_like_op();
OpDef flatten_op();
OpDef floor_op();
OpDef gather_op();
OpDef gather_elements_op();
OpDef gather_nd_op();
OpDef gelu_op();
OpDef gemm_op();
OpDef global_average_pool_op();
OpDef greater_op();
OpDef greater_or_equal_op();
OpDef group_normalization_op();
OpDef hard_sigmoid_op();
OpDef hard_swish_op();
OpDef hardmax_op();
OpDef identity_op();
OpDef instance_normalization_op();
OpDef is_inf_op();
OpDef is_nan_op();
OpDef layer_normalization_op();
OpDef leaky_relu_op();
OpDef less_op();
OpDef less_or_equal_op();
OpDef log_op();
OpDef log_softmax_op();
OpDef mat_mul_op();
OpDef max_op();
OpDef max_pool_op();
OpDef mean_op();
OpDef min_op();
OpDef mish_op();
OpDef mod_op();
OpDef mul_op();
OpDef neg_op();
OpDef not_op();
OpDef one_hot_op();
OpDef or_op();
OpDef p_relu_op();
OpDef pad_op();
OpDef pow_op();
OpDef range_op();
OpDef reciprocal_op();
OpDef reduce_l1_op();
OpDef reduce_l2_op();
OpDef reduce_log_sum_op();
OpDef reduce_log_sum_exp_op();
OpDef reduce_max_op();
OpDef reduce_mean_op();
OpDef reduce_min_op();
OpDef reduce_prod_op();
OpDef reduce_sum_op();
OpDef reduce_sum_square_op();
OpDef relu_op();
OpDef reshape_op();
OpDef round_op();
OpDef selu_op();
OpDef sequence_at_op();
OpDef shape_op();
OpDef shrink_op();
OpDef sigmoid_op();
OpDef sign_op();
OpDef sin_op();
OpDef sinh_op();
OpDef size_op();
OpDef slice_op();
OpDef softmax_op();
OpDef softplus_op();
OpDef softsign_op();
OpDef space_to_depth_op();
OpDef split_op();
OpDef split_to_sequence_op();
OpDef sqrt_op();
OpDef squeeze_op();
OpDef sub_op();
OpDef sum_op();
OpDef swish_op();
OpDef tan_op();
OpDef tanh_op();
OpDef thresholded_relu_op();
OpDef tile_op();
OpDef transpose_op();
OpDef trilu_op();
OpDef unsqueeze_op();
OpDef where_op();
OpDef xor_op();

// OpDef::notes of operators that files of older opsets have written out (enclave/graph/fuse.h).
inline constexpr std::string_view kFusedNotes = "in older opsets as exporters write it out";

// kBadModel at this node.
Error shape_error(const Node& node, std::string what, std::string expected = "",
                  std::string got = "");

// The node has at least `required` inputs, the first `required` are there, and none of those that
// are there has a dimension below 1. Lists of integers among the others may be empty.
Status check_inputs(const ShapeContext& context, std::size_t required);

// The tensor behind input i, or null when it is absent.
const Tensor* input_tensor(const Graph& graph, const Node& node, std::size_t i);
// input_tensor(i) is there, fixed, and float32.
bool has_fixed_floats(const Graph& graph, const Node& node, std::size_t i);

// OpDef::unsupported of operators that take their operands in ONNX's order.
std::string unsupported_storage(const Graph& graph, const Node& node);

// OpDef::output_type of operators that move or choose elements.
DataType type_of_first(const Graph& graph, const Node& node);
DataType integer_type(const Graph& graph, const Node& node);

// Integers wrap around where they overflow, as numpy's do.
inline std::int64_t wrapping_add(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}
inline std::int64_t wrapping_subtract(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b));
}
inline std::int64_t wrapping_multiply(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
}

// An index that the data or a computation gave. What it is is known to the model's owner alone, so
// that the message may say it.
Error index_error(const Node& node, std::int64_t size, std::int64_t index);

// An attribute or input that names a dimension, counted from the end when negative. Error:
// kBadModel.
Result<std::size_t> checked_axis(const Node& node, std::int64_t axis, std::size_t rank);
// The integers of constant input i at the batch size; nothing when the input is absent.
std::optional<std::vector<std::int64_t>> constant_ints(const ShapeContext& context, std::size_t i);

// Shape rule of operators whose output has the shape of their first input.
Result<std::vector<Shape>> same_shape(const ShapeContext& context);

}  // namespace tempo
