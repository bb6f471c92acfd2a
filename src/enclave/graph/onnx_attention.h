// File: enclave/graph/onnx_attention.h
// ONNX's Attention (opset 23) as the operators that it stands for: products, a scale, a mask and a
// softmax. What can be done with those, on workers or inside, is then the same for exports that
// write it as one operator and for those that do not.
// Thread safety: free function without state.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "enclave/graph/graph.h"
#include "enclave/graph/value_table.h"

namespace tempo {

// How a rule puts nodes and constants into the graph that is being imported.
struct NodeSink {
  std::function<std::string(std::string wish)> fresh_name;
  // Constants of our own; give their names.
  std::function<std::string(const std::string& wish, std::vector<std::int64_t>)> ints;
  std::function<std::string(const std::string& wish, const Shape&, std::vector<float>)> floats;
  std::function<Status(Node node, const NodeNames& names)> add;
};

// Shapes and type of the operands, at one batch size: dimensions but the first do not depend on it.
struct AttentionOperands {
  Shape q, k, v;
  std::optional<DataType> mask;  // nothing: there is no mask
};

// Why the node cannot be written so, or empty: then its nodes have been added. Precondition: inputs
// q, k, v are there, and the mask when operands.mask says so. Errors: those of sink.add.
Result<std::string> expand_attention(const Node& node, const NodeNames& names,
                                     const AttentionOperands& operands, const NodeSink& sink);

}  // namespace tempo
