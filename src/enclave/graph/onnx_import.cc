#include "enclave/graph/onnx_import.h"

#include <onnx/onnx_pb.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "enclave/graph/fold.h"
#include "enclave/graph/infer_node.h"
#include "enclave/graph/onnx_order.h"
#include "enclave/graph/onnx_schema.h"
#include "enclave/graph/onnx_tensor.h"
#include "enclave/graph/storage.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

constexpr std::size_t kMaxListedNodes = 1000;  // of unsupported ones, in one message
constexpr std::int64_t kSpareCopyBytes = std::int64_t{16} << 20;

Error bad_model(std::string what, std::string where, std::string expected = "",
                std::string got = "") {
  return Error{.code = ErrorCode::kBadModel,
               .what = std::move(what),
               .where = std::move(where),
               .expected = std::move(expected),
               .got = std::move(got)};
}

Error unsupported_model(std::string what, std::string where, std::string next_step) {
  return Error{.code = ErrorCode::kUnsupportedModel,
               .what = std::move(what),
               .where = std::move(where),
               .next_step = std::move(next_step)};
}

Result<int> model_opset(const onnx::ModelProto& model) {
  std::optional<std::int64_t> version;
  for (const onnx::OperatorSetIdProto& opset : model.opset_import()) {
    if (!opset.domain().empty() && opset.domain() != "ai.onnx") continue;
    if (version) return bad_model("the model names its operator set twice", "opset_import");
    version = opset.version();
  }
  if (!version) return bad_model("the model does not name its operator set", "opset_import");
  if (*version < kOldestOpset || *version > kNewestOpset) {
    Error error = unsupported_model("the model's opset is not supported", "opset_import",
                                    "export the model again, or convert it "
                                    "(onnx.version_converter)");
    error.expected = std::to_string(kOldestOpset) + " to " + std::to_string(kNewestOpset);
    error.got = std::to_string(*version);
    return error;
  }
  return static_cast<int>(*version);
}

// What a name in the file stands for.
struct Value {
  TensorId id = kNoTensor;                      // once the graph has it
  const onnx::TensorProto* constant = nullptr;  // an initializer's or a Constant node's
  int initializer = -1;                         // position in the file; -1: make one for export
  int node = -1;                                // the Constant or Identity that made it
  bool is_trainable = false;                    // an initializer, or Identity of one
  bool is_copy = false;                         // Identity of a constant
  std::optional<FoldedInts> ints;               // known integers
  bool is_lost = false;  // integers that an unsupported node upstream keeps from being known
};

// How a constant is used.
struct Role {
  TensorKind kind = TensorKind::kConstant;
  Storage storage = Storage::kOnnx;
};

class Importer {
 public:
  Importer(onnx::ModelProto* model, const ImportOptions& options, std::int64_t file_bytes)
      : model_(*model), options_(options), copy_budget_(file_bytes + kSpareCopyBytes) {}

  Result<ImportedGraph> run() {
    if (!model_.has_graph()) return bad_model("the model has no graph", "");
    const onnx::GraphProto& graph = model_.graph();
    if (graph.sparse_initializer_size() > 0) {
      return unsupported_model("sparse initializers are not supported",
                               graph.sparse_initializer(0).values().name(),
                               "export the model with dense weights");
    }
    Result<int> opset = model_opset(model_);
    if (!opset) return opset.error();
    out_.graph.name = graph.name();
    out_.graph.opset = *opset;
    Result<OnnxOrder> order = order_nodes(graph);
    if (!order) return order.error();
    order_ = std::move(*order);
    for (int i = 0; i < graph.initializer_size(); ++i) {
      Value& value = values_[graph.initializer(i).name()];
      value.constant = &graph.initializer(i);
      value.initializer = i;
      value.is_trainable = true;
    }
    TEMPO_RETURN_IF_ERROR(add_inputs());
    for (const int position : order_.order) TEMPO_RETURN_IF_ERROR(add_node(position));
    if (unsupported_count_ > 0) return unsupported_nodes();
    TEMPO_RETURN_IF_ERROR(add_outputs());
    rewrite_file();
    return std::move(out_);
  }

 private:
  // --- Tensors ---

  TensorId add_tensor(Tensor tensor, std::optional<PerBatch<Shape>> shapes) {
    out_.graph.tensors.push_back(std::move(tensor));
    shapes_.push_back(std::move(shapes));
    return static_cast<TensorId>(out_.graph.tensors.size() - 1);
  }

  const std::optional<PerBatch<Shape>>& shapes(TensorId id) const {
    return shapes_[static_cast<std::size_t>(id)];
  }

  Status add_inputs() {
    for (const onnx::ValueInfoProto& input : model_.graph().input()) {
      if (values_.contains(input.name())) continue;  // old files list initializers as inputs too
      TEMPO_RETURN_IF_ERROR(add_input(input));
    }
    if (out_.graph.inputs.empty()) return bad_model("the graph has no input", "");
    return {};
  }

  Status add_input(const onnx::ValueInfoProto& input) {
    const std::string& name = input.name();
    if (!input.type().has_tensor_type() ||
        input.type().tensor_type().elem_type() != onnx::TensorProto::FLOAT) {
      return unsupported_model("a graph input is not a float32 tensor", name,
                               "export the model in float32");
    }
    const onnx::TensorShapeProto& proto = input.type().tensor_type().shape();
    if (proto.dim_size() < 1 || proto.dim_size() > static_cast<int>(kMaxRank)) {
      return unsupported_model("a graph input has no usable shape", name,
                               "export the model with the input's shape, batch first");
    }
    Tensor tensor{.name = name, .kind = TensorKind::kInput};
    for (int i = 0; i < proto.dim_size(); ++i) {
      const std::int64_t dim = proto.dim(i).has_dim_value() ? proto.dim(i).dim_value() : kBatchDim;
      if (i == 0) {
        if (dim >= 1) TEMPO_RETURN_IF_ERROR(set_fixed_batch(dim, name));
        tensor.declared.push_back(kBatchDim);
        continue;
      }
      if (dim < 1) {
        return unsupported_model("only the first dimension of an input may be open", name,
                                 "export the model with a fixed image size");
      }
      tensor.declared.push_back(dim);
    }
    PerBatch<Shape> shapes;
    for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
      shapes[batch] = tensor.declared;
      shapes[batch][0] = kProbeBatches[batch];
      if (bounded_element_count(shapes[batch]) < 0) {
        return bad_model("a graph input is too large", name, "", shape_to_string(tensor.declared));
      }
    }
    const TensorId id = add_tensor(std::move(tensor), std::move(shapes));
    values_[name].id = id;
    out_.graph.inputs.push_back(id);
    return {};
  }

  Status set_fixed_batch(std::int64_t dim, const std::string& name) {
    if (fixed_batch_ != kBatchDim && fixed_batch_ != dim) {
      return bad_model("graph inputs disagree on the batch size", name,
                       std::to_string(fixed_batch_), std::to_string(dim));
    }
    fixed_batch_ = dim;
    return {};
  }

  // The value's integers when they are known, else null. Error: a damaged tensor.
  Result<const FoldedInts*> known_ints(Value* value) {
    if (!value->ints && value->constant != nullptr &&
        value->constant->data_type() != onnx::TensorProto::FLOAT &&
        value->constant->dims_size() <= 1) {
      Result<TensorInfo> info = check_tensor(*value->constant, value->constant->name());
      if (!info) {
        if (info.error().code == ErrorCode::kUnsupportedModel) return nullptr;
        return info.error();
      }
      if (info->count <= static_cast<std::int64_t>(kMaxFoldedInts)) {
        const std::vector<std::int64_t> ints = read_ints(*value->constant, *info);
        value->ints = FoldedInts{info->dims.empty(), {ints, ints}};
      }
    }
    return value->ints ? &*value->ints : nullptr;
  }

  Role role_of(const Node& node, std::size_t input, const Value& value) const {
    const int rank = value.constant == nullptr ? 0 : value.constant->dims_size();
    const std::string& op = node.op_type;
    if (op == "Conv" && input == 1) {
      return {TensorKind::kParameter, rank == 4 ? Storage::kConvWeights : Storage::kOnnx};
    }
    if (op == "Gemm" && input == 1) {
      const bool transpose = node.int_or("transB", 0) == 0 && rank == 2;
      return {TensorKind::kParameter, transpose ? Storage::kTransposed : Storage::kOnnx};
    }
    if (op == "MatMul" && input == 1) {
      return {TensorKind::kParameter, rank == 2 ? Storage::kTransposed : Storage::kOnnx};
    }
    if (op == "BatchNormalization" && input >= 3) return {TensorKind::kStatistic};
    if (op == "BatchNormalization" || op == "Conv" || op == "Gemm" || op == "MatMul") {
      return {TensorKind::kParameter};
    }
    // A bias is an initializer; a number that somebody wrote into the network's code is a Constant
    // node or a scalar.
    if (op == "Add" && value.is_trainable && rank > 0) return {TensorKind::kParameter};
    return {};
  }

  // Puts a constant of the file into the graph, or finds it there.
  Result<TensorId> constant_tensor(const std::string& name, Value* value, const Role& role) {
    if (value->id != kNoTensor) {
      const Tensor& tensor = out_.graph.tensors[static_cast<std::size_t>(value->id)];
      if (tensor.kind != role.kind || tensor.storage != role.storage ||
          role.kind == TensorKind::kStatistic) {
        return unsupported_model("a tensor is used in two ways that exclude each other", name,
                                 "give each use an initializer of its own");
      }
      return value->id;
    }
    Tensor tensor{.name = name, .kind = role.kind, .storage = role.storage};
    if (value->constant == nullptr) {  // integers that were computed from shapes
      tensor.type = DataType::kInt64;
      tensor.ints = value->ints->at[0];
      if (!value->ints->is_scalar) {
        tensor.declared = {static_cast<std::int64_t>(tensor.ints.size())};
      }
    } else {
      Result<TensorInfo> info = check_tensor(*value->constant, name);
      if (!info) return info.error();
      if (role.kind != TensorKind::kConstant && info->count == 0) {
        return bad_model("a parameter is empty", name, "", shape_to_string(info->dims));
      }
      tensor.type = info->type;
      tensor.declared = info->dims;
      if (value->is_copy) {
        copy_budget_ -= info->count * 8;
        if (copy_budget_ < 0) {
          return unsupported_model("Identity nodes copy too many parameters", name,
                                   "export the model without sharing initializers");
        }
      }
      if (info->type == DataType::kFloat32) {
        tensor.floats =
            to_storage(read_floats(*value->constant, *info), tensor.declared, role.storage);
      } else {
        tensor.ints = read_ints(*value->constant, *info);
      }
    }
    const bool goes_back = role.kind != TensorKind::kConstant && tensor.type == DataType::kFloat32;
    const Shape dims = tensor.declared;
    value->id = add_tensor(std::move(tensor), PerBatch<Shape>{dims, dims});
    if (goes_back) homes_.push_back({value->id, value->initializer, value->node, name, dims});
    return value->id;
  }

  // --- Nodes ---

  Status add_node(int position) {
    const onnx::NodeProto& proto = model_.graph().node(position);
    Node node{.op_type = proto.op_type(),
              .name = order_.node_names[static_cast<std::size_t>(position)],
              .opset = out_.graph.opset};
    if (!proto.domain().empty() && proto.domain() != "ai.onnx") {
      refuse(node, "operators of domain " + proto.domain() + " are unknown");
      return name_outputs(proto);
    }
    if (node.op_type == "Constant") return add_constant(position);
    TEMPO_RETURN_IF_ERROR(read_attributes(proto, &node));
    if (node.op_type == "Identity" && proto.input_size() == 1 && proto.output_size() == 1 &&
        alias_constant(position)) {
      return {};
    }
    Result<bool> folded = try_fold(node, proto);
    if (!folded) return folded.error();
    if (*folded) return {};
    const OpDef* op = find_op(node.op_type);
    const OpSchema* schema = find_schema(node.op_type);
    if (op == nullptr || schema == nullptr || node.opset < op->min_opset) {
      refuse(node, "");
      return name_outputs(proto);
    }
    return add_operator(std::move(node), proto, *op, *schema);
  }

  // Nodes that cannot be done still name their outputs, so that the rest can be looked at.
  Status name_outputs(const onnx::NodeProto& proto) {
    for (const std::string& name : proto.output()) {
      if (name.empty()) continue;
      values_[name].id = add_tensor(Tensor{.name = name}, std::nullopt);
    }
    return {};
  }

  void refuse(const Node& node, const std::string& reason, bool only_backward = false) {
    if (++unsupported_count_ > kMaxListedNodes) return;
    if (!unsupported_.empty()) unsupported_ += "; ";
    unsupported_ += node.name + " (" + node.op_type + ", opset " + std::to_string(node.opset) +
                    (only_backward ? ", backward)" : ", forward)");
    if (!reason.empty()) unsupported_ += ": " + reason;
  }

  Error unsupported_nodes() const {
    Error error = unsupported_model(
        std::to_string(unsupported_count_) +
            (unsupported_count_ == 1 ? " node is not supported" : " nodes are not supported"),
        "", "`tempo ops` lists what is supported");
    error.got = unsupported_;
    if (unsupported_count_ > kMaxListedNodes) {
      error.got += "; and " + std::to_string(unsupported_count_ - kMaxListedNodes) + " more";
    }
    return error;
  }

  Status add_constant(int position) {
    const onnx::NodeProto& proto = model_.graph().node(position);
    const std::string& node_name = order_.node_names[static_cast<std::size_t>(position)];
    if (proto.input_size() != 0 || proto.output_size() != 1 || proto.output(0).empty() ||
        proto.attribute_size() != 1) {
      return bad_model("a Constant node is damaged", node_name, "one attribute and one output");
    }
    const onnx::AttributeProto& attribute = proto.attribute(0);
    const onnx::TensorProto* tensor = nullptr;
    if (attribute.name() == "value" && attribute.type() == onnx::AttributeProto::TENSOR) {
      tensor = &attribute.t();
    } else {
      onnx::TensorProto& made = made_.emplace_back();
      if (attribute.name() == "value_float" && attribute.type() == onnx::AttributeProto::FLOAT) {
        made.set_data_type(onnx::TensorProto::FLOAT);
        made.add_float_data(attribute.f());
      } else if (attribute.name() == "value_floats" &&
                 attribute.type() == onnx::AttributeProto::FLOATS) {
        made.set_data_type(onnx::TensorProto::FLOAT);
        made.add_dims(attribute.floats_size());
        *made.mutable_float_data() = attribute.floats();
      } else if (attribute.name() == "value_int" && attribute.type() == onnx::AttributeProto::INT) {
        made.set_data_type(onnx::TensorProto::INT64);
        made.add_int64_data(attribute.i());
      } else if (attribute.name() == "value_ints" &&
                 attribute.type() == onnx::AttributeProto::INTS) {
        made.set_data_type(onnx::TensorProto::INT64);
        made.add_dims(attribute.ints_size());
        *made.mutable_int64_data() = attribute.ints();
      } else {
        // Not a tensor of numbers: whoever reads it is refused by its element type.
        made.set_data_type(onnx::TensorProto::UNDEFINED);
      }
      made.set_name(proto.output(0));
      tensor = &made;
    }
    Value& value = values_[proto.output(0)];
    value.constant = tensor;
    value.node = position;
    return {};
  }

  // PyTorch's exporter writes parameters that were equal at export time (fresh batch
  // normalisations, say) as one initializer and Identity nodes. They are trained separately, so
  // each gets a tensor of its own.
  bool alias_constant(int position) {
    const onnx::NodeProto& proto = model_.graph().node(position);
    const auto source = values_.find(proto.input(0));
    if (source == values_.end() || source->second.constant == nullptr) return false;
    Value alias;
    alias.constant = source->second.constant;
    alias.ints = source->second.ints;
    alias.node = position;
    alias.is_trainable = source->second.is_trainable;
    alias.is_copy = true;
    values_[proto.output(0)] = std::move(alias);
    return true;
  }

  Result<bool> try_fold(const Node& node, const onnx::NodeProto& proto) {
    if (proto.output_size() != 1 || proto.output(0).empty()) return false;
    if (node.op_type == "Shape") {
      if (proto.input_size() != 1 || proto.input(0).empty()) return false;
      const Value& value = values_.at(proto.input(0));
      PerBatch<Shape> shape;
      if (value.id != kNoTensor) {
        if (!shapes(value.id)) {
          values_[proto.output(0)].is_lost = true;
          return true;
        }
        shape = *shapes(value.id);
      } else if (value.constant != nullptr) {
        const auto& dims = value.constant->dims();
        if (dims.size() > static_cast<int>(kMaxRank)) return false;
        shape.fill(Shape(dims.begin(), dims.end()));
      } else {
        return false;
      }
      values_[proto.output(0)].ints = fold_shape(node, shape);
      return true;
    }
    if (!is_foldable(node.op_type) || proto.input_size() > static_cast<int>(kMaxFoldedInts)) {
      return false;
    }
    std::vector<const FoldedInts*> inputs;
    bool is_lost = false;
    for (const std::string& name : proto.input()) {
      if (name.empty()) {
        inputs.push_back(nullptr);
        continue;
      }
      Value& value = values_.at(name);
      if (value.is_lost) {
        is_lost = true;
        continue;
      }
      Result<const FoldedInts*> ints = known_ints(&value);
      if (!ints) return ints.error();
      if (*ints == nullptr) return false;
      inputs.push_back(*ints);
    }
    if (is_lost) {
      values_[proto.output(0)].is_lost = true;
      return true;
    }
    std::optional<FoldedInts> folded = fold_node(node, inputs);
    if (!folded) return false;
    values_[proto.output(0)].ints = std::move(folded);
    return true;
  }

  Status add_operator(Node node, const onnx::NodeProto& proto, const OpDef& op,
                      const OpSchema& schema) {
    if (proto.input_size() < schema.required ||
        proto.input_size() > static_cast<int>(schema.inputs.size()) || proto.output_size() < 1 ||
        proto.output(0).empty()) {
      return bad_model("a node has the wrong number of inputs or outputs", node.name,
                       std::to_string(schema.required) + " to " +
                           std::to_string(schema.inputs.size()) + " inputs",
                       std::to_string(proto.input_size()));
    }
    bool computable = true;
    for (int i = 0; i < proto.input_size(); ++i) {
      if (proto.input(i).empty()) {
        if (i < schema.required) {
          return bad_model("a node lacks an input", node.name, "input " + std::to_string(i));
        }
        node.inputs.push_back(kNoTensor);
        continue;
      }
      if (node.op_type == "Reshape" && i == 1) {
        Result<TensorId> target = reshape_target(&node, proto);
        if (!target) return target.error();
        if (*target == kNoTensor) return name_outputs(proto);  // refused there
        node.inputs.push_back(*target);
        continue;
      }
      Result<TensorId> input = node_input(node, static_cast<std::size_t>(i), proto.input(i));
      if (!input) return input.error();
      if (*input == kNoTensor) {
        refuse(node, "input " + proto.input(i) + " depends on the batch size");
        return name_outputs(proto);
      }
      if (Status type = check_type(node, schema, i, *input); !type.ok()) {
        if (unsupported_count_ == 0) return type;
        refuse(node, "its input " + proto.input(i) + " has another type");  // perhaps a consequence
        return name_outputs(proto);
      }
      computable = computable && shapes(*input).has_value();
      node.inputs.push_back(*input);
    }
    const std::string reason = why_not(node, proto, op);
    if (!reason.empty()) {
      refuse(node, reason);
      return name_outputs(proto);
    }
    if (!op.has_backward && !options_.inference_only) refuse(node, "", true);
    return add_result(std::move(node), proto, computable);
  }

  Result<TensorId> node_input(const Node& node, std::size_t input, const std::string& name) {
    Value& value = values_.at(name);
    if (value.is_lost) return lost_ints(name);
    if (value.constant == nullptr && !value.ints) return value.id;  // an activation
    if (value.constant == nullptr && value.ints->depends_on_batch()) return kNoTensor;
    return constant_tensor(name, &value, role_of(node, input, value));
  }

  Status check_type(const Node& node, const OpSchema& schema, int input, TensorId id) const {
    const Tensor& tensor = out_.graph.tensors[static_cast<std::size_t>(id)];
    const bool wants_float = schema.inputs[static_cast<std::size_t>(input)] == 'f';
    if (wants_float == (tensor.type == DataType::kFloat32)) return {};
    return bad_model("a node's input has the wrong type", node.name,
                     wants_float ? "float32" : "integers or flags", tensor.name);
  }

  std::string why_not(const Node& node, const onnx::NodeProto& proto, const OpDef& op) const {
    for (int i = 1; i < proto.output_size(); ++i) {
      if (!proto.output(i).empty() && order_.values.at(proto.output(i)).readers > 0) {
        return "its output " + proto.output(i) + " is used";
      }
    }
    return op.unsupported == nullptr ? "" : op.unsupported(out_.graph, node);
  }

  // The outputs beyond the first are not read by anything: the graph goes without them.
  Status add_result(Node node, const onnx::NodeProto& proto, bool computable) {
    std::optional<PerBatch<Shape>> result;
    if (computable) {
      result.emplace();
      for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
        std::vector<Shape> inputs;
        for (const TensorId id : node.inputs) {
          inputs.push_back(id == kNoTensor ? Shape{} : (*shapes(id))[batch]);
        }
        Result<std::vector<Shape>> outputs = infer_node(out_.graph, node, std::move(inputs));
        if (!outputs) return outputs.error();
        if (outputs->empty() || (*outputs)[0].size() > kMaxRank) {
          return bad_model("a node's result has too many dimensions", node.name,
                           "at most " + std::to_string(kMaxRank));
        }
        (*result)[batch] = std::move((*outputs)[0]);
      }
    }
    const TensorId id = add_tensor(Tensor{.name = proto.output(0)}, std::move(result));
    values_[proto.output(0)].id = id;
    for (int i = 1; i < proto.output_size(); ++i) unused_outputs_.insert(proto.output(i));
    node.outputs = {id};
    out_.graph.nodes.push_back(std::move(node));
    return {};
  }

  // A stand-in for integers that cannot be known; the model has been refused already.
  TensorId lost_ints(const std::string& name) {
    return add_tensor(
        Tensor{.name = name, .kind = TensorKind::kConstant, .type = DataType::kInt64, .ints = {-1}},
        std::nullopt);
  }

  // A constant that holds for every batch size; kNoTensor when the node was refused.
  Result<TensorId> reshape_target(Node* node, const onnx::NodeProto& proto) {
    const TensorId data = node->inputs[0];
    Value& value = values_.at(proto.input(1));
    if (value.is_lost || !shapes(data)) return lost_ints(proto.input(1));
    Result<const FoldedInts*> target = known_ints(&value);
    if (!target) return target.error();
    if (*target == nullptr || (*target)->is_scalar) {
      refuse(*node, "its target shape is not a constant");
      return kNoTensor;
    }
    const bool allow_zero = node->int_or("allowzero", 0) != 0;
    std::optional<std::vector<std::int64_t>> ints =
        batch_free_target(**target, *shapes(data), allow_zero, fixed_batch_);
    if (!ints) {
      Error error =
          bad_model("Reshape's target does not fit its input for every batch size", node->name,
                    "as many elements as in " + shape_to_string((*shapes(data))[0]),
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
    Tensor tensor{.name = fresh_name(node->name + "/target"),
                  .kind = TensorKind::kConstant,
                  .type = DataType::kInt64};
    const Shape dims = {static_cast<std::int64_t>(ints->size())};
    tensor.declared = dims;
    tensor.ints = std::move(*ints);
    return add_tensor(std::move(tensor), PerBatch<Shape>{dims, dims});
  }

  std::string fresh_name(std::string name) {
    while (order_.values.contains(name) || !made_names_.insert(name).second) name.push_back('_');
    return name;
  }

  Status add_outputs() {
    if (model_.graph().output_size() == 0) return bad_model("the graph has no output", "");
    for (const onnx::ValueInfoProto& output : model_.graph().output()) {
      const Value& value = values_.at(output.name());
      if (value.constant != nullptr || value.ints) {
        return unsupported_model("a graph output does not depend on the input", output.name(),
                                 "remove that output");
      }
      const PerBatch<Shape>& shape = *shapes(value.id);
      for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
        if (shape[batch].empty() || shape[batch][0] != kProbeBatches[batch]) {
          return unsupported_model("a graph output does not have the batch as first dimension",
                                   output.name(), "export the model with a symbolic batch size");
        }
      }
      out_.graph.outputs.push_back(value.id);
    }
    return {};
  }

  // --- The file, for export ---

  struct PendingHome {
    TensorId tensor;
    int initializer;  // -1: to be made, instead of `node`
    int node;
    std::string name;
    Shape dims;
  };

  void rewrite_file() {
    onnx::GraphProto* graph = model_.mutable_graph();
    std::vector<bool> removed(static_cast<std::size_t>(graph->node_size()), false);
    for (PendingHome& home : homes_) {
      if (home.initializer < 0) {
        removed[static_cast<std::size_t>(home.node)] = true;
        home.initializer = graph->initializer_size();
        add_initializer(graph, home);
      }
      out_.homes.push_back({home.tensor, home.initializer});
      drop_payload(graph->mutable_initializer(home.initializer));
    }
    google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
    for (const int position : order_.order) {
      if (removed[static_cast<std::size_t>(position)]) continue;
      nodes.Add()->Swap(graph->mutable_node(position));
    }
    graph->mutable_node()->Swap(&nodes);
    for (onnx::NodeProto& node : *graph->mutable_node()) to_inference_form(&node);
    // Types of values that nothing makes any more.
    auto* infos = graph->mutable_value_info();
    infos->erase(std::remove_if(infos->begin(), infos->end(),
                                [this](const onnx::ValueInfoProto& info) {
                                  return unused_outputs_.contains(info.name());
                                }),
                 infos->end());
  }

  void add_initializer(onnx::GraphProto* graph, const PendingHome& home) {
    onnx::TensorProto* tensor = graph->add_initializer();
    tensor->set_name(home.name);
    tensor->set_data_type(onnx::TensorProto::FLOAT);
    for (const std::int64_t dim : home.dims) tensor->add_dims(dim);
    if (model_.ir_version() >= 4) return;
    // Before IR 4, every initializer is a graph input as well.
    onnx::ValueInfoProto* input = graph->add_input();
    input->set_name(home.name);
    auto* type = input->mutable_type()->mutable_tensor_type();
    type->set_elem_type(onnx::TensorProto::FLOAT);
    for (const std::int64_t dim : home.dims) type->mutable_shape()->add_dim()->set_dim_value(dim);
  }

  static void to_inference_form(onnx::NodeProto* node) {
    if (node->op_type() == "BatchNormalization") {
      auto* attributes = node->mutable_attribute();
      attributes->erase(std::remove_if(attributes->begin(), attributes->end(),
                                       [](const onnx::AttributeProto& attribute) {
                                         return attribute.name() == "training_mode";
                                       }),
                        attributes->end());
      node->mutable_output()->DeleteSubrange(1, node->output_size() - 1);
    } else if (node->op_type() == "Dropout" && node->input_size() > 2) {
      node->mutable_input()->DeleteSubrange(2, node->input_size() - 2);
    }
  }

  onnx::ModelProto& model_;
  const ImportOptions& options_;
  std::int64_t copy_budget_;
  std::int64_t fixed_batch_ = kBatchDim;
  OnnxOrder order_;
  ImportedGraph out_;
  std::vector<std::optional<PerBatch<Shape>>> shapes_;  // index = TensorId; nothing when unknown
  std::unordered_map<std::string, Value> values_;
  std::deque<onnx::TensorProto> made_;
  std::vector<PendingHome> homes_;
  std::unordered_set<std::string> made_names_;
  std::unordered_set<std::string> unused_outputs_;
  std::string unsupported_;
  std::size_t unsupported_count_ = 0;
};

}  // namespace

Result<ImportedGraph> import_graph(onnx::ModelProto* model, const ImportOptions& options,
                                   std::int64_t file_bytes) {
  return Importer(model, options, file_bytes).run();
}

}  // namespace tempo
