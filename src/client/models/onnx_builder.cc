#include "client/models/onnx_builder.h"

#include <onnx/onnx_pb.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/philox.h"

namespace tempo {
namespace {

constexpr int kIrVersion = 8;  // of ONNX 1.10 to 1.12, with opset 17
constexpr int kOpset = 17;

using Dims = std::vector<std::int64_t>;

std::int64_t product(const Dims& dims) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) count *= dim;
  return count;
}

void set_type(onnx::ValueInfoProto* info, const std::string& name, const Dims& dims) {
  info->set_name(name);
  auto* type = info->mutable_type()->mutable_tensor_type();
  type->set_elem_type(onnx::TensorProto::FLOAT);
  for (std::size_t i = 0; i < dims.size(); ++i) {
    auto* dim = type->mutable_shape()->add_dim();
    if (i == 0) {
      dim->set_dim_param("N");
    } else {
      dim->set_dim_value(dims[i]);
    }
  }
}

onnx::AttributeProto* add_attribute(onnx::NodeProto* node, const std::string& name,
                                    onnx::AttributeProto::AttributeType type) {
  onnx::AttributeProto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(type);
  return attribute;
}

void add_int(onnx::NodeProto* node, const std::string& name, std::int64_t value) {
  add_attribute(node, name, onnx::AttributeProto::INT)->set_i(value);
}

void add_ints(onnx::NodeProto* node, const std::string& name, const Dims& values) {
  auto* attribute = add_attribute(node, name, onnx::AttributeProto::INTS);
  for (const std::int64_t value : values) attribute->add_ints(value);
}

void add_float(onnx::NodeProto* node, const std::string& name, float value) {
  add_attribute(node, name, onnx::AttributeProto::FLOAT)->set_f(value);
}

// Uniform in (0, 1): never 0, for the logarithm.
double open_unit(std::uint32_t word) {
  return (static_cast<double>(word) + 0.5) * 0x1p-32;
}

}  // namespace

struct OnnxBuilder::Proto {
  onnx::ModelProto model;
  std::uint64_t seed = 0;
  std::uint32_t tensors = 0;  // random ones so far: each has a stream of its own

  onnx::GraphProto& graph() { return *model.mutable_graph(); }

  onnx::NodeProto* add_node(const std::string& type, const std::string& name,
                            const std::vector<std::string>& inputs) {
    onnx::NodeProto* node = graph().add_node();
    node->set_op_type(type);
    node->set_name(name);
    for (const std::string& input : inputs) node->add_input(input);
    node->add_output(name + ".out");
    return node;
  }

  void add_initializer(const std::string& name, const Dims& dims,
                       const std::vector<float>& values) {
    onnx::TensorProto* tensor = graph().add_initializer();
    tensor->set_name(name);
    tensor->set_data_type(onnx::TensorProto::FLOAT);
    for (const std::int64_t dim : dims) tensor->add_dims(dim);
    tensor->set_raw_data(values.data(), values.size() * sizeof(float));
  }

  // Four random words for every four elements.
  template <class Make>
  void add_random(const std::string& name, const Dims& dims, Make make) {
    std::vector<float> values(static_cast<std::size_t>(product(dims)));
    const std::uint32_t stream = tensors++;
    for (std::size_t i = 0; i < values.size(); i += 4) {
      const auto block = static_cast<std::uint32_t>(i / 4);
      const std::array<float, 4> four = make(
          philox4x32(seed, {block, stream, 0, static_cast<std::uint32_t>(PhiloxPurpose::kInit)}));
      std::copy_n(four.begin(), std::min<std::size_t>(4, values.size() - i),
                  values.begin() + static_cast<std::ptrdiff_t>(i));
    }
    add_initializer(name, dims, values);
  }
};

OnnxBuilder::OnnxBuilder(const std::string& graph_name, std::uint64_t seed)
    : proto_(std::make_unique<Proto>()) {
  proto_->seed = seed;
  proto_->model.set_ir_version(kIrVersion);
  proto_->model.set_producer_name("tempo");
  proto_->model.add_opset_import()->set_version(kOpset);
  proto_->graph().set_name(graph_name);
}

OnnxBuilder::~OnnxBuilder() = default;

void OnnxBuilder::set_input(const std::string& name, const Dims& dims) {
  set_type(proto_->graph().add_input(), name, dims);
}

void OnnxBuilder::set_output(const std::string& value, const std::string& name, const Dims& dims) {
  for (onnx::NodeProto& node : *proto_->graph().mutable_node()) {
    for (std::string& output : *node.mutable_output()) {
      if (output == value) output = name;
    }
  }
  set_type(proto_->graph().add_output(), name, dims);
}

std::string OnnxBuilder::conv(const std::string& name, const std::string& x, const Conv& shape) {
  // He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 14.
  const double fan_out = static_cast<double>(shape.out * shape.kernel * shape.kernel);
  std::vector<std::string> inputs = {
      x, normal(name + ".weight", {shape.out, shape.in, shape.kernel, shape.kernel},
                std::sqrt(2 / fan_out))};
  if (shape.has_bias) inputs.push_back(filled(name + ".bias", {shape.out}, 0));
  onnx::NodeProto* node = proto_->add_node("Conv", name, inputs);
  add_ints(node, "kernel_shape", {shape.kernel, shape.kernel});
  add_ints(node, "strides", {shape.stride, shape.stride});
  add_ints(node, "pads", Dims(4, shape.pad));
  return node->output(0);
}

std::string OnnxBuilder::batch_norm(const std::string& name, const std::string& x,
                                    std::int64_t channels, float weight) {
  onnx::NodeProto* node = proto_->add_node(
      "BatchNormalization", name,
      {x, filled(name + ".weight", {channels}, weight), filled(name + ".bias", {channels}, 0),
       filled(name + ".running_mean", {channels}, 0),
       filled(name + ".running_var", {channels}, 1)});
  add_float(node, "epsilon", 1e-5F);
  add_float(node, "momentum", 0.9F);
  return node->output(0);
}

std::string OnnxBuilder::layer_norm(const std::string& name, const std::string& x,
                                    std::int64_t features) {
  onnx::NodeProto* node = proto_->add_node(
      "LayerNormalization", name,
      {x, filled(name + ".weight", {features}, 1), filled(name + ".bias", {features}, 0)});
  add_int(node, "axis", -1);
  add_float(node, "epsilon", 1e-5F);
  return node->output(0);
}

std::string OnnxBuilder::linear(const std::string& name, const std::string& x, std::int64_t in,
                                std::int64_t out) {
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  const std::string weight = uniform(name + ".weight", {out, in}, bound);
  const std::string bias = uniform(name + ".bias", {out}, bound);
  onnx::NodeProto* node = proto_->add_node("Gemm", name, {x, weight, bias});
  add_int(node, "transB", 1);
  return node->output(0);
}

std::string OnnxBuilder::linear_of_rank(const std::string& name, const std::string& x,
                                        std::int64_t in, std::int64_t out) {
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  const std::string weight = uniform(name + ".weight", {in, out}, bound);
  const std::string bias = uniform(name + ".bias", {out}, bound);
  return op("Add", name + ".add", {op("MatMul", name, {x, weight}), bias});
}

std::string OnnxBuilder::op(const std::string& type, const std::string& name,
                            const std::vector<std::string>& inputs) {
  return proto_->add_node(type, name, inputs)->output(0);
}

std::string OnnxBuilder::op_with_ints(const std::string& type, const std::string& name,
                                      const std::vector<std::string>& inputs,
                                      const std::string& attribute, const Dims& values) {
  onnx::NodeProto* node = proto_->add_node(type, name, inputs);
  add_ints(node, attribute, values);
  return node->output(0);
}

std::string OnnxBuilder::op_with_int(const std::string& type, const std::string& name,
                                     const std::vector<std::string>& inputs,
                                     const std::string& attribute, std::int64_t value) {
  onnx::NodeProto* node = proto_->add_node(type, name, inputs);
  add_int(node, attribute, value);
  return node->output(0);
}

std::string OnnxBuilder::relu(const std::string& name, const std::string& x) {
  return op("Relu", name, {x});
}

std::string OnnxBuilder::ints(const std::string& name, const Dims& values) {
  onnx::TensorProto* tensor = proto_->graph().add_initializer();
  tensor->set_name(name);
  tensor->set_data_type(onnx::TensorProto::INT64);
  tensor->add_dims(static_cast<std::int64_t>(values.size()));
  for (const std::int64_t value : values) tensor->add_int64_data(value);
  return name;
}

std::string OnnxBuilder::scalar(const std::string& name, float value) {
  proto_->add_initializer(name, {}, {value});
  return name;
}

std::string OnnxBuilder::filled(const std::string& name, const Dims& dims, float value) {
  proto_->add_initializer(name, dims,
                          std::vector<float>(static_cast<std::size_t>(product(dims)), value));
  return name;
}

std::string OnnxBuilder::normal(const std::string& name, const Dims& dims, double deviation) {
  proto_->add_random(name, dims, [deviation](const std::array<std::uint32_t, 4>& words) {
    std::array<float, 4> out;
    for (std::size_t i = 0; i < 4; i += 2) {  // Box and Muller's transform
      const double radius = deviation * std::sqrt(-2 * std::log(open_unit(words[i])));
      const double angle = 2 * std::numbers::pi * open_unit(words[i + 1]);
      out[i] = static_cast<float>(radius * std::cos(angle));
      out[i + 1] = static_cast<float>(radius * std::sin(angle));
    }
    return out;
  });
  return name;
}

std::string OnnxBuilder::uniform(const std::string& name, const Dims& dims, double bound) {
  proto_->add_random(name, dims, [bound](const std::array<std::uint32_t, 4>& words) {
    std::array<float, 4> out;
    for (std::size_t i = 0; i < 4; ++i) {
      out[i] = static_cast<float>(bound * (2 * open_unit(words[i]) - 1));
    }
    return out;
  });
  return name;
}

std::vector<std::byte> OnnxBuilder::finish() const {
  std::vector<std::byte> file(proto_->model.ByteSizeLong());
  proto_->model.SerializeToArray(file.data(), static_cast<int>(file.size()));
  return file;
}

}  // namespace tempo
