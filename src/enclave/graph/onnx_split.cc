#include "enclave/graph/onnx_split.h"

#include <algorithm>
#include <numeric>

#include "enclave/graph/onnx_error.h"

namespace tempo {
namespace {

constexpr const char* kNotConstant = "the sizes of its parts are not constant";

bool has(const std::vector<OperandInfo>& operands, std::size_t i) {
  return i < operands.size() && operands[i].is_there;
}

// Null when they are not known for every batch size.
const FoldedInts* constant_ints(const OperandInfo& operand) {
  return operand.ints && !operand.ints->depends_on_batch() ? &*operand.ints : nullptr;
}

Error wrong_count(const Node& node) {
  return bad_model("a node has the wrong number of inputs or outputs", node.name);
}

// Of the dimension that is split; says why it cannot be, or nothing.
std::string read_length(const Node& split, const OperandInfo& operand, std::int64_t* length) {
  if (!operand.shapes) return "the shape of its input is not known";
  const auto& shapes = *operand.shapes;
  const auto rank = static_cast<std::int64_t>(shapes[0].size());
  const std::int64_t axis = split.int_or("axis", 0);
  if (axis < -rank || axis >= rank) return "its axis is out of range";
  const auto dim = static_cast<std::size_t>(axis < 0 ? axis + rank : axis);
  *length = shapes[0][dim];
  return *length == shapes[1][dim] ? "" : "it splits the batch";
}

bool is_partition(const std::vector<std::int64_t>& sizes, std::int64_t length) {
  std::int64_t rest = length;
  for (const std::int64_t size : sizes) {
    if (size < 1 || size > rest) return false;
    rest -= size;
  }
  return rest == 0;
}

// Operands of a Slice.
std::vector<std::string> section(DecompositionBuilder& parts, const std::string& source,
                                 std::int64_t axis, std::int64_t begin, std::int64_t end) {
  return {source, parts.ints({begin}), parts.ints({end}), parts.ints({axis})};
}

}  // namespace

Result<Decomposition> decompose_split(const Node& node, const NodeNames& names,
                                      const std::vector<OperandInfo>& operands,
                                      const FreshName& fresh_name) {
  const auto count = static_cast<std::int64_t>(names.outputs.size());
  if (!has(operands, 0) || operands.size() > 2 || count == 0) return wrong_count(node);
  // An attribute in older opsets, an input in newer ones, else equal parts.
  std::vector<std::int64_t> sizes = node.ints_or("split", {});
  if (has(operands, 1)) {
    const FoldedInts* known = constant_ints(operands[1]);
    if (known == nullptr) return Decomposition::refused(kNotConstant);
    sizes = known->at[0];
  }
  std::int64_t length = 0;
  if (std::string reason = read_length(node, operands[0], &length); !reason.empty()) {
    return Decomposition::refused(std::move(reason));
  }
  if (sizes.empty()) {
    const std::int64_t part = (length + count - 1) / count;
    for (std::int64_t i = 0; i < count; ++i) sizes.push_back(std::min(part, length - i * part));
  }
  if (sizes.size() != names.outputs.size() || !is_partition(sizes, length)) {
    return bad_model("the parts of a Split do not fit its input", node.name,
                     std::to_string(count) + " parts of " + std::to_string(length) + " in all",
                     shape_to_string(sizes));
  }
  DecompositionBuilder parts(node, fresh_name);
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::int64_t end = begin + sizes[i];
    if (!names.outputs[i].empty()) {
      parts.add_to(names.outputs[i], "Slice",
                   section(parts, names.inputs[0], node.int_or("axis", 0), begin, end));
    }
    begin = end;
  }
  return parts.finish();
}

std::int64_t Sequences::Sequence::count() const {
  return sizes.empty() ? (length + part - 1) / part : static_cast<std::int64_t>(sizes.size());
}
std::int64_t Sequences::Sequence::begin(std::int64_t index) const {
  if (sizes.empty()) return index * part;
  return std::accumulate(sizes.begin(), sizes.begin() + index, std::int64_t{0});
}
std::int64_t Sequences::Sequence::end(std::int64_t index) const {
  return index + 1 == count() ? length : begin(index + 1);
}

Result<Decomposition> Sequences::split(const Node& node, const NodeNames& names,
                                       const std::vector<OperandInfo>& operands) {
  if (!has(operands, 0) || operands.size() > 2 || names.outputs.size() != 1 ||
      names.outputs[0].empty()) {
    return wrong_count(node);
  }
  Sequence sequence;
  sequence.source = names.inputs[0];
  sequence.axis = node.int_or("axis", 0);
  if (has(operands, 1)) {
    const FoldedInts* known = constant_ints(operands[1]);
    if (known == nullptr) return Decomposition::refused(kNotConstant);
    if (known->is_scalar) {
      sequence.part = known->at[0][0];
    } else {
      sequence.sizes = known->at[0];
      if (sequence.sizes.empty()) sequence.part = 0;  // no part fits
    }
  } else {
    sequence.keeps_axis = node.int_or("keepdims", 1) != 0;
  }
  if (std::string reason = read_length(node, operands[0], &sequence.length); !reason.empty()) {
    return Decomposition::refused(std::move(reason));
  }
  if (sequence.part < 1 || sequence.part > sequence.length ||
      (!sequence.sizes.empty() && !is_partition(sequence.sizes, sequence.length))) {
    return bad_model("the parts of a SplitToSequence do not fit its input", node.name,
                     std::to_string(sequence.length) + " in all");
  }
  sequences_[names.outputs[0]] = std::move(sequence);
  return Decomposition{};
}

Result<Decomposition> Sequences::element(const Node& node, const NodeNames& names,
                                         const std::vector<OperandInfo>& operands,
                                         const FreshName& fresh_name) const {
  if (operands.size() != 2 || !has(operands, 0) || !has(operands, 1) || names.outputs.size() != 1 ||
      names.outputs[0].empty()) {
    return wrong_count(node);
  }
  const FoldedInts* known = constant_ints(operands[1]);
  if (known == nullptr || known->at[0].size() != 1) {
    return Decomposition::refused("its position is not constant");
  }
  const auto found = sequences_.find(names.inputs[0]);
  if (found == sequences_.end()) return Decomposition::refused("only of SplitToSequence");
  const Sequence& sequence = found->second;
  std::int64_t index = known->at[0][0];
  const std::int64_t count = sequence.count();
  if (index < -count || index >= count) {
    return bad_model("a sequence has no such element", node.name, "below " + std::to_string(count),
                     std::to_string(index));
  }
  if (index < 0) index += count;
  DecompositionBuilder parts(node, fresh_name);
  const std::string part = parts.add("Slice", section(parts, sequence.source, sequence.axis,
                                                      sequence.begin(index), sequence.end(index)));
  if (!sequence.keeps_axis) {
    parts.add("Squeeze", {part}, {{"axes", {std::vector<std::int64_t>{sequence.axis}}}});
  }
  return parts.finish(names.outputs[0]);
}

}  // namespace tempo
