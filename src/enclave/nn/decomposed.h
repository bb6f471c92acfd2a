// File: enclave/nn/decomposed.h
// Operators as exporters write them out (enclave/graph/fuse.h). For tests and benchmarks.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "enclave/nn/graph_builder.h"

namespace tempo {

struct DecomposedForm {
  std::string name;     // of the form
  std::string op_type;  // what it is
  // Adds the chain over x (N, ..., width); the result has x's shape.
  std::function<TensorId(GraphBuilder&, TensorId x, std::int64_t width)> build;
};

const std::vector<DecomposedForm>& decomposed_forms();

// A constant of rank 0.
TensorId number(GraphBuilder& b, float value);

// Everything that a near miss may have otherwise.
struct LayerNormChain {
  std::vector<std::int64_t> axes = {-1};
  std::int64_t keepdims = 1;
  float exponent = 2;
  float epsilon = 1e-5F;
  bool by_product = false;     // d * d instead of d ^ 2
  bool by_reciprocal = false;  // * (1 / sqrt(v)) instead of / sqrt(v)
  bool axes_as_input = false;  // opset 18
};
// Without scale and bias.
TensorId layer_norm_chain(GraphBuilder& b, TensorId x, const LayerNormChain& form = {});

struct GeluChain {
  float divisor = 1.41421354F;
  float one = 1;
  float half = 0.5F;
};
TensorId gelu_chain(GraphBuilder& b, TensorId x, const GeluChain& form = {});

}  // namespace tempo
