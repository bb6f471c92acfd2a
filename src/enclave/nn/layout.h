// File: enclave/nn/layout.h
// Which rank-4 activations are blocked (feature_view.h).
#pragma once

#include <vector>

#include "enclave/graph/graph.h"

namespace tempo {

// The channel block by TensorId: `block` where everything that touches the tensor agrees and its
// channels divide, else 0. The graph's inputs and outputs are not blocked.
std::vector<int> choose_blocks(const Graph& graph, const Shapes& shapes, int block);

}  // namespace tempo
