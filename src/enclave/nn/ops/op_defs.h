// File: enclave/nn/ops/op_defs.h
// The entries of the operator table, one function a file of operators, and what their shape rules
// share.
#pragma once

#include <string>
#include <vector>

#include "enclave/nn/op.h"

namespace tempo {

OpDef abs_op();
OpDef add_op();
OpDef average_pool_op();
OpDef batch_normalization_op();
OpDef clip_op();
OpDef constant_op();
OpDef conv_op();
OpDef div_op();
OpDef dropout_op();
OpDef elu_op();
OpDef erf_op();
OpDef exp_op();
OpDef flatten_op();
OpDef gelu_op();
OpDef gemm_op();
OpDef global_average_pool_op();
OpDef hard_sigmoid_op();
OpDef hard_swish_op();
OpDef identity_op();
OpDef layer_normalization_op();
OpDef leaky_relu_op();
OpDef log_op();
OpDef mat_mul_op();
OpDef max_op();
OpDef max_pool_op();
OpDef min_op();
OpDef mul_op();
OpDef neg_op();
OpDef pow_op();
OpDef reciprocal_op();
OpDef reduce_mean_op();
OpDef reduce_sum_op();
OpDef relu_op();
OpDef reshape_op();
OpDef sigmoid_op();
OpDef softmax_op();
OpDef sqrt_op();
OpDef sub_op();
OpDef tanh_op();
OpDef transpose_op();

// kBadModel at this node.
Error shape_error(const Node& node, std::string what, std::string expected = "",
                  std::string got = "");

// The node has at least `required` inputs, the first `required` are there, and none of those that
// are there has a dimension below 1.
Status check_inputs(const ShapeContext& context, std::size_t required);

// The tensor behind input i, or null when it is absent.
const Tensor* input_tensor(const Graph& graph, const Node& node, std::size_t i);
// input_tensor(i) is there, fixed, and float32.
bool has_fixed_floats(const Graph& graph, const Node& node, std::size_t i);

// OpDef::unsupported of operators whose first input must change with the sample.
std::string needs_activation(const Graph& graph, const Node& node);

// Shape rule of operators whose output has the shape of their first input.
Result<std::vector<Shape>> same_shape(const ShapeContext& context);

}  // namespace tempo
