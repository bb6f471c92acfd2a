// File: enclave/graph/onnx_decompose.h
// Nodes that stand for several nodes of other operators, and forms that only older opsets have.
// Import adds what they are made of in their place.
// Thread safety: free function without state.
#pragma once

#include <optional>
#include <vector>

#include "base/error.h"
#include "enclave/graph/onnx_decomposition.h"

namespace tempo {

// Nothing when the node is to be taken as it is. `operands`: one an input. Sequences are not for
// here (onnx_split.h). Error: kBadModel for a node that contradicts itself.
Result<std::optional<Decomposition>> decompose(const Node& node, const NodeNames& names,
                                               const std::vector<OperandInfo>& operands,
                                               const FreshName& fresh_name);

}  // namespace tempo
