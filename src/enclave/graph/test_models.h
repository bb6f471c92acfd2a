// File: enclave/graph/test_models.h
// Small ONNX models for the tests of this directory.
#pragma once

#include <onnx/onnx_pb.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "enclave/graph/onnx.h"

namespace tempo::test {

inline std::vector<std::byte> to_bytes(const onnx::ModelProto& model) {
  const std::string text = model.SerializeAsString();
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

inline onnx::ModelProto from_bytes(const std::vector<std::byte>& bytes) {
  onnx::ModelProto model;
  model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  return model;
}

inline std::vector<std::byte> read_fixture(const std::string& name) {
  std::ifstream file(std::string(TEMPO_SOURCE_DIR) + "/tests/fixtures/onnx/" + name,
                     std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

inline Result<OnnxModel> import_model(const onnx::ModelProto& model, ImportOptions options = {}) {
  return OnnxModel::import(to_bytes(model), options);
}

// A dimension of 0 is written as the symbol N.
inline void set_value_info(onnx::ValueInfoProto* info, const std::string& name, const Shape& dims,
                           int type = onnx::TensorProto::FLOAT) {
  info->set_name(name);
  info->clear_type();
  auto* tensor = info->mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(type);
  tensor->mutable_shape();
  for (const std::int64_t dim : dims) {
    auto* proto = tensor->mutable_shape()->add_dim();
    dim == 0 ? proto->set_dim_param("N") : proto->set_dim_value(dim);
  }
}

inline onnx::ModelProto empty_model(const Shape& input, int opset = 13) {
  onnx::ModelProto model;
  model.set_ir_version(8);
  model.add_opset_import()->set_version(opset);
  model.mutable_graph()->set_name("test");
  set_value_info(model.mutable_graph()->add_input(), "x", input);
  return model;
}

inline void add_output(onnx::ModelProto* model, const std::string& name) {
  onnx::ValueInfoProto* output = model->mutable_graph()->add_output();
  output->set_name(name);
  output->mutable_type()->mutable_tensor_type()->set_elem_type(onnx::TensorProto::FLOAT);
}

inline onnx::NodeProto* add_node(onnx::ModelProto* model, const std::string& type,
                                 const std::vector<std::string>& inputs,
                                 const std::vector<std::string>& outputs) {
  onnx::NodeProto* node = model->mutable_graph()->add_node();
  node->set_op_type(type);
  node->set_name(outputs.empty() ? "" : outputs[0] + "_node");
  for (const std::string& name : inputs) node->add_input(name);
  for (const std::string& name : outputs) node->add_output(name);
  return node;
}

inline void add_int(onnx::NodeProto* node, const std::string& name, std::int64_t value) {
  onnx::AttributeProto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(onnx::AttributeProto::INT);
  attribute->set_i(value);
}

// Elements 1, 2, 3, ...
inline onnx::TensorProto* add_floats(onnx::ModelProto* model, const std::string& name,
                                     const Shape& dims) {
  onnx::TensorProto* tensor = model->mutable_graph()->add_initializer();
  tensor->set_name(name);
  tensor->set_data_type(onnx::TensorProto::FLOAT);
  for (const std::int64_t dim : dims) tensor->add_dims(dim);
  for (std::int64_t i = 0; i < element_count(dims); ++i) {
    tensor->add_float_data(static_cast<float>(i + 1));
  }
  return tensor;
}

inline onnx::TensorProto* add_ints(onnx::ModelProto* model, const std::string& name,
                                   const std::vector<std::int64_t>& values) {
  onnx::TensorProto* tensor = model->mutable_graph()->add_initializer();
  tensor->set_name(name);
  tensor->set_data_type(onnx::TensorProto::INT64);
  tensor->add_dims(static_cast<std::int64_t>(values.size()));
  for (const std::int64_t value : values) tensor->add_int64_data(value);
  return tensor;
}

// x (N,4) -> Gemm (3 outputs, transB) -> Relu -> y.
inline onnx::ModelProto small_model() {
  onnx::ModelProto model = empty_model({0, 4});
  add_floats(&model, "w", {3, 4});
  add_floats(&model, "b", {3});
  add_int(add_node(&model, "Gemm", {"x", "w", "b"}, {"z"}), "transB", 1);
  add_node(&model, "Relu", {"z"}, {"y"});
  add_output(&model, "y");
  return model;
}

}  // namespace tempo::test
