#include "enclave/graph/onnx_nodes.h"

#include <onnx/onnx_pb.h>

#include <cctype>

#include "enclave/graph/infer_node.h"
#include "enclave/graph/onnx_decompose.h"
#include "enclave/graph/onnx_error.h"
#include "enclave/graph/onnx_schema.h"
#include "enclave/graph/onnx_tensor.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

constexpr std::size_t kMaxListedNodes = 1000;  // of unsupported ones, in one message

}  // namespace

Status NodeImporter::add(const onnx::NodeProto& proto, int position) {
  Node node{.op_type = proto.op_type(),
            .name = order_.node_names[static_cast<std::size_t>(position)],
            .opset = graph_.opset};
  NodeNames names{{proto.input().begin(), proto.input().end()},
                  {proto.output().begin(), proto.output().end()}};
  for (std::size_t i = 1; i < names.outputs.size(); ++i) {
    std::string& name = names.outputs[i];
    if (!name.empty() && order_.values.at(name).readers == 0) name.clear();
  }
  if (!is_onnx_domain(proto.domain())) {
    return refuse(node, names, "operators of domain " + proto.domain() + " are unknown");
  }
  if (node.op_type == "Constant") return values_.declare_constant(proto, node.name, position);
  TEMPO_RETURN_IF_ERROR(read_attributes(proto, &node));
  if (node.op_type == "MatMul") node.attributes.erase("transB");  // our own (transposed_input)
  position_ = position;
  return add_node(std::move(node), names);
}

Status NodeImporter::add_node(Node node, const NodeNames& names) {
  std::vector<OperandInfo> operands;
  for (const std::string& name : names.inputs) {
    if (sequences_.contains(name) && node.op_type != "SequenceAt") {
      return refuse(node, names, "its input " + name + " is a sequence");
    }
    Result<OperandInfo> operand = values_.operand_info(name);
    if (!operand) return operand.error();
    operands.push_back(std::move(*operand));
  }
  Result<std::optional<Decomposition>> parts = take_apart(node, names, operands);
  if (!parts) return parts.error();
  if (*parts) return add_parts(node, names, std::move(**parts));
  Result<bool> absorbed = values_.absorb(node, names, position_);
  if (!absorbed) return absorbed.error();
  if (*absorbed) return {};
  if (is_image_by_weight(node, names)) return add_image_product(node, names);
  return add_operator(std::move(node), names);
}

Result<std::optional<Decomposition>> NodeImporter::take_apart(
    const Node& node, const NodeNames& names, const std::vector<OperandInfo>& operands) {
  const FreshName fresh = [this](std::string wish) { return fresh_name(std::move(wish)); };
  const bool is_split = node.op_type == "SplitToSequence";
  if (!is_split && node.op_type != "SequenceAt") return decompose(node, names, operands, fresh);
  Result<Decomposition> parts = is_split ? sequences_.split(node, names, operands)
                                         : sequences_.element(node, names, operands, fresh);
  if (!parts) return parts.error();
  // Whoever else reads a sequence is refused.
  if (is_split && parts->refusal.empty()) values_.declare_lost(names.outputs[0]);
  return std::optional(std::move(*parts));
}

Status NodeImporter::add_parts(const Node& node, const NodeNames& names,
                               Decomposition decomposition) {
  if (!decomposition.refusal.empty()) return refuse(node, names, decomposition.refusal);
  for (auto& [name, values] : decomposition.ints) values_.declare_ints(name, std::move(values));
  for (auto& [name, shape, values] : decomposition.floats) {
    values_.declare_floats(name, shape, std::move(values));
  }
  for (Decomposition::Part& part : decomposition.parts) {
    TEMPO_RETURN_IF_ERROR(add_node(std::move(part.node), part.names));
  }
  return {};
}

// Products by weights take rows of features.
bool NodeImporter::is_image_by_weight(const Node& node, const NodeNames& names) {
  if (node.op_type != "MatMul" || names.inputs.size() != 2 || names.inputs[0].empty() ||
      names.inputs[1].empty()) {
    return false;
  }
  const Value& left = values_.at(names.inputs[0]);
  const Value& right = values_.at(names.inputs[1]);
  const bool is_matrix = right.constant != nullptr && right.constant->dims_size() == 2;
  if (!left.is_activation() || (!is_matrix && right.transpose_of.empty())) return false;
  const auto& shapes = values_.shapes(left.id);
  return shapes && (*shapes)[0].size() == 4;
}

// Between Identity nodes, which cost nothing where nothing has to move, a rank-4 operand can be an
// image for the other nodes that touch it. No Decomposition: the product is a part of itself.
Status NodeImporter::add_image_product(const Node& product, const NodeNames& names) {
  const auto identity = [&](const char* suffix) {
    return Node{
        .op_type = "Identity", .name = fresh_name(product.name + suffix), .opset = product.opset};
  };
  const std::string rows = fresh_name(product.name + "/rows");
  const std::string result = fresh_name(product.name + "/result");
  TEMPO_RETURN_IF_ERROR(add_operator(identity("/before"), {{names.inputs[0]}, {rows}}));
  TEMPO_RETURN_IF_ERROR(add_operator(product, {{rows, names.inputs[1]}, {result}}));
  return add_operator(identity("/after"), {{result}, names.outputs});
}

Status NodeImporter::add_operator(Node node, const NodeNames& names) {
  const OpDef* op = find_op(node.op_type);
  const OpSchema* schema = find_schema(node.op_type);
  if (op == nullptr || schema == nullptr || node.opset < op->min_opset) {
    return refuse(node, names, "");
  }
  const auto count = names.inputs.size();
  if (!schema->takes(count) || names.outputs.empty() || names.outputs[0].empty()) {
    return bad_model("a node has the wrong number of inputs or outputs", node.name,
                     "at least " + std::to_string(schema->required) + " inputs, one output",
                     std::to_string(count) + " inputs");
  }
  bool computable = true;
  for (std::size_t i = 0; i < count; ++i) {
    if (names.inputs[i].empty()) {
      if (i < schema->required) {
        return bad_model("a node lacks an input", node.name, "input " + std::to_string(i));
      }
      node.inputs.push_back(kNoTensor);
      continue;
    }
    std::string refusal;
    Result<TensorId> input = node_input(&node, i, names.inputs[i], &refusal);
    if (!input) return input.error();
    if (refusal.empty() && *input != kNoTensor) {
      TEMPO_RETURN_IF_ERROR(check_type(node, *schema, i, *input, &refusal));
    }
    if (!refusal.empty()) return refuse(node, names, refusal);
    computable = computable && (*input == kNoTensor || values_.shapes(*input).has_value());
    node.inputs.push_back(*input);
  }
  const std::string reason = why_not(node, names, *op);
  if (!reason.empty()) return refuse(node, names, reason);
  return add_result(std::move(node), names, computable);
}

Result<TensorId> NodeImporter::node_input(Node* node, std::size_t input, const std::string& name,
                                          std::string* refusal) {
  if (node->op_type == "Reshape" && input == 1) return reshape_target(node, name, refusal);
  Value& value = values_.at(name);
  if (value.is_lost) return lost_ints(name);
  if (!value.transpose_of.empty()) return transposed_input(node, input, name);
  if (value.is_activation()) return value.id;
  const bool is_bias = input == 2 && (node->op_type == "Conv" || node->op_type == "Gemm");
  if (is_bias && values_.is_computed_zero(value)) return kNoTensor;
  return values_.constant_tensor(name, role_of(*node, input, value));
}

// Products by a transposed weight take the weight as it is, under an attribute that Gemm has and
// MatMul is given; others take a Transpose node.
Result<TensorId> NodeImporter::transposed_input(Node* node, std::size_t input,
                                                const std::string& name) {
  const std::string source = values_.at(name).transpose_of;
  const bool by_activation = !node->inputs.empty() && node->inputs[0] != kNoTensor &&
                             !is_fixed(graph_.tensors[static_cast<std::size_t>(node->inputs[0])]);
  if (input == 1 && by_activation && (node->op_type == "MatMul" || node->op_type == "Gemm")) {
    node->attributes["transB"] = {std::int64_t{node->int_or("transB", 0) == 0 ? 1 : 0}};
    return values_.constant_tensor(source, role_of(*node, input, values_.at(source)));
  }
  Node transpose{
      .op_type = "Transpose", .name = fresh_name(name + "/transpose"), .opset = node->opset};
  values_.at(name).transpose_of.clear();
  TEMPO_RETURN_IF_ERROR(add_operator(std::move(transpose), {{source}, {name}}));
  return values_.at(name).id;
}

// A constant that holds for every batch size.
Result<TensorId> NodeImporter::reshape_target(Node* node, const std::string& name,
                                              std::string* refusal) {
  const auto& data_shapes = values_.shapes(node->inputs[0]);
  Value& value = values_.at(name);
  if (value.is_lost || !data_shapes) return lost_ints(name);
  Result<const FoldedInts*> target = values_.known_ints(&value);
  if (!target) return target.error();
  if (*target == nullptr || (*target)->is_scalar) {
    *refusal = "its target shape is not a constant";
    return kNoTensor;
  }
  const bool allow_zero = node->int_or("allowzero", 0) != 0;
  std::optional<std::vector<std::int64_t>> ints =
      batch_free_target(**target, *data_shapes, allow_zero, fixed_batch_);
  if (!ints) {
    Error error =
        bad_model("Reshape's target does not fit its input for every batch size", node->name,
                  "as many elements as in " + shape_to_string((*data_shapes)[0]),
                  shape_to_string((*target)->at[0]));
    if (fixed_batch_ != kBatchDim) {
      error.code = ErrorCode::kUnsupportedModel;
      error.next_step = "export the model with a symbolic batch size";
    }
    return error;
  }
  if (ints->size() > kMaxRank) {
    return bad_model("a node's result has too many dimensions", node->name,
                     "at most " + std::to_string(kMaxRank), std::to_string(ints->size()));
  }
  node->attributes.erase("allowzero");
  const Shape dims = {static_cast<std::int64_t>(ints->size())};
  Tensor tensor{.name = fresh_name(node->name + "/target"),
                .kind = TensorKind::kConstant,
                .type = DataType::kInt64,
                .declared = dims,
                .ints = std::move(*ints)};
  return values_.add_tensor(std::move(tensor), PerBatch<Shape>{dims, dims});
}

// A stand-in for integers that cannot be known; the model has been refused already.
TensorId NodeImporter::lost_ints(const std::string& name) {
  return values_.add_tensor(
      Tensor{.name = name, .kind = TensorKind::kConstant, .type = DataType::kInt64, .ints = {-1}},
      std::nullopt);
}

Status NodeImporter::check_type(const Node& node, const OpSchema& schema, std::size_t input,
                                TensorId id, std::string* refusal) const {
  const Tensor& tensor = graph_.tensors[static_cast<std::size_t>(id)];
  const char letter = schema.letter(input);
  if (std::isupper(letter) != 0 && tensor.kind != TensorKind::kConstant) {
    *refusal = "its input " + tensor.name + " is not a constant";
    return {};
  }
  const bool wants_float = std::tolower(letter) == 'f';
  if (std::tolower(letter) == 'a' || wants_float == (tensor.type == DataType::kFloat32)) {
    return {};
  }
  if (refused_count_ > 0) {  // perhaps only a consequence
    *refusal = "its input " + tensor.name + " has another type";
    return {};
  }
  return bad_model("a node's input has the wrong type", node.name,
                   wants_float ? "float32" : "integers or flags", tensor.name);
}

std::string NodeImporter::why_not(const Node& node, const NodeNames& names, const OpDef& op) const {
  for (std::size_t i = 1; i < names.outputs.size(); ++i) {
    if (!names.outputs[i].empty()) return "its output " + names.outputs[i] + " is used";
  }
  return op.unsupported == nullptr ? "" : op.unsupported(graph_, node);
}

// The outputs beyond the first are not read by anything: the graph goes without them.
Status NodeImporter::add_result(Node node, const NodeNames& names, bool computable) {
  std::optional<PerBatch<Shape>> result;
  if (computable) {
    result.emplace();
    for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
      std::vector<Shape> inputs;
      for (const TensorId id : node.inputs) {
        inputs.push_back(id == kNoTensor ? Shape{} : (*values_.shapes(id))[batch]);
      }
      Result<std::vector<Shape>> outputs =
          infer_node(graph_, node, std::move(inputs), kProbeBatches[batch]);
      if (!outputs) return outputs.error();
      if (outputs->empty() || (*outputs)[0].size() > kMaxRank) {
        return bad_model("a node's result has too many dimensions", node.name,
                         "at most " + std::to_string(kMaxRank));
      }
      (*result)[batch] = std::move((*outputs)[0]);
    }
  }
  Tensor tensor{.name = names.outputs[0]};
  const OpDef& op = *find_op(node.op_type);
  if (op.output_type != nullptr) tensor.type = op.output_type(graph_, node);
  const TensorId id = values_.add_tensor(std::move(tensor), std::move(result));
  values_.declare(names.outputs[0], id);
  node.outputs = {id};
  graph_.nodes.push_back(std::move(node));
  return {};
}

Status NodeImporter::refuse(const Node& node, const NodeNames& names, const std::string& reason) {
  for (const std::string& name : names.outputs) {
    if (name.empty()) continue;
    values_.declare(name, values_.add_tensor(Tensor{.name = name}, std::nullopt));
  }
  if (++refused_count_ > kMaxListedNodes) return {};
  if (!refused_.empty()) refused_ += "; ";
  refused_ +=
      node.name + " (" + node.op_type + ", opset " + std::to_string(node.opset) + ", forward)";
  if (!reason.empty()) refused_ += ": " + reason;
  return {};
}

Status NodeImporter::refused() const {
  if (refused_count_ == 0) return {};
  Error error = unsupported_model(
      std::to_string(refused_count_) +
          (refused_count_ == 1 ? " node is not supported" : " nodes are not supported"),
      "", "`tempo ops` lists what is supported");
  error.got = refused_;
  if (refused_count_ > kMaxListedNodes) {
    error.got += "; and " + std::to_string(refused_count_ - kMaxListedNodes) + " more";
  }
  return error;
}

std::string NodeImporter::fresh_name(std::string name) {
  while (order_.values.contains(name) || order_.taken_node_names.contains(name) ||
         !made_names_.insert(name).second) {
    name.push_back('_');
  }
  return name;
}

}  // namespace tempo
