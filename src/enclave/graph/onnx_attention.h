// File: enclave/graph/onnx_attention.h
// ONNX's Attention (opset 23) as the operators that it stands for: products, a scale, a mask and a
// softmax. What can be done with those, on workers or inside, is then the same for exports that
// write it as one operator and for those that do not.
// Thread safety: free function without state.
#pragma once

#include <vector>

#include "enclave/graph/onnx_decomposition.h"

namespace tempo {

// As decompose() in onnx_decompose.h, of an Attention node; with a refusal where it has forms that
// the operators above do not give.
Decomposition decompose_attention(const Node& node, const NodeNames& names,
                                  const std::vector<OperandInfo>& operands,
                                  const FreshName& fresh_name);

}  // namespace tempo
