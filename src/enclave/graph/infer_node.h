// File: enclave/graph/infer_node.h
// One node's shape rule, with the bounds that hold for every tensor.
// Thread safety: free function without state.
#pragma once

#include <vector>

#include "enclave/graph/graph.h"

namespace tempo {

// Shapes of the node's outputs for input shapes (empty for an absent input) at a batch size.
// Errors: kBadModel from the operator's rule; kUnsupportedModel for an operator that the table
// lacks; kBadModel when an output would exceed kMaxTensorElements or has a negative dimension.
Result<std::vector<Shape>> infer_node(const Graph& graph, const Node& node,
                                      std::vector<Shape> inputs, std::int64_t batch);

// The product of the dimensions, or -1 when one is negative or the product exceeds
// kMaxTensorElements.
std::int64_t bounded_element_count(const Shape& shape);

}  // namespace tempo
