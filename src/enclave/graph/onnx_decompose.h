// File: enclave/graph/onnx_decompose.h
// Nodes that stand for several nodes of other operators, and forms that only older opsets have.
// Import adds what they are made of in their place.
// Thread safety: free function without state.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "enclave/graph/fold.h"
#include "enclave/graph/graph.h"

namespace tempo {

// What a node reads and makes, by name.
struct NodeNames {
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
};

// What is known of one of a node's inputs.
struct OperandInfo {
  bool is_there = false;
  bool is_activation = false;
  DataType type = DataType::kFloat32;
  int onnx_type = 0;  // TensorProto.DataType of integers and flags; 0 when not known
  std::optional<PerBatch<Shape>> shapes;
};

struct Decomposition {
  struct Part {
    Node node;
    NodeNames names;
  };
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> ints;  // constants, by name
  std::vector<std::pair<std::string, float>> numbers;
  std::vector<Part> parts;  // in order; the last one makes the node's output
  std::string refusal;      // why it cannot be done, if it cannot; then there are no parts
};

// Nothing when the node is to be taken as it is. `operands`: one an input. `fresh_name` gives a
// name that nothing else has, like its argument.
std::optional<Decomposition> decompose(const Node& node, const NodeNames& names,
                                       const std::vector<OperandInfo>& operands,
                                       const std::function<std::string(std::string)>& fresh_name);

}  // namespace tempo
