// File: enclave/graph/value_table.h
// What every name in an ONNX file stands for while it is imported: a tensor of the graph, a
// constant that is not in the graph yet, or integers that were computed from shapes.
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "enclave/graph/fold.h"
#include "enclave/graph/graph.h"
#include "enclave/graph/onnx_constant.h"
#include "enclave/graph/onnx_decomposition.h"
#include "enclave/graph/onnx_rewrite.h"

namespace onnx {
class GraphProto;
class NodeProto;
class TensorProto;
}  // namespace onnx

namespace tempo {

struct Value {
  TensorId id = kNoTensor;                      // once the graph has it
  const onnx::TensorProto* constant = nullptr;  // an initializer's or a Constant node's
  int initializer = -1;                         // position in the file
  int node = -1;                                // the Constant or Identity that made it
  bool is_trainable = false;                    // an initializer, or Identity of one
  bool is_copy = false;                         // Identity of a constant
  bool is_computed = false;                     // a constant that is not in the file as such
  std::optional<FoldedInts> ints;               // known integers
  bool is_lost = false;      // integers that an unsupported node upstream keeps from being known
  std::string transpose_of;  // the matrix, a parameter, that this is the transpose of

  bool is_constant() const { return constant != nullptr || ints; }
  bool is_activation() const { return !is_constant() && !is_lost && transpose_of.empty(); }
};

// How a node uses a constant: what is trained, and how it is stored.
struct Role {
  TensorKind kind = TensorKind::kConstant;
  Storage storage = Storage::kOnnx;
};

Role role_of(const Node& node, std::size_t input, const Value& value);

class ValueTable {
 public:
  // Tensors go to `graph`. `file_bytes` bounds what copies and computed constants may take.
  ValueTable(Graph* graph, std::int64_t file_bytes);

  // Precondition: the file's structure was checked (onnx_order.h), so that every name that a node
  // reads has been declared before.
  void declare_initializers(const onnx::GraphProto& file);
  // A Constant node at a position in the file. Error: kBadModel.
  Status declare_constant(const onnx::NodeProto& node, const std::string& where, int position);
  void declare(const std::string& name, TensorId id) { values_[name].id = id; }
  // A vector that does not depend on the batch size.
  void declare_ints(const std::string& name, std::vector<std::int64_t> ints) {
    values_[name].ints = FoldedInts{false, {ints, ints}};
  }
  void declare_floats(const std::string& name, const Shape& shape, std::vector<float> floats);
  // What is not known as a value.
  void declare_lost(const std::string& name) { values_[name].is_lost = true; }
  bool contains(const std::string& name) const { return values_.contains(name); }
  Value& at(const std::string& name) { return values_.at(tied_to(name)); }

  // `shapes`: at the probe batch sizes (fold.h); nothing when they cannot be known.
  TensorId add_tensor(Tensor tensor, std::optional<PerBatch<Shape>> shapes);
  const std::optional<PerBatch<Shape>>& shapes(TensorId id) const {
    return shapes_[static_cast<std::size_t>(id)];
  }

  // The value's integers when they are known, else null. Error: kBadModel for a damaged tensor.
  Result<const FoldedInts*> known_ints(Value* value);

  // The graph's tensor for a constant; puts it there at its first use. Precondition: the value is
  // a constant. Errors: as check_tensor, and kUnsupportedModel for two roles that exclude each
  // other and for integers that no line through the batch size gives.
  Result<TensorId> constant_tensor(const std::string& name, const Role& role);
  // Of an activation or a constant, at the probe batch sizes; nothing when they are not known.
  std::optional<PerBatch<Shape>> shapes_of(const std::string& name);
  // Error: as known_ints.
  Result<OperandInfo> operand_info(const std::string& name);
  // A computed constant whose elements are all zero.
  bool is_computed_zero(const Value& value) const;

  // True when the node only passes on, or computes from constants and shapes, what its output
  // stands for: then the graph needs no node. `node` has the attributes; `position`: of the node
  // in the file that it is from. Error: as known_ints.
  Result<bool> absorb(const Node& node, const NodeNames& names, int position);

  // The tensors that export writes back.
  std::vector<PendingHome> take_homes() { return std::move(homes_); }

 private:
  // The name of the parameter that this name is another one for; else the name itself.
  const std::string& tied_to(const std::string& name) const;

  // The rules of absorb().
  bool alias_constant(const Node& node, const NodeNames& names, int position);
  Result<bool> alias_activation(const Node& node, const NodeNames& names);
  // Shape and Size.
  bool fold_dimensions(const Node& node, const NodeNames& names);
  bool transposed(const Node& node, const NodeNames& names);
  Result<bool> evaluate(const Node& node, const NodeNames& names);
  Result<bool> evaluate_per_batch(const Node& node, const NodeNames& names);
  bool lose(const Node& node, const NodeNames& names);
  // At one of the probe batch sizes. Precondition: the inputs are constants.
  Result<std::optional<Tensor>> evaluate_at(std::size_t batch, const Node& node,
                                            const NodeNames& names, std::int64_t max_elements);

  void declare_computed(const std::string& name, const Tensor& tensor);
  static Status fill_known_ints(const std::string& name, const FoldedInts& known, Tensor* tensor);
  Status fill_constant(const std::string& name, const Value& value, const Role& role,
                       Tensor* tensor);

  Graph& graph_;
  std::int64_t copy_budget_;       // bytes that evaluate() may make
  std::int64_t parameter_budget_;  // bytes of parameters that Identity nodes may make
  std::int64_t work_budget_;       // elements that evaluate() may touch
  std::unordered_map<std::string, Value> values_;
  std::unordered_map<std::string, std::string> ties_;   // names for another name's parameter
  std::vector<std::optional<PerBatch<Shape>>> shapes_;  // index = TensorId
  std::vector<SharedTensor> made_;  // what Value::constant points to beside the file
  std::vector<PendingHome> homes_;
};

}  // namespace tempo
