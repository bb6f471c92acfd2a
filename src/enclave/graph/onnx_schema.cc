#include "enclave/graph/onnx_schema.h"

#include <onnx/onnx_pb.h>

#include <array>
#include <optional>

#include "enclave/graph/onnx_tensor.h"

namespace tempo {
namespace {

using onnx::AttributeProto;

constexpr std::array kSchemas = {
    OpSchema{"Abs", "a", 1},
    OpSchema{"Acos", "f", 1},
    OpSchema{"Acosh", "f", 1},
    OpSchema{"Add", "aa", 2},
    OpSchema{"And", "ii", 2},
    OpSchema{"ArgMax", "a", 1},
    OpSchema{"ArgMin", "a", 1},
    OpSchema{"Asin", "f", 1},
    OpSchema{"Asinh", "f", 1},
    OpSchema{"Atan", "f", 1},
    OpSchema{"Atanh", "f", 1},
    OpSchema{"AveragePool", "f", 1},
    OpSchema{"BatchNormalization", "fffff", 5},
    OpSchema{"Cast", "a", 1},
    OpSchema{"Ceil", "f", 1},
    OpSchema{"Celu", "f", 1},
    OpSchema{"Clip", "fFF", 1},
    OpSchema{"Concat", "a*", 1},
    OpSchema{"ConstantOfShape", "I", 1},
    OpSchema{"Conv", "fff", 2},
    OpSchema{"Cos", "f", 1},
    OpSchema{"Cosh", "f", 1},
    OpSchema{"CumSum", "aI", 2},
    OpSchema{"Div", "aa", 2},
    OpSchema{"Dropout", "fFI", 1},
    OpSchema{"Elu", "f", 1},
    OpSchema{"Equal", "aa", 2},
    OpSchema{"Erf", "f", 1},
    OpSchema{"Exp", "f", 1},
    OpSchema{"Expand", "aI", 2},
    OpSchema{"EyeLike", "a", 1},
    OpSchema{"Flatten", "a", 1},
    OpSchema{"Floor", "f", 1},
    OpSchema{"Gather", "ai", 2},
    OpSchema{"GatherElements", "ai", 2},
    OpSchema{"GatherND", "ai", 2},
    OpSchema{"Gelu", "f", 1},
    OpSchema{"Gemm", "fff", 2},
    OpSchema{"GlobalAveragePool", "f", 1},
    OpSchema{"Greater", "aa", 2},
    OpSchema{"GreaterOrEqual", "aa", 2},
    OpSchema{"GroupNormalization", "fff", 3},
    OpSchema{"Hardmax", "f", 1},
    OpSchema{"HardSigmoid", "f", 1},
    OpSchema{"HardSwish", "f", 1},
    OpSchema{"Identity", "a", 1},
    OpSchema{"InstanceNormalization", "fff", 3},
    OpSchema{"IsInf", "f", 1},
    OpSchema{"IsNaN", "f", 1},
    OpSchema{"LayerNormalization", "fff", 2},
    OpSchema{"LeakyRelu", "f", 1},
    OpSchema{"Less", "aa", 2},
    OpSchema{"LessOrEqual", "aa", 2},
    OpSchema{"Log", "f", 1},
    OpSchema{"LogSoftmax", "f", 1},
    OpSchema{"MatMul", "ff", 2},
    OpSchema{"Max", "aa", 2},
    OpSchema{"MaxPool", "f", 1},
    OpSchema{"Min", "aa", 2},
    OpSchema{"Mish", "f", 1},
    OpSchema{"Mod", "aa", 2},
    OpSchema{"Mul", "aa", 2},
    OpSchema{"Neg", "a", 1},
    OpSchema{"Not", "i", 1},
    OpSchema{"OneHot", "iAA", 3},
    OpSchema{"Or", "ii", 2},
    OpSchema{"Pad", "fIFI", 1},
    OpSchema{"Pow", "aa", 2},
    OpSchema{"PRelu", "ff", 2},
    OpSchema{"Range", "AAA", 3},
    OpSchema{"Reciprocal", "f", 1},
    OpSchema{"ReduceL1", "fI", 1},
    OpSchema{"ReduceL2", "fI", 1},
    OpSchema{"ReduceLogSum", "fI", 1},
    OpSchema{"ReduceLogSumExp", "fI", 1},
    OpSchema{"ReduceMax", "fI", 1},
    OpSchema{"ReduceMean", "fI", 1},
    OpSchema{"ReduceMin", "fI", 1},
    OpSchema{"ReduceProd", "fI", 1},
    OpSchema{"ReduceSum", "fI", 1},
    OpSchema{"ReduceSumSquare", "fI", 1},
    OpSchema{"Relu", "f", 1},
    OpSchema{"Reshape", "aI", 2},
    OpSchema{"Round", "f", 1},
    OpSchema{"Selu", "f", 1},
    OpSchema{"Shrink", "f", 1},
    OpSchema{"Sigmoid", "f", 1},
    OpSchema{"Sign", "f", 1},
    OpSchema{"Sin", "f", 1},
    OpSchema{"Sinh", "f", 1},
    OpSchema{"Slice", "aIIII", 1},
    OpSchema{"Softmax", "f", 1},
    OpSchema{"Softplus", "f", 1},
    OpSchema{"Softsign", "f", 1},
    OpSchema{"Sqrt", "f", 1},
    OpSchema{"Squeeze", "aI", 1},
    OpSchema{"Sub", "aa", 2},
    OpSchema{"Swish", "f", 1},
    OpSchema{"Tan", "f", 1},
    OpSchema{"Tanh", "f", 1},
    OpSchema{"ThresholdedRelu", "f", 1},
    OpSchema{"Tile", "aI", 2},
    OpSchema{"Transpose", "a", 1},
    OpSchema{"Trilu", "aI", 1},
    OpSchema{"Unsqueeze", "aI", 1},
    OpSchema{"Where", "iaa", 3},
    OpSchema{"Xor", "ii", 2},
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
    AttributeType{"batch_dims", AttributeProto::INT},
    AttributeType{"beta", AttributeProto::FLOAT},
    AttributeType{"bias", AttributeProto::FLOAT},
    AttributeType{"blocksize", AttributeProto::INT},
    AttributeType{"broadcast", AttributeProto::INT},
    AttributeType{"ceil_mode", AttributeProto::INT},
    AttributeType{"count_include_pad", AttributeProto::INT},
    AttributeType{"detect_negative", AttributeProto::INT},
    AttributeType{"detect_positive", AttributeProto::INT},
    AttributeType{"dilations", AttributeProto::INTS},
    AttributeType{"dtype", AttributeProto::INT},
    AttributeType{"end", AttributeProto::INT},
    AttributeType{"ends", AttributeProto::INTS},
    AttributeType{"epsilon", AttributeProto::FLOAT},
    AttributeType{"exclusive", AttributeProto::INT},
    AttributeType{"fmod", AttributeProto::INT},
    AttributeType{"gamma", AttributeProto::FLOAT},
    AttributeType{"group", AttributeProto::INT},
    AttributeType{"is_causal", AttributeProto::INT},
    AttributeType{"is_test", AttributeProto::INT},
    AttributeType{"k", AttributeProto::INT},
    AttributeType{"keepdims", AttributeProto::INT},
    AttributeType{"kernel_shape", AttributeProto::INTS},
    AttributeType{"kv_num_heads", AttributeProto::INT},
    AttributeType{"lambd", AttributeProto::FLOAT},
    AttributeType{"max", AttributeProto::FLOAT},
    AttributeType{"min", AttributeProto::FLOAT},
    AttributeType{"mode", AttributeProto::STRING},
    AttributeType{"momentum", AttributeProto::FLOAT},
    AttributeType{"noop_with_empty_axes", AttributeProto::INT},
    AttributeType{"num_groups", AttributeProto::INT},
    AttributeType{"num_outputs", AttributeProto::INT},
    AttributeType{"pads", AttributeProto::INTS},
    AttributeType{"perm", AttributeProto::INTS},
    AttributeType{"q_num_heads", AttributeProto::INT},
    AttributeType{"ratio", AttributeProto::FLOAT},
    AttributeType{"reverse", AttributeProto::INT},
    AttributeType{"scale", AttributeProto::FLOAT},
    AttributeType{"seed", AttributeProto::INT},
    AttributeType{"select_last_index", AttributeProto::INT},
    AttributeType{"softcap", AttributeProto::FLOAT},
    AttributeType{"spatial", AttributeProto::INT},
    AttributeType{"split", AttributeProto::INTS},
    AttributeType{"start", AttributeProto::INT},
    AttributeType{"starts", AttributeProto::INTS},
    AttributeType{"stash_type", AttributeProto::INT},
    AttributeType{"storage_order", AttributeProto::INT},
    AttributeType{"strides", AttributeProto::INTS},
    AttributeType{"to", AttributeProto::INT},
    AttributeType{"training_mode", AttributeProto::INT},
    AttributeType{"transA", AttributeProto::INT},
    AttributeType{"transB", AttributeProto::INT},
    AttributeType{"upper", AttributeProto::INT},
};

// A tensor of numbers; nothing for any other.
std::optional<Attribute> convert_tensor(const onnx::TensorProto& proto) {
  const Result<TensorInfo> info = check_tensor(proto, proto.name());
  if (!info) return std::nullopt;
  Tensor tensor{.kind = TensorKind::kConstant, .type = info->type, .declared = info->dims};
  if (info->type == DataType::kFloat32) {
    tensor.floats = read_floats(proto, *info);
  } else {
    tensor.ints = read_ints(proto, *info);
  }
  return Attribute{std::move(tensor)};
}

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
    case AttributeProto::TENSOR:
      return convert_tensor(proto.t());
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
