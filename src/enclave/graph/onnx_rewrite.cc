#include "enclave/graph/onnx_rewrite.h"

#include <onnx/onnx_pb.h>

#include <algorithm>
#include <unordered_set>

#include "enclave/graph/onnx_tensor.h"

namespace tempo {
namespace {

template <class T, class Predicate>
void erase_if(google::protobuf::RepeatedPtrField<T>* list, Predicate predicate) {
  list->erase(std::remove_if(list->begin(), list->end(), predicate), list->end());
}

void add_initializer(onnx::ModelProto* model, const PendingHome& home) {
  onnx::TensorProto* tensor = model->mutable_graph()->add_initializer();
  tensor->set_name(home.name);
  tensor->set_data_type(onnx::TensorProto::FLOAT);
  for (const std::int64_t dim : home.dims) tensor->add_dims(dim);
  if (model->ir_version() >= 4) return;
  // Before IR 4, every initializer is a graph input as well.
  onnx::ValueInfoProto* input = model->mutable_graph()->add_input();
  input->set_name(home.name);
  auto* type = input->mutable_type()->mutable_tensor_type();
  type->set_elem_type(onnx::TensorProto::FLOAT);
  type->mutable_shape();
  for (const std::int64_t dim : home.dims) type->mutable_shape()->add_dim()->set_dim_value(dim);
}

// Before opset 7, its absence means training.
void set_test_flag(onnx::NodeProto* node) {
  erase_if(node->mutable_attribute(),
           [](const onnx::AttributeProto& attribute) { return attribute.name() == "is_test"; });
  onnx::AttributeProto* attribute = node->add_attribute();
  attribute->set_name("is_test");
  attribute->set_type(onnx::AttributeProto::INT);
  attribute->set_i(1);
}

}  // namespace

std::vector<PayloadHome> rewrite_for_export(onnx::ModelProto* model, const std::vector<int>& order,
                                            std::vector<PendingHome> pending) {
  onnx::GraphProto* graph = model->mutable_graph();
  std::vector<bool> removed(static_cast<std::size_t>(graph->node_size()), false);
  std::vector<PayloadHome> homes;
  for (PendingHome& home : pending) {
    if (home.initializer < 0) {
      removed[static_cast<std::size_t>(home.node)] = true;
      home.initializer = graph->initializer_size();
      add_initializer(model, home);
    }
    homes.push_back({home.tensor, home.initializer});
    drop_payload(graph->mutable_initializer(home.initializer));
  }
  google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
  for (const int position : order) {
    if (removed[static_cast<std::size_t>(position)]) continue;
    nodes.Add()->Swap(graph->mutable_node(position));
  }
  graph->mutable_node()->Swap(&nodes);
  return homes;
}

void to_inference_form(onnx::ModelProto* model) {
  const auto opset = std::ranges::find_if(model->opset_import(), [](const auto& import) {
    return import.domain().empty() || import.domain() == "ai.onnx";
  });
  const bool has_test_flag = opset != model->opset_import().end() && opset->version() < 7;
  std::unordered_set<std::string> dropped;  // results that exist in training only
  for (onnx::NodeProto& node : *model->mutable_graph()->mutable_node()) {
    const bool is_norm = node.op_type() == "BatchNormalization";
    if (has_test_flag && (is_norm || node.op_type() == "Dropout")) set_test_flag(&node);
    if (is_norm) {
      erase_if(node.mutable_attribute(), [](const onnx::AttributeProto& attribute) {
        return attribute.name() == "training_mode";  // absent means inference
      });
      dropped.insert(node.output().begin() + 1, node.output().end());
      node.mutable_output()->DeleteSubrange(1, node.output_size() - 1);
    } else if (node.op_type() == "Dropout" && node.input_size() > 2) {
      node.mutable_input()->DeleteSubrange(2, node.input_size() - 2);  // the training flag
    }
  }
  erase_if(model->mutable_graph()->mutable_value_info(),
           [&](const onnx::ValueInfoProto& info) { return dropped.contains(info.name()); });
}

}  // namespace tempo
