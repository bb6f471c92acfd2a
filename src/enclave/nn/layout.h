// File: enclave/nn/layout.h
// In which order each tensor lies in memory.
#pragma once

#include <vector>

#include "enclave/graph/graph.h"

namespace tempo {

// The channel block by TensorId (feature_view.h). Rank-4 activations that an operator on images
// touches, or that must lie as one of those does, are blocked by `block` where everything that
// touches them agrees and their channels divide, else channels last; the graph's inputs are
// channels last. Everything else is in ONNX's order.
std::vector<int> choose_blocks(const Graph& graph, const Shapes& shapes, int block);

}  // namespace tempo
