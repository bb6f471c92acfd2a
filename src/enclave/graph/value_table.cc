#include "enclave/graph/value_table.h"

#include <onnx/onnx_pb.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "enclave/graph/evaluate.h"
#include "enclave/graph/onnx_parse.h"
#include "enclave/graph/onnx_schema.h"
#include "enclave/graph/onnx_tensor.h"
#include "enclave/graph/storage.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

// What copies may take beyond the size of the file. Batch normalisation's vectors, the usual case,
// are short.
constexpr std::int64_t kSpareCopyBytes = std::int64_t{16} << 20;
// Layers that a file may have as copies of one.
constexpr std::int64_t kMaxCopies = 64;

bool is_float(const onnx::TensorProto* tensor) {
  return tensor != nullptr && tensor->data_type() == onnx::TensorProto::FLOAT;
}

// Operators whose operands are trained when they are initializers: biases, scales, slopes,
// embeddings, and what is moved about before it becomes one. A number that somebody wrote into the
// network's code is a Constant node or a scalar: PyTorch writes group normalisation as an
// InstanceNormalization by such ones and zeros.
constexpr std::array<std::string_view, 16> kMayTrain = {"Add",       "Concat",
                                                        "Expand",    "Flatten",
                                                        "Gather",    "GroupNormalization",
                                                        "Identity",  "InstanceNormalization",
                                                        "Mul",       "PRelu",
                                                        "Pad",       "Reshape",
                                                        "Slice",     "Squeeze",
                                                        "Transpose", "Unsqueeze"};

// Of float32 payloads. Damaged ones are found when the tensor is read.
bool has_equal_elements(const onnx::TensorProto& tensor) {
  const auto& floats = tensor.float_data();
  const std::string& raw = tensor.raw_data();
  const auto is_first = [&](float value) { return value == floats[0]; };
  return std::all_of(floats.begin(), floats.end(), is_first) &&
         (raw.size() <= sizeof(float) ||
          raw.compare(sizeof(float), std::string::npos, raw, 0, raw.size() - sizeof(float)) == 0);
}

// Names of parameters of repeated layers, such as layers.0.weight and layers.11.weight.
bool differ_in_numbers_alone(std::string_view a, std::string_view b) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      while (i < a.size() && is_digit(a[i])) ++i;
      while (j < b.size() && is_digit(b[j])) ++j;
    } else if (a[i++] != b[j++]) {
      return false;
    }
  }
  return i == a.size() && j == b.size();
}

// An attention mask: float32 numbers that stand for minus infinity. Training would change the
// others.
bool is_mask(const onnx::TensorProto& tensor) {
  constexpr float kLargest = 1e30F;  // of any weight
  const Result<TensorInfo> info = check_tensor(tensor, tensor.name());
  if (!info || info->type != DataType::kFloat32) return false;
  const std::vector<float> values = read_floats(tensor, *info);
  return std::any_of(values.begin(), values.end(),
                     [](float value) { return !(std::abs(value) < kLargest); });
}

// A number of the network's code that an exporter has made an initializer, under a name of its own.
bool is_number(const onnx::TensorProto& tensor) {
  const std::string& name = tensor.name();
  const bool has_own_name =
      !name.starts_with("val_") && !name.starts_with("onnx::") && !name.starts_with("_");
  std::int64_t count = 1;
  for (const std::int64_t dim : tensor.dims()) count = dim == 1 ? count : 2;
  return count == 1 && !has_own_name;
}

}  // namespace

Role role_of(const Node& node, std::size_t input, const Value& value) {
  const int rank = value.constant == nullptr ? 0 : value.constant->dims_size();
  const std::string& op = node.op_type;
  Role role;
  if (op == "Conv" && input == 1) {
    role = {TensorKind::kParameter, rank == 4 ? Storage::kConvWeights : Storage::kOnnx};
  } else if ((op == "Gemm" || op == "MatMul") && input == 1) {
    const bool transpose = node.int_or("transB", 0) == 0 && rank == 2;
    role = {TensorKind::kParameter, transpose ? Storage::kTransposed : Storage::kOnnx};
  } else if (op == "BatchNormalization" && input >= 3) {
    role.kind = TensorKind::kStatistic;
  } else if (op == "BatchNormalization" || op == "LayerNormalization" || op == "Conv" ||
             op == "Gemm" || op == "MatMul") {
    role.kind = TensorKind::kParameter;
  } else if (std::ranges::find(kMayTrain, op) != kMayTrain.end() && value.is_trainable &&
             rank > 0 && is_float(value.constant) && !is_number(*value.constant) &&
             !is_mask(*value.constant)) {
    role.kind = TensorKind::kParameter;
  }
  if (value.is_computed || !is_float(value.constant)) role.kind = TensorKind::kConstant;
  return role;
}

ValueTable::ValueTable(Graph* graph, std::int64_t file_bytes)
    : graph_(*graph),
      copy_budget_(file_bytes + kSpareCopyBytes),
      parameter_budget_(std::min(kMaxCopies * file_bytes + kSpareCopyBytes,
                                 static_cast<std::int64_t>(kMaxModelBytes))),
      work_budget_(8 * (file_bytes + kSpareCopyBytes)) {}

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

std::optional<PerBatch<Shape>> ValueTable::shapes_of(const std::string& name) {
  const Value& value = at(name);
  if (value.id != kNoTensor) return shapes(value.id);
  if (!value.transpose_of.empty()) {
    std::optional<PerBatch<Shape>> source = shapes_of(value.transpose_of);
    if (source) {
      for (Shape& shape : *source) std::reverse(shape.begin(), shape.end());
    }
    return source;
  }
  if (value.constant != nullptr) {
    const Result<TensorInfo> info = check_tensor(*value.constant, name);
    if (!info) return std::nullopt;
    return PerBatch<Shape>{info->dims, info->dims};
  }
  if (!value.ints) return std::nullopt;
  PerBatch<Shape> shapes;
  for (std::size_t batch = 0; batch < kProbeBatches.size() && !value.ints->is_scalar; ++batch) {
    shapes[batch] = {static_cast<std::int64_t>(value.ints->at[batch].size())};
  }
  return shapes;
}

Result<OperandInfo> ValueTable::operand_info(const std::string& name) {
  if (name.empty()) return OperandInfo{};
  Value& value = at(name);
  Result<const FoldedInts*> ints = known_ints(&value);
  if (!ints) return ints.error();
  OperandInfo info{.is_there = true,
                   .is_activation = value.is_activation(),
                   .type = DataType::kFloat32,
                   .onnx_type = 0,
                   .shapes = shapes_of(name),
                   .ints = value.ints};
  if (value.constant != nullptr) {
    info.onnx_type = value.constant->data_type();
  } else if (value.ints) {
    info.onnx_type = onnx::TensorProto::INT64;
  }
  const bool is_integer =
      info.onnx_type != 0
          ? !is_float(value.constant)
          : value.id != kNoTensor &&
                graph_.tensors[static_cast<std::size_t>(value.id)].type == DataType::kInt64;
  if (is_integer || value.is_lost) info.type = DataType::kInt64;
  return info;
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
    if (info->count <= kMaxFoldedInts) {
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

Status ValueTable::fill_known_ints(const std::string& name, const FoldedInts& known,
                                   Tensor* tensor) {
  tensor->type = DataType::kInt64;
  tensor->ints = known.at[0];
  if (!known.is_scalar) tensor->declared = {static_cast<std::int64_t>(known.at[0].size())};
  if (!known.depends_on_batch()) return {};
  // A line through the values at both probes. Products with any batch size stay far from overflow.
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  const std::int64_t distance = kProbeBatches[1] - kProbeBatches[0];
  const auto too_large = [](std::int64_t value) { return value < -kMost || value > kMost; };
  for (std::size_t i = 0; i < known.at[0].size(); ++i) {
    const std::int64_t low = known.at[0][i];
    if (known.at[1].size() != known.at[0].size() || too_large(low) || too_large(known.at[1][i]) ||
        (known.at[1][i] - low) % distance != 0) {
      return Error{.code = ErrorCode::kUnsupportedModel,
                   .what = "integers depend on the batch size in a way that is not supported",
                   .where = name,
                   .expected = "a multiple of the batch size and a constant"};
    }
    const std::int64_t slope = (known.at[1][i] - low) / distance;
    tensor->ints_per_sample.push_back(slope);
    tensor->ints[i] = low - slope * kProbeBatches[0];
  }
  return {};
}

Status ValueTable::fill_constant(const std::string& name, const Value& value, const Role& role,
                                 Tensor* tensor) {
  if (value.constant == nullptr) {  // integers that were computed from shapes
    TEMPO_ASSERT(value.ints.has_value());
    return fill_known_ints(name, *value.ints, tensor);
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
    parameter_budget_ -= info->count * element_bytes(info->type);
    if (parameter_budget_ < 0) {
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

void ValueTable::declare_computed(const std::string& name, const Tensor& tensor) {
  auto made = std::make_shared<onnx::TensorProto>();
  made->set_name(name);
  for (const std::int64_t dim : tensor.declared) made->add_dims(dim);
  if (tensor.type == DataType::kFloat32) {
    made->set_data_type(onnx::TensorProto::FLOAT);
    made->mutable_float_data()->Add(tensor.floats.begin(), tensor.floats.end());
  } else {
    made->set_data_type(onnx::TensorProto::INT64);
    made->mutable_int64_data()->Add(tensor.ints.begin(), tensor.ints.end());
  }
  Value value;
  value.constant = made.get();
  value.is_computed = true;
  values_[name] = std::move(value);
  made_.push_back(std::move(made));
}

void ValueTable::declare_floats(const std::string& name, const Shape& shape,
                                std::vector<float> floats) {
  declare_computed(name, Tensor{.declared = shape, .floats = std::move(floats)});
}

// A transposed weight: products by it take the weight itself (see onnx_nodes.cc).
bool ValueTable::transposed(const Node& node, const NodeNames& names) {
  if (node.op_type != "Transpose") return false;
  const Value& source = at(names.inputs[0]);
  if (source.constant == nullptr || source.constant->dims_size() != 2 ||
      node.ints_or("perm", {1, 0}) != std::vector<std::int64_t>{1, 0} ||
      role_of(node, 0, source).kind != TensorKind::kParameter) {
    return false;
  }
  values_[names.outputs[0]].transpose_of = names.inputs[0];
  return true;
}

// The operator's own forward computes what depends on constants and the batch size alone.
Result<bool> ValueTable::evaluate(const Node& node, const NodeNames& names) {
  bool is_lost = false, depends_on_batch = false, are_ints = true;
  for (std::size_t i = 0; i < names.inputs.size(); ++i) {
    if (names.inputs[i].empty()) continue;
    Value& value = at(names.inputs[i]);
    is_lost = is_lost || value.is_lost;
    if (value.is_lost) continue;
    if (!value.is_constant() || role_of(node, i, value).kind != TensorKind::kConstant) return false;
    Result<const FoldedInts*> ints = known_ints(&value);
    if (!ints) return ints.error();
    are_ints = are_ints && *ints != nullptr;
    depends_on_batch = depends_on_batch || (*ints != nullptr && (*ints)->depends_on_batch());
  }
  if (is_lost) return are_ints && lose(node, names);
  if (depends_on_batch) return evaluate_per_batch(node, names);
  std::int64_t room = std::min(copy_budget_ / 8, work_budget_);
  if (are_ints) room = std::max(room, kMaxFoldedInts);  // as short as what they are made of
  Result<std::optional<Tensor>> result = evaluate_at(0, node, names, room);
  if (!result) return result.error();
  if (!*result) return false;
  work_budget_ -= element_count((*result)->declared);
  copy_budget_ -= 8 * element_count((*result)->declared);
  declare_computed(names.outputs[0], **result);
  return true;
}

// Integers that would be known if an unsupported node were none.
bool ValueTable::lose(const Node& node, const NodeNames& names) {
  const OpDef* op = find_op(node.op_type);
  const OpSchema* schema = find_schema(node.op_type);
  if (op == nullptr || op->output_type == nullptr || schema == nullptr ||
      !schema->takes(names.inputs.size())) {
    return false;
  }
  Graph graph;
  Node alone = node;
  for (std::size_t i = 0; i < names.inputs.size(); ++i) {
    const bool is_absent = names.inputs[i].empty();
    if (is_absent && i < schema->required) return false;
    alone.inputs.push_back(is_absent ? kNoTensor : static_cast<TensorId>(graph.tensors.size()));
    if (!is_absent) graph.tensors.push_back({.type = DataType::kInt64});
  }
  if (op->output_type(graph, alone) != DataType::kInt64) return false;
  declare_lost(names.outputs[0]);
  return true;
}

// Integers that stay short enough to be known for every batch size.
Result<bool> ValueTable::evaluate_per_batch(const Node& node, const NodeNames& names) {
  FoldedInts known;
  for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
    Result<std::optional<Tensor>> found = evaluate_at(batch, node, names, kMaxFoldedInts);
    if (!found) return found.error();
    const std::optional<Tensor>& result = *found;
    if (!result || result->type != DataType::kInt64 || result->declared.size() > 1) return false;
    // As many as samples: for a node of the graph to make.
    if (batch > 0 && result->ints.size() != known.at[0].size()) return false;
    known.is_scalar = result->declared.empty();
    known.at[batch] = result->ints;
  }
  values_[names.outputs[0]].ints = std::move(known);
  return true;
}

Result<std::optional<Tensor>> ValueTable::evaluate_at(std::size_t batch, const Node& node,
                                                      const NodeNames& names,
                                                      std::int64_t max_elements) {
  std::vector<std::optional<Tensor>> operands(names.inputs.size());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (names.inputs[i].empty()) continue;
    const std::string& name = tied_to(names.inputs[i]);
    const Value& value = values_.at(name);
    Tensor& tensor = operands[i].emplace(Tensor{.name = name, .kind = TensorKind::kConstant});
    if (value.ints) {
      tensor.type = DataType::kInt64;
      tensor.ints = value.ints->at[batch];
      if (!value.ints->is_scalar) tensor.declared = {static_cast<std::int64_t>(tensor.ints.size())};
      continue;
    }
    TEMPO_RETURN_IF_ERROR(fill_constant(name, value, {}, &tensor));
    work_budget_ -= element_count(tensor.declared);
    if (work_budget_ < 0) return std::optional<Tensor>();
  }
  return evaluate_node(node, std::move(operands), max_elements);
}

Result<bool> ValueTable::absorb(const Node& node, const NodeNames& names, int position) {
  if (names.inputs.empty() || names.inputs[0].empty() || names.outputs.size() != 1 ||
      names.outputs[0].empty()) {
    return false;
  }
  if (alias_constant(node, names, position) || fold_dimensions(node, names) ||
      transposed(node, names)) {
    return true;
  }
  Result<bool> done = alias_activation(node, names);
  if (!done || *done) return done;
  return evaluate(node, names);
}

// PyTorch's exporter writes parameters that were equal at export time as one initializer and
// Identity nodes. Those whose elements all are one number are fresh (of batch normalisations, say),
// and those whose names differ in numbers alone are of layers that were made as copies of each
// other: both are trained separately, so each gets a tensor of its own. Others can only be equal
// because they are one parameter, tied.
bool ValueTable::alias_constant(const Node& node, const NodeNames& names, int position) {
  const Value& source = at(names.inputs[0]);
  if (source.constant == nullptr) return false;
  const bool is_identity = node.op_type == "Identity" && names.inputs.size() == 1;
  const bool is_cast = is_float(source.constant) && node.op_type == "Cast" &&
                       node.int_or("to", 0) == onnx::TensorProto::FLOAT;
  if (!is_identity && !is_cast) return false;
  if (is_identity && source.is_trainable && is_float(source.constant) &&
      !has_equal_elements(*source.constant) &&
      !differ_in_numbers_alone(names.inputs[0], names.outputs[0])) {
    ties_.emplace(names.outputs[0], tied_to(names.inputs[0]));
    values_[names.outputs[0]];  // the name is taken
    return true;
  }
  Value alias;
  alias.constant = source.constant;
  alias.ints = source.ints;
  alias.node = position;
  alias.is_trainable = source.is_trainable && is_identity;
  alias.is_computed = source.is_computed || is_cast;
  alias.is_copy = true;
  values_[names.outputs[0]] = std::move(alias);
  return true;
}

// PyTorch 1 writes a Pad by nothing before average pooling.
Result<bool> ValueTable::alias_activation(const Node& node, const NodeNames& names) {
  const Value& source = at(names.inputs[0]);
  if (!source.is_activation()) return false;
  const DataType type = graph_.tensors[static_cast<std::size_t>(source.id)].type;
  const std::int64_t same =
      type == DataType::kFloat32 ? onnx::TensorProto::FLOAT : onnx::TensorProto::INT64;
  bool is_nothing = node.op_type == "Cast" && node.int_or("to", 0) == same;
  if (node.op_type == "Pad") {
    std::vector<std::int64_t> pads = node.ints_or("pads", {});
    if (names.inputs.size() > 1 && !names.inputs[1].empty()) {
      Result<const FoldedInts*> known = known_ints(&at(names.inputs[1]));
      if (!known) return known.error();
      pads.clear();
      if (*known != nullptr && !(*known)->depends_on_batch()) pads = (*known)->at[0];
    }
    is_nothing = !pads.empty() &&
                 std::all_of(pads.begin(), pads.end(), [](std::int64_t pad) { return pad == 0; });
  }
  if (!is_nothing) return false;
  const TensorId id = source.id;
  declare(names.outputs[0], id);
  return true;
}

bool ValueTable::fold_dimensions(const Node& node, const NodeNames& names) {
  const bool is_size = node.op_type == "Size";
  if ((node.op_type != "Shape" && !is_size) || names.inputs.size() != 1) return false;
  const std::optional<PerBatch<Shape>> shape = shapes_of(names.inputs[0]);
  if (!shape) {
    const Value& source = at(names.inputs[0]);
    if (source.constant != nullptr) return false;
    values_[names.outputs[0]].is_lost = true;
    return true;
  }
  values_[names.outputs[0]].ints = is_size ? fold_size(*shape) : fold_shape(node, *shape);
  return true;
}

}  // namespace tempo
