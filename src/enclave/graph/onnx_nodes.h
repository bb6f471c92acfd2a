// File: enclave/graph/onnx_nodes.h
// One node of a file after the other becomes nodes of the graph: taken as it is, taken apart,
// absorbed by the values that it makes, or refused.
// Thread safety: one thread.
#pragma once

#include <optional>
#include <string>
#include <unordered_set>

#include "base/error.h"
#include "enclave/graph/graph.h"
#include "enclave/graph/onnx_decomposition.h"
#include "enclave/graph/onnx_order.h"
#include "enclave/graph/onnx_split.h"
#include "enclave/graph/value_table.h"

namespace onnx {
class NodeProto;
}

namespace tempo {

struct OpDef;
struct OpSchema;

class NodeImporter {
 public:
  // Nodes go to `graph`, what they make to `values`; both and `order` outlive this. `fixed_batch`:
  // the batch size that the file was exported with, or kBatchDim.
  NodeImporter(const OnnxOrder& order, std::int64_t fixed_batch, ValueTable* values, Graph* graph)
      : order_(order), fixed_batch_(fixed_batch), values_(*values), graph_(*graph) {}

  // The node at a position in the file. Precondition: what it reads has been declared. Error:
  // kBadModel, or kUnsupportedModel for constants that no node can use so. A node that is only not
  // supported is noted for refused(), and its outputs are of unknown shapes from there on.
  Status add(const onnx::NodeProto& proto, int position);

  // A node that the file does not have, as the operator table has it. Errors: as add().
  Status add_operator(Node node, const NodeNames& names);

  // The error that lists all nodes that are not supported, if there are any.
  Status refused() const;

  bool is_sequence(const std::string& value) const { return sequences_.contains(value); }

  // Like `name`, but nothing else's.
  std::string fresh_name(std::string name);

 private:
  // The node of a file, or a part of one; in either case it may be taken apart.
  Status add_node(Node node, const NodeNames& names);
  Result<std::optional<Decomposition>> take_apart(const Node& node, const NodeNames& names,
                                                  const std::vector<OperandInfo>& operands);
  Status add_parts(const Node& node, const NodeNames& names, Decomposition decomposition);

  bool is_image_by_weight(const Node& node, const NodeNames& names);
  Status add_image_product(const Node& product, const NodeNames& names);

  // Inputs of an operator. The tensor of input `input`, which may change the node's attributes;
  // sets `refusal` where the node cannot be done with it.
  Result<TensorId> node_input(Node* node, std::size_t input, const std::string& name,
                              std::string* refusal);
  Result<TensorId> transposed_input(Node* node, std::size_t input, const std::string& name);
  Result<TensorId> reshape_target(Node* node, const std::string& name, std::string* refusal);
  TensorId lost_ints(const std::string& name);
  Status check_type(const Node& node, const OpSchema& schema, std::size_t input, TensorId id,
                    std::string* refusal) const;

  std::string why_not(const Node& node, const NodeNames& names, const OpDef& op) const;
  Status add_result(Node node, const NodeNames& names, bool computable);

  // Notes that the node cannot be done, and names its outputs, so that the rest can be looked at.
  Status refuse(const Node& node, const NodeNames& names, const std::string& reason);

  const OnnxOrder& order_;
  const std::int64_t fixed_batch_;
  ValueTable& values_;
  Graph& graph_;
  Sequences sequences_;
  int position_ = 0;  // in the file, of the node that is being added
  std::unordered_set<std::string> made_names_;
  std::string refused_;
  std::size_t refused_count_ = 0;
};

}  // namespace tempo
