#include "enclave/graph/onnx_constant.h"

#include <onnx/onnx_pb.h>

#include "enclave/graph/infer_node.h"
#include "enclave/graph/onnx_tensor.h"

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

SharedTensor expand_float(const onnx::TensorProto& value, const FoldedInts& shape,
                          const std::string& name) {
  if (value.data_type() != onnx::TensorProto::FLOAT || shape.is_scalar ||
      shape.depends_on_batch() || shape.at[0].size() > kMaxRank) {
    return nullptr;
  }
  const Result<TensorInfo> info = check_tensor(value, name);
  const std::int64_t count = bounded_element_count(shape.at[0]);
  if (!info || info->count != 1 || info->dims.size() > shape.at[0].size() || count < 1 ||
      count > kMaxExpanded) {
    return nullptr;
  }
  auto made = std::make_shared<onnx::TensorProto>();
  made->set_name(name);
  made->set_data_type(onnx::TensorProto::FLOAT);
  for (const std::int64_t dim : shape.at[0]) made->add_dims(dim);
  made->mutable_float_data()->Resize(static_cast<int>(count), read_floats(value, *info)[0]);
  return SharedTensor(std::move(made));
}

}  // namespace tempo
