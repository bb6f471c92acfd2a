// File: enclave/graph/onnx_order.h
// Who makes and who reads every named value of an ONNX graph, and an order in which nodes can run.
// Thread safety: free function without state.
#pragma once

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/error.h"

namespace onnx {
class GraphProto;
}

namespace tempo {

struct ValueUse {
  int initializer = -1;  // position in the graph's list
  int input = -1;        // likewise; a graph input that is an initializer too is a default value
  int node = -1;         // the node that makes it
  int readers = 0;       // node inputs and graph outputs that name it
};

struct OnnxOrder {
  std::vector<std::string> node_names;  // index = position in the file; unique, never empty
  std::unordered_set<std::string> taken_node_names;
  std::vector<int> order;  // positions in the file; the file's own order if it will do
  std::unordered_map<std::string, ValueUse> values;
};

// Errors: kBadModel for a value made twice, read but never made, or made in a cycle.
Result<OnnxOrder> order_nodes(const onnx::GraphProto& graph);

}  // namespace tempo
