#include "enclave/graph/onnx_import.h"

#include <onnx/onnx_pb.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "enclave/graph/fold.h"
#include "enclave/graph/infer_node.h"
#include "enclave/graph/onnx_attention.h"
#include "enclave/graph/onnx_decompose.h"
#include "enclave/graph/onnx_order.h"
#include "enclave/graph/onnx_rewrite.h"
#include "enclave/graph/onnx_schema.h"
#include "enclave/graph/onnx_tensor.h"
#include "enclave/graph/value_table.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

constexpr std::size_t kMaxListedNodes = 1000;  // of unsupported ones, in one message

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

bool is_onnx_domain(const std::string& domain) {
  return domain.empty() || domain == "ai.onnx";
}

Result<int> model_opset(const onnx::ModelProto& model) {
  std::optional<std::int64_t> version;
  for (const onnx::OperatorSetIdProto& opset : model.opset_import()) {
    if (!is_onnx_domain(opset.domain())) continue;
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

class Importer {
 public:
  Importer(onnx::ModelProto* model, const ImportOptions& options, std::int64_t file_bytes)
      : model_(*model), options_(options), values_(&out_.graph, file_bytes) {}

  Result<ImportedGraph> run() {
    if (!model_.has_graph()) return bad_model("the model has no graph", "");
    const onnx::GraphProto& file = model_.graph();
    if (file.sparse_initializer_size() > 0) {
      return unsupported_model("sparse initializers are not supported",
                               file.sparse_initializer(0).values().name(),
                               "export the model with dense weights");
    }
    Result<int> opset = model_opset(model_);
    if (!opset) return opset.error();
    out_.graph.name = file.name();
    out_.graph.opset = *opset;
    Result<OnnxOrder> order = order_nodes(file);
    if (!order) return order.error();
    order_ = std::move(*order);
    values_.declare_initializers(file);
    TEMPO_RETURN_IF_ERROR(add_inputs());
    for (const int position : order_.order) TEMPO_RETURN_IF_ERROR(add_node(position));
    if (unsupported_count_ > 0) return unsupported_nodes();
    TEMPO_RETURN_IF_ERROR(add_outputs());
    hold_what_no_gradient_reaches();
    out_.homes = rewrite_for_export(&model_, order_.order, values_.take_homes());
    return std::move(out_);
  }

 private:
  // --- Inputs and outputs ---

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
    const int type = input.type().has_tensor_type() ? input.type().tensor_type().elem_type()
                                                    : onnx::TensorProto::UNDEFINED;
    const bool is_integer = type == onnx::TensorProto::INT64 || type == onnx::TensorProto::INT32 ||
                            type == onnx::TensorProto::BOOL;
    if (type != onnx::TensorProto::FLOAT && !is_integer) {
      return unsupported_model("a graph input is neither float32 nor integers", name,
                               "export the model in float32");
    }
    const onnx::TensorShapeProto& proto = input.type().tensor_type().shape();
    if (proto.dim_size() < (options_.has_batch ? 1 : 0) ||
        proto.dim_size() > static_cast<int>(kMaxRank)) {
      return unsupported_model("a graph input has no usable shape", name,
                               "export the model with the input's shape, batch first");
    }
    Tensor tensor{.name = name,
                  .kind = TensorKind::kInput,
                  .type = is_integer ? DataType::kInt64 : DataType::kFloat32};
    for (int i = 0; i < proto.dim_size(); ++i) {
      const std::int64_t dim = proto.dim(i).has_dim_value() ? proto.dim(i).dim_value() : kBatchDim;
      if (i == 0 && options_.has_batch) {
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
      if (options_.has_batch) shapes[batch][0] = kProbeBatches[batch];
      if (bounded_element_count(shapes[batch]) < 0) {
        return bad_model("a graph input is too large", name,
                         "at most " + std::to_string(kMaxTensorElements) + " elements",
                         shape_to_string(tensor.declared));
      }
    }
    const TensorId id = values_.add_tensor(std::move(tensor), std::move(shapes));
    values_.declare(name, id);
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

  Status add_outputs() {
    if (model_.graph().output_size() == 0) return bad_model("the graph has no output", "");
    for (const onnx::ValueInfoProto& output : model_.graph().output()) {
      const Value& value = values_.at(output.name());
      if (sequences_.contains(output.name())) {
        return unsupported_model("a graph output is a sequence", output.name(),
                                 "give its elements as outputs");
      }
      const std::optional<PerBatch<Shape>> shape = values_.shapes_of(output.name());
      if (!shape || (!value.is_activation() && options_.has_batch)) {
        return unsupported_model("a graph output does not depend on the input", output.name(),
                                 "remove that output");
      }
      for (std::size_t batch = 0; options_.has_batch && batch < kProbeBatches.size(); ++batch) {
        if ((*shape)[batch].empty() || (*shape)[batch][0] != kProbeBatches[batch]) {
          return unsupported_model("a graph output does not have the batch as first dimension",
                                   output.name(), "export the model with a symbolic batch size");
        }
      }
      Result<TensorId> id = output_tensor(output.name(), value.id, (*shape)[0].size());
      if (!id) return id.error();
      out_.graph.outputs.push_back(*id);
    }
    return {};
  }

  // Outputs are in ONNX's order and made by a node, whatever else touches them.
  Result<TensorId> output_tensor(const std::string& name, TensorId id, std::size_t rank) {
    const bool is_made = id != kNoTensor && out_.graph.tensors[static_cast<std::size_t>(id)].kind ==
                                                TensorKind::kActivation;
    if (is_made && rank != 4) return id;
    Node identity{
        .op_type = "Identity", .name = fresh_name(name + "/output"), .opset = out_.graph.opset};
    const std::string result = fresh_name(name + "/result");
    TEMPO_RETURN_IF_ERROR(add_operator(std::move(identity), {{name}, {result}}));
    const TensorId made = values_.at(result).id;
    out_.graph.tensors[static_cast<std::size_t>(made)].name = name;
    return made;
  }

  // A mask that is compared, say: no training would change it, but weight decay would.
  void hold_what_no_gradient_reaches() {
    std::vector<bool> reached(out_.graph.tensors.size(), false);
    for (const TensorId id : out_.graph.outputs) reached[static_cast<std::size_t>(id)] = true;
    for (std::size_t n = out_.graph.nodes.size(); n-- > 0;) {
      const Node& node = out_.graph.nodes[n];
      const OpDef& op = *find_op(node.op_type);
      const auto result = static_cast<std::size_t>(node.outputs[0]);
      const bool passes_on = out_.graph.tensors[result].type == DataType::kFloat32 &&
                             (op.is_linear || op.backward != nullptr);
      if (!reached[result] || !passes_on) continue;
      for (const TensorId id : node.inputs) {
        if (id != kNoTensor) reached[static_cast<std::size_t>(id)] = true;
      }
    }
    for (std::size_t id = 0; id < reached.size(); ++id) {
      Tensor& tensor = out_.graph.tensors[id];
      if (tensor.kind == TensorKind::kParameter && !reached[id])
        tensor.kind = TensorKind::kConstant;
    }
  }

  // --- Nodes ---

  Status add_node(int position) {
    const onnx::NodeProto& proto = model_.graph().node(position);
    Node node{.op_type = proto.op_type(),
              .name = order_.node_names[static_cast<std::size_t>(position)],
              .opset = out_.graph.opset};
    NodeNames names{{proto.input().begin(), proto.input().end()},
                    {proto.output().begin(), proto.output().end()}};
    if (!is_onnx_domain(proto.domain())) {
      refuse(node, "operators of domain " + proto.domain() + " are unknown");
      return name_outputs(names);
    }
    if (node.op_type == "Constant") return values_.declare_constant(proto, node.name, position);
    TEMPO_RETURN_IF_ERROR(read_attributes(proto, &node));
    if (node.op_type == "MatMul") node.attributes.erase("transB");  // our own (see below)
    position_ = position;
    return add_rewritten(std::move(node), names);
  }

  // The node, or what stands for it.
  Status add_rewritten(Node node, const NodeNames& names) {
    if (node.op_type == "SequenceAt") return add_element(node, names);
    std::vector<OperandInfo> operands;
    for (const std::string& name : names.inputs) {
      if (sequences_.contains(name)) {
        refuse(node, "its input " + name + " is a sequence");
        return name_outputs(names);
      }
      operands.push_back(values_.operand_info(name));
    }
    const auto decomposition = decompose(
        node, names, operands, [this](std::string wish) { return fresh_name(std::move(wish)); });
    if (decomposition) return add_decomposition(node, names, *decomposition);
    Result<bool> absorbed = values_.absorb(node, names, position_);
    if (!absorbed) return absorbed.error();
    if (*absorbed) return {};
    if (node.op_type == "Split") return add_split(node, names);
    if (node.op_type == "Attention") return add_attention(node, names);
    if (node.op_type == "SplitToSequence") return add_sequence(node, names);
    if (node.op_type == "ReduceMean") {
      Result<bool> pooled = add_mean_as_pooling(node, names);
      if (!pooled) return pooled.error();
      if (*pooled) return {};
    }
    if (node.op_type == "MatMul" && is_image_by_weight(names))
      return add_image_product(node, names);
    const bool is_extreme = node.op_type == "Max" || node.op_type == "Min";
    if (node.op_type == "Sum" || (is_extreme && names.inputs.size() != 2)) {
      return add_list(node, names);
    }
    return add_operator(std::move(node), names);
  }

  Status add_decomposition(const Node& node, const NodeNames& names,
                           const Decomposition& decomposition) {
    if (!decomposition.refusal.empty()) {
      refuse(node, decomposition.refusal);
      return name_outputs(names);
    }
    for (const auto& [name, value] : decomposition.ints) values_.declare_ints(name, value);
    for (const auto& [name, value] : decomposition.numbers) {
      values_.declare_floats(name, {}, {value});
    }
    for (const Decomposition::Part& part : decomposition.parts) {
      TEMPO_RETURN_IF_ERROR(add_rewritten(part.node, part.names));
    }
    return {};
  }

  bool is_image_by_weight(const NodeNames& names) {
    if (names.inputs.size() != 2 || names.inputs[0].empty() || names.inputs[1].empty())
      return false;
    const Value& left = values_.at(names.inputs[0]);
    const Value& right = values_.at(names.inputs[1]);
    const bool is_matrix = right.constant != nullptr && right.constant->dims_size() == 2;
    if (!left.is_activation() || (!is_matrix && right.transpose_of.empty())) return false;
    const auto& shapes = values_.shapes(left.id);
    return shapes && (*shapes)[0].size() == 4;
  }

  // Products by weights take rows of features. Between Identity nodes, which cost nothing where
  // nothing has to move, a rank-4 operand can be an image for the other nodes that touch it.
  Status add_image_product(const Node& product, const NodeNames& names) {
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

  // Operators of any number of operands, as a chain of those of two.
  Status add_list(const Node& list, const NodeNames& names) {
    const std::size_t count = names.inputs.size();
    if (count < 2) {
      Node only{.op_type = "Identity", .name = list.name, .opset = list.opset};
      return add_operator(std::move(only), names);
    }
    const std::string type = list.op_type == "Sum" ? "Add" : list.op_type;
    std::string sum = names.inputs[0];
    for (std::size_t i = 1; i < count; ++i) {
      const bool is_last = i + 1 == count;
      Node pair{.op_type = type,
                .name = is_last ? list.name : fresh_name(list.name + "/" + std::to_string(i)),
                .opset = list.opset};
      const std::string part = fresh_name(pair.name + "/part");
      TEMPO_RETURN_IF_ERROR(add_rewritten(
          std::move(pair), {{sum, names.inputs[i]}, is_last ? names.outputs : std::vector{part}}));
      sum = part;
    }
    return {};
  }

  Status add_attention(const Node& node, const NodeNames& names) {
    AttentionOperands operands;
    std::string reason = attention_operands(names, &operands);
    if (reason.empty()) {
      const NodeSink sink{
          [this](std::string wish) { return fresh_name(std::move(wish)); },
          [this](const std::string& wish, std::vector<std::int64_t> ints) {
            return add_ints(wish, std::move(ints));
          },
          [this](const std::string& wish, const Shape& shape, std::vector<float> floats) {
            std::string name = fresh_name(wish);
            values_.declare_floats(name, shape, std::move(floats));
            return name;
          },
          [this](Node part, const NodeNames& part_names) {
            return add_rewritten(std::move(part), part_names);
          }};
      Result<std::string> done = expand_attention(node, names, operands, sink);
      if (!done) return done.error();
      reason = std::move(*done);
      if (reason.empty()) return {};
    }
    refuse(node, reason);
    return name_outputs(names);
  }

  // Fills in what is known of an Attention node, or says why that is not enough.
  std::string attention_operands(const NodeNames& names, AttentionOperands* operands) {
    const std::vector<std::string>& inputs = names.inputs;
    for (std::size_t i = 0; i < 3; ++i) {
      if (i >= inputs.size() || inputs[i].empty()) return "it lacks an operand";
      const auto shapes = values_.shapes_of(inputs[i]);
      if (!shapes) return "the shape of its input " + inputs[i] + " is not known";
      Shape& shape = i == 0 ? operands->q : i == 1 ? operands->k : operands->v;
      shape = (*shapes)[0];
      const bool is_fixed_size =
          (*shapes)[0].size() == (*shapes)[1].size() && !shape.empty() &&
          std::equal(shape.begin() + 1, shape.end(), (*shapes)[1].begin() + 1);
      if (!is_fixed_size) return "its operands' sizes depend on the batch";
    }
    for (std::size_t i = 4; i < inputs.size(); ++i) {
      if (!inputs[i].empty()) return "only without past keys and values";
    }
    for (std::size_t i = 1; i < names.outputs.size(); ++i) {
      if (!names.outputs[i].empty() && order_.values.at(names.outputs[i]).readers > 0) {
        return "its output " + names.outputs[i] + " is used";
      }
    }
    if (names.outputs.empty() || names.outputs[0].empty()) return "it lacks an output";
    if (inputs.size() > 3 && !inputs[3].empty())
      operands->mask = values_.operand_info(inputs[3]).type;
    return "";
  }

  // Split, as one Slice a part.
  Status add_split(const Node& split, const NodeNames& names) {
    std::string reason;
    Result<std::vector<std::int64_t>> sizes = split_sizes(split, names, &reason);
    if (!sizes) return sizes.error();
    if (!reason.empty()) {
      refuse(split, reason);
      return name_outputs(names);
    }
    const std::int64_t axis = split.int_or("axis", 0);
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < sizes->size(); ++i) {
      const std::int64_t end = begin + (*sizes)[i];
      const std::string& output = names.outputs[i];
      if (!output.empty()) {
        Node slice{.op_type = "Slice", .name = split.name, .opset = split.opset};
        if (i > 0) slice.name = fresh_name(split.name + "/" + std::to_string(i));
        TEMPO_RETURN_IF_ERROR(
            add_slice(std::move(slice), names.inputs[0], {axis, begin, end}, output));
      }
      begin = end;
    }
    return {};
  }

  struct Section {
    std::int64_t axis, begin, end;
  };

  Status add_slice(Node slice, const std::string& source, const Section& section,
                   const std::string& output) {
    const std::string name = slice.name;
    return add_rewritten(std::move(slice), {{source, add_ints(name + "/starts", {section.begin}),
                                             add_ints(name + "/ends", {section.end}),
                                             add_ints(name + "/axes", {section.axis})},
                                            {output}});
  }

  // --- Sequences: of parts of one tensor, of which SequenceAt takes the parts that are wanted ---

  struct Sequence {
    std::string source;
    std::int64_t axis = 0, length = 0;  // of what is split
    std::int64_t part = 1;              // of each element but the last, unless `sizes` says
    std::vector<std::int64_t> sizes;
    bool keeps_axis = true;

    std::int64_t count() const {
      return sizes.empty() ? (length + part - 1) / part : static_cast<std::int64_t>(sizes.size());
    }
    Section section(std::int64_t index) const {
      if (sizes.empty()) {
        return {axis, index * part, index == count() - 1 ? length : (index + 1) * part};
      }
      std::int64_t begin = 0;
      for (std::int64_t i = 0; i < index; ++i) begin += sizes[static_cast<std::size_t>(i)];
      return {axis, begin, begin + sizes[static_cast<std::size_t>(index)]};
    }
  };

  Status add_sequence(const Node& split, const NodeNames& names) {
    if (names.inputs.empty() || names.inputs[0].empty() || names.inputs.size() > 2 ||
        names.outputs.size() != 1 || names.outputs[0].empty()) {
      return bad_model("a node has the wrong number of inputs or outputs", split.name);
    }
    std::string reason;
    Sequence sequence;
    sequence.source = names.inputs[0];
    sequence.axis = split.int_or("axis", 0);
    sequence.length = split_length(split, names.inputs[0], &reason);
    if (names.inputs.size() > 1 && !names.inputs[1].empty()) {
      Result<const FoldedInts*> known = values_.known_ints(&values_.at(names.inputs[1]));
      if (!known) return known.error();
      if (*known == nullptr || (*known)->depends_on_batch()) {
        reason = "the sizes of its parts are not constant";
      } else if ((*known)->is_scalar) {
        sequence.part = (*known)->at[0][0];
      } else {
        sequence.sizes = (*known)->at[0];
        if (sequence.sizes.empty()) sequence.part = 0;  // no part fits
      }
    } else {
      sequence.keeps_axis = split.int_or("keepdims", 1) != 0;
    }
    if (!reason.empty()) {
      refuse(split, reason);
      return name_outputs(names);
    }
    if (sequence.part < 1 || sequence.part > sequence.length ||
        (!sequence.sizes.empty() && !is_partition(sequence.sizes, sequence.length))) {
      return bad_model("the parts of a SplitToSequence do not fit its input", split.name,
                       std::to_string(sequence.length) + " in all");
    }
    sequences_[names.outputs[0]] = std::move(sequence);
    values_.declare_lost(names.outputs[0]);  // whoever else reads it is refused
    return {};
  }

  static bool is_partition(const std::vector<std::int64_t>& sizes, std::int64_t length) {
    std::int64_t rest = length;
    for (const std::int64_t size : sizes) {
      if (size < 1 || size > rest) return false;
      rest -= size;
    }
    return rest == 0;
  }

  Status add_element(const Node& node, const NodeNames& names) {
    if (names.inputs.size() != 2 || names.inputs[0].empty() || names.inputs[1].empty() ||
        names.outputs.size() != 1 || names.outputs[0].empty()) {
      return bad_model("a node has the wrong number of inputs or outputs", node.name);
    }
    const auto found = sequences_.find(names.inputs[0]);
    Result<const FoldedInts*> known = values_.known_ints(&values_.at(names.inputs[1]));
    if (!known) return known.error();
    const bool is_known =
        *known != nullptr && !(*known)->depends_on_batch() && (*known)->at[0].size() == 1;
    if (found == sequences_.end() || !is_known) {
      refuse(node, is_known ? "only of SplitToSequence" : "its position is not constant");
      return name_outputs(names);
    }
    const Sequence& sequence = found->second;
    std::int64_t index = (*known)->at[0][0];
    const std::int64_t count = sequence.count();
    if (index < -count || index >= count) {
      return bad_model("a sequence has no such element", node.name,
                       "below " + std::to_string(count), std::to_string(index));
    }
    if (index < 0) index += count;
    Node slice{.op_type = "Slice", .name = node.name, .opset = node.opset};
    if (sequence.keeps_axis) {
      return add_slice(std::move(slice), sequence.source, sequence.section(index),
                       names.outputs[0]);
    }
    const std::string part = fresh_name(node.name + "/part");
    TEMPO_RETURN_IF_ERROR(
        add_slice(std::move(slice), sequence.source, sequence.section(index), part));
    Node squeeze{
        .op_type = "Squeeze", .name = fresh_name(node.name + "/squeeze"), .opset = node.opset};
    squeeze.attributes["axes"] = {std::vector<std::int64_t>{sequence.axis}};
    return add_rewritten(std::move(squeeze), {{part}, names.outputs});
  }

  // Of the dimension that is split.
  std::int64_t split_length(const Node& split, const std::string& name, std::string* reason) {
    const std::optional<PerBatch<Shape>> shapes = values_.shapes_of(name);
    const auto rank = static_cast<std::int64_t>(shapes ? (*shapes)[0].size() : 0);
    const std::int64_t axis = split.int_or("axis", 0);
    if (!shapes || axis < -rank || axis >= rank) {
      *reason = shapes ? "its axis is out of range" : "the shape of its input is not known";
      return 0;
    }
    const auto dim = static_cast<std::size_t>(axis < 0 ? axis + rank : axis);
    const std::int64_t length = (*shapes)[0][dim];
    if (length != (*shapes)[1][dim]) *reason = "it splits the batch";
    return length;
  }

  // Sizes of the parts: an attribute in older opsets, an input in newer ones, else equal.
  Result<std::vector<std::int64_t>> split_sizes(const Node& split, const NodeNames& names,
                                                std::string* reason) {
    const auto parts = static_cast<std::int64_t>(names.outputs.size());
    if (names.inputs.empty() || names.inputs[0].empty() || names.inputs.size() > 2 || parts == 0) {
      return bad_model("a node has the wrong number of inputs or outputs", split.name);
    }
    std::vector<std::int64_t> sizes = split.ints_or("split", {});
    if (names.inputs.size() > 1 && !names.inputs[1].empty()) {
      Result<const FoldedInts*> known = values_.known_ints(&values_.at(names.inputs[1]));
      if (!known) return known.error();
      if (*known == nullptr || (*known)->depends_on_batch()) {
        *reason = "the sizes of its parts are not constant";
        return sizes;
      }
      sizes = (*known)->at[0];
    }
    const std::int64_t size = split_length(split, names.inputs[0], reason);
    if (!reason->empty()) return sizes;
    if (sizes.empty()) {
      const std::int64_t part = (size + parts - 1) / parts;
      for (std::int64_t i = 0; i < parts; ++i) sizes.push_back(std::min(part, size - i * part));
    }
    if (sizes.size() != names.outputs.size() || !is_partition(sizes, size)) {
      return bad_model("the parts of a Split do not fit its input", split.name,
                       std::to_string(parts) + " parts of " + std::to_string(size) + " in all",
                       shape_to_string(sizes));
    }
    return sizes;
  }

  // A constant of our own; returns its name.
  std::string add_ints(const std::string& wish, std::vector<std::int64_t> ints) {
    std::string name = fresh_name(wish);
    values_.declare_ints(name, std::move(ints));
    return name;
  }

  // The mean over both image axes: how newer exporters write global average pooling.
  Result<bool> add_mean_as_pooling(const Node& mean, const NodeNames& names) {
    if (names.inputs.empty() || names.inputs[0].empty() || names.outputs.size() != 1) return false;
    const Value& input = values_.at(names.inputs[0]);
    if (!input.is_activation()) return false;
    std::vector<std::int64_t> axes = mean.ints_or("axes", {});
    if (names.inputs.size() > 1 && !names.inputs[1].empty()) {
      Result<const FoldedInts*> known = values_.known_ints(&values_.at(names.inputs[1]));
      if (!known) return known.error();
      if (*known == nullptr || (*known)->depends_on_batch()) return false;
      axes = (*known)->at[0];
    }
    for (std::int64_t& axis : axes) axis = axis < 0 ? axis + 4 : axis;
    std::sort(axes.begin(), axes.end());
    const auto& shapes = values_.shapes(input.id);
    if (axes != std::vector<std::int64_t>{2, 3} || (shapes && (*shapes)[0].size() != 4)) {
      return false;
    }
    Node pool{.op_type = "GlobalAveragePool", .name = mean.name, .opset = mean.opset};
    if (mean.int_or("keepdims", 1) != 0) {
      TEMPO_RETURN_IF_ERROR(add_operator(std::move(pool), {{names.inputs[0]}, names.outputs}));
      return true;
    }
    const std::string pooled = fresh_name(mean.name + "/pooled");
    TEMPO_RETURN_IF_ERROR(add_operator(std::move(pool), {{names.inputs[0]}, {pooled}}));
    Node flatten{
        .op_type = "Flatten", .name = fresh_name(mean.name + "/flatten"), .opset = mean.opset};
    TEMPO_RETURN_IF_ERROR(add_operator(std::move(flatten), {{pooled}, names.outputs}));
    return true;
  }

  Status add_operator(Node node, const NodeNames& names) {
    const OpDef* op = find_op(node.op_type);
    const OpSchema* schema = find_schema(node.op_type);
    if (op == nullptr || schema == nullptr || node.opset < op->min_opset) {
      refuse(node, "");
      return name_outputs(names);
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
      if (!refusal.empty()) {
        refuse(node, refusal);
        return name_outputs(names);
      }
      computable = computable && (*input == kNoTensor || values_.shapes(*input).has_value());
      node.inputs.push_back(*input);
    }
    const std::string reason = why_not(node, names, *op);
    if (!reason.empty()) {
      refuse(node, reason);
      return name_outputs(names);
    }
    return add_result(std::move(node), names, computable);
  }

  Result<TensorId> node_input(Node* node, std::size_t input, const std::string& name,
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
  Result<TensorId> transposed_input(Node* node, std::size_t input, const std::string& name) {
    const std::string source = values_.at(name).transpose_of;
    const bool by_activation =
        !node->inputs.empty() && node->inputs[0] != kNoTensor &&
        !is_fixed(out_.graph.tensors[static_cast<std::size_t>(node->inputs[0])]);
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
  Result<TensorId> reshape_target(Node* node, const std::string& name, std::string* refusal) {
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
  TensorId lost_ints(const std::string& name) {
    return values_.add_tensor(
        Tensor{.name = name, .kind = TensorKind::kConstant, .type = DataType::kInt64, .ints = {-1}},
        std::nullopt);
  }

  Status check_type(const Node& node, const OpSchema& schema, std::size_t input, TensorId id,
                    std::string* refusal) const {
    const Tensor& tensor = out_.graph.tensors[static_cast<std::size_t>(id)];
    const char letter = schema.letter(input);
    if (std::isupper(letter) != 0 && tensor.kind != TensorKind::kConstant) {
      *refusal = "its input " + tensor.name + " is not a constant";
      return {};
    }
    const bool wants_float = std::tolower(letter) == 'f';
    if (std::tolower(letter) == 'a' || wants_float == (tensor.type == DataType::kFloat32)) {
      return {};
    }
    if (unsupported_count_ > 0) {  // perhaps only a consequence
      *refusal = "its input " + tensor.name + " has another type";
      return {};
    }
    return bad_model("a node's input has the wrong type", node.name,
                     wants_float ? "float32" : "integers or flags", tensor.name);
  }

  std::string why_not(const Node& node, const NodeNames& names, const OpDef& op) const {
    for (std::size_t i = 1; i < names.outputs.size(); ++i) {
      if (!names.outputs[i].empty() && order_.values.at(names.outputs[i]).readers > 0) {
        return "its output " + names.outputs[i] + " is used";
      }
    }
    return op.unsupported == nullptr ? "" : op.unsupported(out_.graph, node);
  }

  // The outputs beyond the first are not read by anything: the graph goes without them.
  Status add_result(Node node, const NodeNames& names, bool computable) {
    std::optional<PerBatch<Shape>> result;
    if (computable) {
      result.emplace();
      for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
        std::vector<Shape> inputs;
        for (const TensorId id : node.inputs) {
          inputs.push_back(id == kNoTensor ? Shape{} : (*values_.shapes(id))[batch]);
        }
        Result<std::vector<Shape>> outputs =
            infer_node(out_.graph, node, std::move(inputs), kProbeBatches[batch]);
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
    if (op.output_type != nullptr) tensor.type = op.output_type(out_.graph, node);
    const TensorId id = values_.add_tensor(std::move(tensor), std::move(result));
    values_.declare(names.outputs[0], id);
    node.outputs = {id};
    out_.graph.nodes.push_back(std::move(node));
    return {};
  }

  // Nodes that cannot be done still name their outputs, so that the rest can be looked at.
  Status name_outputs(const NodeNames& names) {
    for (const std::string& name : names.outputs) {
      if (name.empty()) continue;
      values_.declare(name, values_.add_tensor(Tensor{.name = name}, std::nullopt));
    }
    return {};
  }

  void refuse(const Node& node, const std::string& reason) {
    if (++unsupported_count_ > kMaxListedNodes) return;
    if (!unsupported_.empty()) unsupported_ += "; ";
    unsupported_ +=
        node.name + " (" + node.op_type + ", opset " + std::to_string(node.opset) + ", forward)";
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

  std::string fresh_name(std::string name) {
    while (order_.values.contains(name) || order_.taken_node_names.contains(name) ||
           !made_names_.insert(name).second) {
      name.push_back('_');
    }
    return name;
  }

  onnx::ModelProto& model_;
  const ImportOptions& options_;
  std::int64_t fixed_batch_ = kBatchDim;
  int position_ = 0;  // in the file, of the node that is being added
  OnnxOrder order_;
  ImportedGraph out_;
  ValueTable values_;
  std::unordered_set<std::string> made_names_;
  std::unordered_map<std::string, Sequence> sequences_;  // by the name of the value
  std::string unsupported_;
  std::size_t unsupported_count_ = 0;
};

}  // namespace

Result<ImportedGraph> import_graph(onnx::ModelProto* model, const ImportOptions& options,
                                   std::int64_t file_bytes) {
  return Importer(model, options, file_bytes).run();
}

}  // namespace tempo
