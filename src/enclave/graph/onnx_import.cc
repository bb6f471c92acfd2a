#include "enclave/graph/onnx_import.h"

#include <onnx/onnx_pb.h>

#include <optional>
#include <utility>

#include "enclave/graph/onnx_error.h"
#include "enclave/graph/onnx_inputs.h"
#include "enclave/graph/onnx_nodes.h"
#include "enclave/graph/onnx_order.h"
#include "enclave/graph/onnx_rewrite.h"
#include "enclave/graph/onnx_schema.h"
#include "enclave/graph/value_table.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

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

// Outputs are in ONNX's order and made by a node, whatever else touches them.
Result<TensorId> output_tensor(const std::string& name, std::size_t rank, NodeImporter* nodes,
                               ValueTable* values, Graph* graph) {
  const TensorId id = values->at(name).id;
  const bool is_made = id != kNoTensor &&
                       graph->tensors[static_cast<std::size_t>(id)].kind == TensorKind::kActivation;
  if (is_made && rank != 4) return id;
  Node identity{
      .op_type = "Identity", .name = nodes->fresh_name(name + "/output"), .opset = graph->opset};
  const std::string result = nodes->fresh_name(name + "/result");
  TEMPO_RETURN_IF_ERROR(nodes->add_operator(std::move(identity), {{name}, {result}}));
  const TensorId made = values->at(result).id;
  graph->tensors[static_cast<std::size_t>(made)].name = name;
  return made;
}

Status add_outputs(const onnx::GraphProto& file, bool has_batch, NodeImporter* nodes,
                   ValueTable* values, Graph* graph) {
  if (file.output_size() == 0) return bad_model("the graph has no output", "");
  for (const onnx::ValueInfoProto& output : file.output()) {
    const std::string& name = output.name();
    if (nodes->is_sequence(name)) {
      return unsupported_model("a graph output is a sequence", name,
                               "give its elements as outputs");
    }
    const std::optional<PerBatch<Shape>> shapes = values->shapes_of(name);
    if (!shapes || (!values->at(name).is_activation() && has_batch)) {
      return unsupported_model("a graph output does not depend on the input", name,
                               "remove that output");
    }
    for (std::size_t batch = 0; has_batch && batch < kProbeBatches.size(); ++batch) {
      if ((*shapes)[batch].empty() || (*shapes)[batch][0] != kProbeBatches[batch]) {
        return unsupported_model("a graph output does not have the batch as first dimension", name,
                                 "export the model with a symbolic batch size");
      }
    }
    Result<TensorId> id = output_tensor(name, (*shapes)[0].size(), nodes, values, graph);
    if (!id) return id.error();
    graph->outputs.push_back(*id);
  }
  return {};
}

// A mask that is compared, say: no training would change it, but weight decay would.
void hold_what_no_gradient_reaches(Graph* graph) {
  std::vector<bool> reached(graph->tensors.size(), false);
  for (const TensorId id : graph->outputs) reached[static_cast<std::size_t>(id)] = true;
  for (std::size_t n = graph->nodes.size(); n-- > 0;) {
    const Node& node = graph->nodes[n];
    const auto result = static_cast<std::size_t>(node.outputs[0]);
    const bool passes_on =
        graph->tensors[result].type == DataType::kFloat32 && has_gradient(*find_op(node.op_type));
    if (!reached[result] || !passes_on) continue;
    for (const TensorId id : node.inputs) {
      if (id != kNoTensor) reached[static_cast<std::size_t>(id)] = true;
    }
  }
  for (std::size_t id = 0; id < reached.size(); ++id) {
    Tensor& tensor = graph->tensors[id];
    if (tensor.kind == TensorKind::kParameter && !reached[id]) tensor.kind = TensorKind::kConstant;
  }
}

}  // namespace

Result<ImportedGraph> import_graph(onnx::ModelProto* model, const ImportOptions& options,
                                   std::int64_t file_bytes) {
  if (!model->has_graph()) return bad_model("the model has no graph", "");
  const onnx::GraphProto& file = model->graph();
  if (file.sparse_initializer_size() > 0) {
    return unsupported_model("sparse initializers are not supported",
                             file.sparse_initializer(0).values().name(),
                             "export the model with dense weights");
  }
  Result<int> opset = model_opset(*model);
  if (!opset) return opset.error();
  const Result<OnnxOrder> order = order_nodes(file);
  if (!order) return order.error();

  ImportedGraph out;
  Graph& graph = out.graph;
  graph.name = file.name();
  graph.opset = *opset;
  ValueTable values(&graph, file_bytes);
  values.declare_initializers(file);
  const Result<std::int64_t> fixed_batch = import_inputs(file, options, &values, &graph);
  if (!fixed_batch) return fixed_batch.error();
  NodeImporter nodes(*order, *fixed_batch, &values, &graph);
  for (const int position : order->order) {
    TEMPO_RETURN_IF_ERROR(nodes.add(file.node(position), position));
  }
  TEMPO_RETURN_IF_ERROR(nodes.refused());
  TEMPO_RETURN_IF_ERROR(add_outputs(file, options.has_batch, &nodes, &values, &graph));
  hold_what_no_gradient_reaches(&graph);
  out.homes = rewrite_for_export(model, order->order, values.take_homes());
  return out;
}

}  // namespace tempo
