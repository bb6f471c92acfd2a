// File: enclave/graph/evaluate.h
// Nodes whose operands are all constants, computed at import by the operator's own forward.
// Thread safety: free function without state.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "enclave/graph/graph.h"

namespace tempo {

// The node's output, a kConstant in ONNX's order; nothing when the operator table or its rules do
// not take the node, or when the output has more than `max_elements`: then the node is looked at
// once more, as any other. `operands`: constants by input, nothing where absent.
std::optional<Tensor> evaluate_node(const Node& node, std::vector<std::optional<Tensor>> operands,
                                    std::int64_t max_elements);

}  // namespace tempo
