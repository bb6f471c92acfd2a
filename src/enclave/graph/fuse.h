// File: enclave/graph/fuse.h
// Makes one node again of what exporters write out as a chain of smaller ones.
// Thread safety: free function without state.
#pragma once

#include <map>
#include <string>

#include "enclave/graph/graph.h"

namespace tempo {

// How many nodes of an operator were made out of chains.
using FusedCounts = std::map<std::string, int>;

// Replaces
//   * LayerNormalization over the last dimension, as written before opset 17, with a scale, a bias,
//     both or neither,
//   * Gelu by erf or tanh,
//   * HardSwish, and Swish with alpha = 1 (SiLU),
//   * MatMul by a weight and the bias that is added to it, which becomes a third input,
// where operators, constants, axes and shapes are those of the definition up to float32 rounding,
// and nothing else reads what is computed on the way. MatMul by an activation that a Transpose node
// before it has turned takes it unturned, under an attribute of our own (transB). Everything else
// stays as it is: it runs, only in more steps. Results and gradients change by rounding alone.
// Parameters keep their TensorIds; tensors that no node uses any more stay in the list.
FusedCounts fuse_patterns(Graph* graph);

}  // namespace tempo
