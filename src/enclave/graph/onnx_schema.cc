#include "enclave/graph/onnx_schema.h"

#include <onnx/onnx_pb.h>

#include <array>
#include <optional>

namespace tempo {
namespace {

using onnx::AttributeProto;

constexpr std::array kSchemas = {
    OpSchema{"Abs", "f", 1},
    OpSchema{"Add", "ff", 2},
    OpSchema{"AveragePool", "f", 1},
    OpSchema{"BatchNormalization", "fffff", 5},
    OpSchema{"Clip", "fff", 1},
    OpSchema{"Conv", "fff", 2},
    OpSchema{"Div", "ff", 2},
    OpSchema{"Dropout", "ffi", 1},
    OpSchema{"Elu", "f", 1},
    OpSchema{"Erf", "f", 1},
    OpSchema{"Exp", "f", 1},
    OpSchema{"Flatten", "f", 1},
    OpSchema{"Gelu", "f", 1},
    OpSchema{"Gemm", "fff", 2},
    OpSchema{"GlobalAveragePool", "f", 1},
    OpSchema{"HardSigmoid", "f", 1},
    OpSchema{"HardSwish", "f", 1},
    OpSchema{"Identity", "f", 1},
    OpSchema{"LayerNormalization", "fff", 2},
    OpSchema{"LeakyRelu", "f", 1},
    OpSchema{"Log", "f", 1},
    OpSchema{"MatMul", "ff", 2},
    OpSchema{"Max", "ff", 2},
    OpSchema{"MaxPool", "f", 1},
    OpSchema{"Min", "ff", 2},
    OpSchema{"Mul", "ff", 2},
    OpSchema{"Neg", "f", 1},
    OpSchema{"Pow", "ff", 2},
    OpSchema{"Reciprocal", "f", 1},
    OpSchema{"ReduceMean", "fi", 1},
    OpSchema{"ReduceSum", "fi", 1},
    OpSchema{"Relu", "f", 1},
    OpSchema{"Reshape", "fi", 2},
    OpSchema{"Sigmoid", "f", 1},
    OpSchema{"Softmax", "f", 1},
    OpSchema{"Sqrt", "f", 1},
    OpSchema{"Sub", "ff", 2},
    OpSchema{"Tanh", "f", 1},
    OpSchema{"Transpose", "f", 1},
};

struct AttributeType {
  std::string_view name;
  AttributeProto::AttributeType type;
};

// In ONNX, a name has the same type with every operator above and every operator that is folded.
constexpr std::array kAttributeTypes = {
    AttributeType{"allowzero", AttributeProto::INT},
    AttributeType{"alpha", AttributeProto::FLOAT},
    AttributeType{"approximate", AttributeProto::STRING},
    AttributeType{"auto_pad", AttributeProto::STRING},
    AttributeType{"axes", AttributeProto::INTS},
    AttributeType{"axis", AttributeProto::INT},
    AttributeType{"beta", AttributeProto::FLOAT},
    AttributeType{"ceil_mode", AttributeProto::INT},
    AttributeType{"count_include_pad", AttributeProto::INT},
    AttributeType{"dilations", AttributeProto::INTS},
    AttributeType{"end", AttributeProto::INT},
    AttributeType{"ends", AttributeProto::INTS},
    AttributeType{"epsilon", AttributeProto::FLOAT},
    AttributeType{"group", AttributeProto::INT},
    AttributeType{"keepdims", AttributeProto::INT},
    AttributeType{"kernel_shape", AttributeProto::INTS},
    AttributeType{"max", AttributeProto::FLOAT},
    AttributeType{"min", AttributeProto::FLOAT},
    AttributeType{"momentum", AttributeProto::FLOAT},
    AttributeType{"noop_with_empty_axes", AttributeProto::INT},
    AttributeType{"pads", AttributeProto::INTS},
    AttributeType{"perm", AttributeProto::INTS},
    AttributeType{"ratio", AttributeProto::FLOAT},
    AttributeType{"seed", AttributeProto::INT},
    AttributeType{"spatial", AttributeProto::INT},
    AttributeType{"stash_type", AttributeProto::INT},
    AttributeType{"start", AttributeProto::INT},
    AttributeType{"starts", AttributeProto::INTS},
    AttributeType{"storage_order", AttributeProto::INT},
    AttributeType{"strides", AttributeProto::INTS},
    AttributeType{"to", AttributeProto::INT},
    AttributeType{"training_mode", AttributeProto::INT},
    AttributeType{"transA", AttributeProto::INT},
    AttributeType{"transB", AttributeProto::INT},
};

std::optional<Attribute> convert(const AttributeProto& proto) {
  switch (proto.type()) {
    case AttributeProto::INT:
      return Attribute{std::int64_t{proto.i()}};
    case AttributeProto::FLOAT:
      return Attribute{proto.f()};
    case AttributeProto::STRING:
      return Attribute{proto.s()};
    case AttributeProto::INTS:
      return Attribute{std::vector<std::int64_t>(proto.ints().begin(), proto.ints().end())};
    case AttributeProto::FLOATS:
      return Attribute{std::vector<float>(proto.floats().begin(), proto.floats().end())};
    default:
      return std::nullopt;
  }
}

}  // namespace

const OpSchema* find_schema(std::string_view onnx_type) {
  for (const OpSchema& schema : kSchemas) {
    if (schema.type == onnx_type) return &schema;
  }
  return nullptr;
}

Status read_attributes(const onnx::NodeProto& proto, Node* node) {
  for (const AttributeProto& attribute : proto.attribute()) {
    for (const AttributeType& known : kAttributeTypes) {
      if (known.name == attribute.name() && known.type != attribute.type()) {
        return Error{.code = ErrorCode::kBadModel,
                     .what = "attribute " + attribute.name() + " has the wrong type",
                     .where = node->name,
                     .expected = AttributeProto::AttributeType_Name(known.type),
                     .got = AttributeProto::AttributeType_Name(attribute.type())};
      }
    }
    std::optional<Attribute> value = convert(attribute);
    if (!value) continue;
    if (!node->attributes.emplace(attribute.name(), std::move(*value)).second) {
      return Error{.code = ErrorCode::kBadModel,
                   .what = "attribute " + attribute.name() + " is there twice",
                   .where = node->name};
    }
  }
  return {};
}

}  // namespace tempo
