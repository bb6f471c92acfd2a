#include "enclave/graph/onnx_constant.h"

#include <onnx/onnx_pb.h>

namespace tempo {

using onnx::AttributeProto;

Result<SharedTensor> constant_node_tensor(const onnx::NodeProto& node, const std::string& where) {
  if (node.input_size() != 0 || node.output_size() != 1 || node.output(0).empty() ||
      node.attribute_size() != 1) {
    return Error{.code = ErrorCode::kBadModel,
                 .what = "a Constant node is damaged",
                 .where = where,
                 .expected = "one attribute, one output, no input"};
  }
  const AttributeProto& attribute = node.attribute(0);
  const auto is = [&attribute](const char* name, AttributeProto::AttributeType type) {
    return attribute.name() == name && attribute.type() == type;
  };
  if (is("value", AttributeProto::TENSOR)) {
    return SharedTensor(SharedTensor(), &attribute.t());
  }
  auto made = std::make_shared<onnx::TensorProto>();
  made->set_name(node.output(0));
  if (is("value_float", AttributeProto::FLOAT)) {
    made->set_data_type(onnx::TensorProto::FLOAT);
    made->add_float_data(attribute.f());
  } else if (is("value_floats", AttributeProto::FLOATS)) {
    made->set_data_type(onnx::TensorProto::FLOAT);
    made->add_dims(attribute.floats_size());
    *made->mutable_float_data() = attribute.floats();
  } else if (is("value_int", AttributeProto::INT)) {
    made->set_data_type(onnx::TensorProto::INT64);
    made->add_int64_data(attribute.i());
  } else if (is("value_ints", AttributeProto::INTS)) {
    made->set_data_type(onnx::TensorProto::INT64);
    made->add_dims(attribute.ints_size());
    *made->mutable_int64_data() = attribute.ints();
  }
  return SharedTensor(std::move(made));
}

}  // namespace tempo
