#include "enclave/graph/value_table.h"

#include <onnx/onnx_pb.h>

#include <algorithm>

#include "enclave/graph/onnx_tensor.h"
#include "enclave/graph/storage.h"

namespace tempo {
namespace {

// What copies may take beyond the size of the file. Batch normalisation's vectors, the usual case,
// are short.
constexpr std::int64_t kSpareCopyBytes = std::int64_t{16} << 20;

bool is_float(const onnx::TensorProto* tensor) {
  return tensor != nullptr && tensor->data_type() == onnx::TensorProto::FLOAT;
}

// Of float32 payloads. Damaged ones are found when the tensor is read.
bool has_equal_elements(const onnx::TensorProto& tensor) {
  const auto& floats = tensor.float_data();
  const std::string& raw = tensor.raw_data();
  const auto is_first = [&](float value) { return value == floats[0]; };
  return std::all_of(floats.begin(), floats.end(), is_first) &&
         (raw.size() <= sizeof(float) ||
          raw.compare(sizeof(float), std::string::npos, raw, 0, raw.size() - sizeof(float)) == 0);
}

}  // namespace

ValueTable::ValueTable(Graph* graph, std::int64_t file_bytes)
    : graph_(*graph), copy_budget_(file_bytes + kSpareCopyBytes) {}

void ValueTable::declare_initializers(const onnx::GraphProto& file) {
  for (int i = 0; i < file.initializer_size(); ++i) {
    Value& value = values_[file.initializer(i).name()];
    value.constant = &file.initializer(i);
    value.initializer = i;
    value.is_trainable = true;
  }
}

Status ValueTable::declare_constant(const onnx::NodeProto& node, const std::string& where,
                                    int position) {
  Result<SharedTensor> tensor = constant_node_tensor(node, where);
  if (!tensor) return tensor.error();
  Value& value = values_[node.output(0)];
  value.constant = tensor->get();
  value.node = position;
  made_.push_back(std::move(*tensor));
  return {};
}

TensorId ValueTable::add_tensor(Tensor tensor, std::optional<PerBatch<Shape>> shapes) {
  graph_.tensors.push_back(std::move(tensor));
  shapes_.push_back(std::move(shapes));
  return static_cast<TensorId>(graph_.tensors.size() - 1);
}

Result<const FoldedInts*> ValueTable::known_ints(Value* value) {
  if (!value->ints && value->constant != nullptr && !is_float(value->constant) &&
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

const std::string& ValueTable::tied_to(const std::string& name) const {
  const auto tie = ties_.find(name);
  return tie == ties_.end() ? name : tie->second;
}

Result<TensorId> ValueTable::constant_tensor(const std::string& used_name, const Role& role) {
  const std::string& name = tied_to(used_name);
  Value& value = values_.at(name);
  if (value.id != kNoTensor) {
    const Tensor& tensor = graph_.tensors[static_cast<std::size_t>(value.id)];
    if (tensor.kind != role.kind || tensor.storage != role.storage ||
        role.kind == TensorKind::kStatistic) {
      return Error{.code = ErrorCode::kUnsupportedModel,
                   .what = "a tensor is used in two ways that exclude each other",
                   .where = name,
                   .next_step = "give each use an initializer of its own"};
    }
    return value.id;
  }
  Tensor tensor{.name = name, .kind = role.kind, .storage = role.storage};
  TEMPO_RETURN_IF_ERROR(fill_constant(name, value, role, &tensor));
  const bool goes_back = role.kind != TensorKind::kConstant && tensor.type == DataType::kFloat32;
  const Shape dims = tensor.declared;
  value.id = add_tensor(std::move(tensor), PerBatch<Shape>{dims, dims});
  if (goes_back) homes_.push_back({value.id, value.initializer, value.node, name, dims});
  return value.id;
}

Status ValueTable::fill_constant(const std::string& name, const Value& value, const Role& role,
                                 Tensor* tensor) {
  if (value.constant == nullptr) {  // integers that were computed from shapes
    TEMPO_ASSERT(value.ints && !value.ints->depends_on_batch());
    tensor->type = DataType::kInt64;
    tensor->ints = value.ints->at[0];
    if (!value.ints->is_scalar) {
      tensor->declared = {static_cast<std::int64_t>(tensor->ints.size())};
    }
    return {};
  }
  Result<TensorInfo> info = check_tensor(*value.constant, name);
  if (!info) return info.error();
  if (role.kind != TensorKind::kConstant && info->count == 0) {
    return Error{.code = ErrorCode::kBadModel,
                 .what = "a parameter is empty",
                 .where = name,
                 .got = shape_to_string(info->dims)};
  }
  if (value.is_copy) {
    copy_budget_ -= info->count * 8;
    if (copy_budget_ < 0) {
      return Error{.code = ErrorCode::kUnsupportedModel,
                   .what = "Identity nodes copy too many parameters",
                   .where = name,
                   .next_step = "export the model without sharing initializers"};
    }
  }
  tensor->type = info->type;
  tensor->declared = info->dims;
  if (info->type == DataType::kFloat32) {
    tensor->floats = to_storage(read_floats(*value.constant, *info), info->dims, role.storage);
  } else {
    tensor->ints = read_ints(*value.constant, *info);
  }
  return {};
}

bool ValueTable::is_computed_zero(const Value& value) const {
  if (!value.is_computed || !is_float(value.constant)) return false;
  const auto& data = value.constant->float_data();
  return !value.constant->has_raw_data() && !data.empty() &&
         std::all_of(data.begin(), data.end(), [](float element) { return element == 0.0F; });
}

Result<bool> ValueTable::absorb(const Node& node, const onnx::NodeProto& proto, int position) {
  if (proto.input_size() < 1 || proto.input(0).empty() || proto.output_size() != 1 ||
      proto.output(0).empty()) {
    return false;
  }
  if (alias_constant(node, proto, position) || shape_of(node, proto)) return true;
  Result<bool> done = alias_activation(node, proto);
  if (!done || *done) return done;
  done = expand(node, proto);
  if (!done || *done) return done;
  return fold(node, proto);
}

// PyTorch's exporter writes parameters that were equal at export time as one initializer and
// Identity nodes. Those whose elements all are one number are fresh (of batch normalisations, say)
// and trained separately, so each gets a tensor of its own; others can only be equal because they
// are one parameter, tied. CastLike stands before constants that newer versions write.
bool ValueTable::alias_constant(const Node& node, const onnx::NodeProto& proto, int position) {
  const Value& source = at(proto.input(0));
  if (source.constant == nullptr) return false;
  const bool is_identity = node.op_type == "Identity" && proto.input_size() == 1;
  bool is_cast = is_float(source.constant) && node.op_type == "Cast" &&
                 node.int_or("to", 0) == onnx::TensorProto::FLOAT;
  if (is_float(source.constant) && node.op_type == "CastLike" && proto.input_size() == 2 &&
      !proto.input(1).empty()) {
    const Value& like = at(proto.input(1));
    is_cast = like.is_activation() || is_float(like.constant);
  }
  if (!is_identity && !is_cast) return false;
  if (is_identity && source.is_trainable && is_float(source.constant) &&
      !has_equal_elements(*source.constant)) {
    ties_.emplace(proto.output(0), tied_to(proto.input(0)));
    values_[proto.output(0)];  // the name is taken
    return true;
  }
  Value alias;
  alias.constant = source.constant;
  alias.ints = source.ints;
  alias.node = position;
  alias.is_trainable = source.is_trainable && is_identity;
  alias.is_computed = source.is_computed || is_cast;
  alias.is_copy = true;
  values_[proto.output(0)] = std::move(alias);
  return true;
}

// PyTorch 1 writes a Pad by nothing before average pooling.
Result<bool> ValueTable::alias_activation(const Node& node, const onnx::NodeProto& proto) {
  const Value& source = at(proto.input(0));
  if (!source.is_activation()) return false;
  bool is_nothing = node.op_type == "Cast" && node.int_or("to", 0) == onnx::TensorProto::FLOAT;
  if (node.op_type == "Pad") {
    std::vector<std::int64_t> pads = node.ints_or("pads", {});
    if (proto.input_size() > 1 && !proto.input(1).empty()) {
      Result<const FoldedInts*> known = known_ints(&at(proto.input(1)));
      if (!known) return known.error();
      pads.clear();
      if (*known != nullptr && !(*known)->depends_on_batch()) pads = (*known)->at[0];
    }
    is_nothing = !pads.empty() &&
                 std::all_of(pads.begin(), pads.end(), [](std::int64_t pad) { return pad == 0; });
  }
  if (!is_nothing) return false;
  const TensorId id = source.id;
  declare(proto.output(0), id);
  return true;
}

Result<bool> ValueTable::expand(const Node& node, const onnx::NodeProto& proto) {
  const Value& source = at(proto.input(0));
  if (node.op_type != "Expand" || proto.input_size() != 2 || proto.input(1).empty() ||
      !is_float(source.constant)) {
    return false;
  }
  Result<const FoldedInts*> shape = known_ints(&at(proto.input(1)));
  if (!shape) return shape.error();
  if (*shape == nullptr) return false;
  SharedTensor made = expand_float(*source.constant, **shape, proto.output(0));
  if (made == nullptr) return false;
  copy_budget_ -= made->float_data_size() * 8;
  if (copy_budget_ < 0) return false;
  Value value;
  value.constant = made.get();
  value.is_computed = true;
  values_[proto.output(0)] = std::move(value);
  made_.push_back(std::move(made));
  return true;
}

bool ValueTable::shape_of(const Node& node, const onnx::NodeProto& proto) {
  if (node.op_type != "Shape" || proto.input_size() != 1) return false;
  const Value& source = at(proto.input(0));
  PerBatch<Shape> shape;
  if (source.id != kNoTensor) {
    if (!shapes(source.id)) {
      values_[proto.output(0)].is_lost = true;
      return true;
    }
    shape = *shapes(source.id);
  } else if (source.constant != nullptr &&
             source.constant->dims_size() <= static_cast<int>(kMaxRank)) {
    const auto& dims = source.constant->dims();
    shape.fill(Shape(dims.begin(), dims.end()));
  } else {
    return false;
  }
  values_[proto.output(0)].ints = fold_shape(node, shape);
  return true;
}

Result<bool> ValueTable::fold(const Node& node, const onnx::NodeProto& proto) {
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
    Value& value = at(name);
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

}  // namespace tempo
