#include "enclave/graph/fold.h"

#include <algorithm>
#include <limits>

#include "enclave/graph/infer_node.h"

namespace tempo {
namespace {

using Ints = std::vector<std::int64_t>;

constexpr std::int64_t kOnnxInt32 = 6;  // TensorProto.DataType, which Cast's `to` holds
constexpr std::int64_t kOnnxInt64 = 7;

// One batch size's view of a node's inputs.
struct Operand {
  bool present = false;
  bool is_scalar = false;
  Ints values;
};
struct Folded {
  bool is_scalar = false;
  Ints values;
};

// Index from the end when negative, as in Python. Nothing when outside.
std::optional<std::size_t> position(std::int64_t index, std::size_t size) {
  const auto signed_size = static_cast<std::int64_t>(size);
  if (index < -signed_size || index >= signed_size) return std::nullopt;
  return static_cast<std::size_t>(index < 0 ? index + signed_size : index);
}

std::optional<Folded> cast(const Node& node, const std::vector<Operand>& in) {
  const std::int64_t to = node.int_or("to", 0);
  if (to != kOnnxInt32 && to != kOnnxInt64) return std::nullopt;
  for (const std::int64_t value : in[0].values) {
    if (to == kOnnxInt32 && value != static_cast<std::int32_t>(value)) return std::nullopt;
  }
  return Folded{in[0].is_scalar, in[0].values};
}

std::optional<Folded> gather(const Node& node, const std::vector<Operand>& in) {
  if (in.size() != 2 || in[0].is_scalar || !in[1].present) return std::nullopt;
  const std::int64_t axis = node.int_or("axis", 0);
  if (axis != 0 && axis != -1) return std::nullopt;
  Folded out{in[1].is_scalar, {}};
  for (const std::int64_t index : in[1].values) {
    const auto at = position(index, in[0].values.size());
    if (!at) return std::nullopt;
    out.values.push_back(in[0].values[*at]);
  }
  return out;
}

// Axes from input 1 (newer opsets) or the attribute: true when they are absent or name the only
// axis there is.
bool axes_are_first(const Node& node, const std::vector<Operand>& in, bool may_be_absent) {
  Ints axes = node.ints_or("axes", {});
  if (in.size() > 1 && in[1].present) axes = in[1].values;
  if (axes.empty()) return may_be_absent;
  return axes.size() == 1 && (axes[0] == 0 || axes[0] == -1);
}

std::optional<Folded> unsqueeze(const Node& node, const std::vector<Operand>& in) {
  if (!in[0].is_scalar || !axes_are_first(node, in, false)) return std::nullopt;
  return Folded{false, in[0].values};
}

std::optional<Folded> squeeze(const Node& node, const std::vector<Operand>& in) {
  if (in[0].is_scalar || in[0].values.size() != 1 || !axes_are_first(node, in, true)) {
    return std::nullopt;
  }
  return Folded{true, in[0].values};
}

std::optional<Folded> concat(const Node& node, const std::vector<Operand>& in) {
  const std::int64_t axis = node.int_or("axis", 1);
  if (axis != 0 && axis != -1) return std::nullopt;
  Folded out{false, {}};
  for (const Operand& operand : in) {
    if (!operand.present || operand.is_scalar) return std::nullopt;
    if (out.values.size() + operand.values.size() > kMaxFoldedInts) return std::nullopt;
    out.values.insert(out.values.end(), operand.values.begin(), operand.values.end());
  }
  return out;
}

std::optional<Folded> slice(const Node& node, const std::vector<Operand>& in) {
  if (in[0].is_scalar) return std::nullopt;
  // Opset 9 has attributes, 10 and later inputs: data, starts, ends, axes, steps.
  Ints starts = node.ints_or("starts", {});
  Ints ends = node.ints_or("ends", {});
  Ints axes = node.ints_or("axes", {0});
  Ints steps = {1};
  const auto take = [&in](std::size_t i, Ints* target) {
    if (in.size() > i && in[i].present) *target = in[i].values;
  };
  take(1, &starts);
  take(2, &ends);
  take(3, &axes);
  take(4, &steps);
  if (starts.size() != 1 || ends.size() != 1 || axes.size() != 1 || steps != Ints{1} ||
      (axes[0] != 0 && axes[0] != -1)) {
    return std::nullopt;
  }
  const auto size = static_cast<std::int64_t>(in[0].values.size());
  const auto clamp = [size](std::int64_t index) {
    return std::clamp<std::int64_t>(index < 0 && index >= -size ? index + size : index, 0, size);
  };
  const std::int64_t start = clamp(starts[0]);
  const std::int64_t end = std::max(start, clamp(ends[0]));
  return Folded{false, Ints(in[0].values.begin() + start, in[0].values.begin() + end)};
}

std::optional<Folded> reshape(const Node& node, const std::vector<Operand>& in) {
  if (in.size() != 2 || !in[1].present || in[1].is_scalar) return std::nullopt;
  const Ints& target = in[1].values;
  const auto size = static_cast<std::int64_t>(in[0].values.size());
  if (target.empty() && size == 1) return Folded{true, in[0].values};
  const bool is_copy = target == Ints{0} && !in[0].is_scalar && node.int_or("allowzero", 0) == 0;
  if (target == Ints{-1} || target == Ints{size} || is_copy) return Folded{false, in[0].values};
  return std::nullopt;
}

std::optional<std::int64_t> combine(const std::string& op, std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  bool overflow = false;
  if (op == "Add") {
    overflow = __builtin_add_overflow(a, b, &out);
  } else if (op == "Sub") {
    overflow = __builtin_sub_overflow(a, b, &out);
  } else if (op == "Mul") {
    overflow = __builtin_mul_overflow(a, b, &out);
  } else {  // Div, truncating; -1 could overflow
    overflow = b == 0 || b == -1;
    if (!overflow) out = a / b;
  }
  if (overflow) return std::nullopt;
  return out;
}

std::optional<Folded> arithmetic(const Node& node, const std::vector<Operand>& in) {
  if (in.size() != 2 || !in[1].present) return std::nullopt;
  const std::size_t a_size = in[0].values.size();
  const std::size_t b_size = in[1].values.size();
  if (a_size != b_size && a_size != 1 && b_size != 1) return std::nullopt;
  const std::size_t size = a_size == 1 ? b_size : a_size;
  Folded out{in[0].is_scalar && in[1].is_scalar, {}};
  for (std::size_t i = 0; i < size; ++i) {
    const auto value =
        combine(node.op_type, in[0].values[a_size == 1 ? 0 : i], in[1].values[b_size == 1 ? 0 : i]);
    if (!value) return std::nullopt;
    out.values.push_back(*value);
  }
  return out;
}

std::optional<Folded> expand(const Node&, const std::vector<Operand>& in) {
  if (in.size() != 2 || !in[1].present || in[1].is_scalar || in[1].values.size() != 1) {
    return std::nullopt;
  }
  const std::int64_t wanted = in[1].values[0];
  const auto size = static_cast<std::int64_t>(in[0].values.size());
  if (wanted == 1 || wanted == size) return Folded{false, in[0].values};
  if (size != 1 || wanted < 0 || wanted > static_cast<std::int64_t>(kMaxFoldedInts)) {
    return std::nullopt;
  }
  return Folded{false, Ints(static_cast<std::size_t>(wanted), in[0].values[0])};
}

struct Rule {
  const char* op_type;
  std::optional<Folded> (*apply)(const Node& node, const std::vector<Operand>& in);
};

std::optional<Folded> identity(const Node&, const std::vector<Operand>& in) {
  return Folded{in[0].is_scalar, in[0].values};
}

constexpr std::array kRules = {
    Rule{"Add", arithmetic},      Rule{"Cast", cast},       Rule{"Concat", concat},
    Rule{"Div", arithmetic},      Rule{"Expand", expand},   Rule{"Gather", gather},
    Rule{"Identity", identity},   Rule{"Mul", arithmetic},  Rule{"Reshape", reshape},
    Rule{"Slice", slice},         Rule{"Squeeze", squeeze}, Rule{"Sub", arithmetic},
    Rule{"Unsqueeze", unsqueeze},
};

const Rule* find_rule(const std::string& op_type) {
  for (const Rule& rule : kRules) {
    if (op_type == rule.op_type) return &rule;
  }
  return nullptr;
}

// The output shape that ONNX gives Reshape, or nothing when the element counts disagree.
std::optional<Shape> resolve(const Ints& target, const Shape& input, bool allow_zero) {
  const std::int64_t count = bounded_element_count(input);
  Shape out = target;
  std::int64_t known = 1;
  std::optional<std::size_t> open;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i] == 0 && !allow_zero) {
      if (i >= input.size()) return std::nullopt;
      out[i] = input[i];
    }
    if (out[i] == -1) {
      if (open) return std::nullopt;
      open = i;
      continue;
    }
    if (out[i] <= 0 || known > kMaxTensorElements / out[i]) return std::nullopt;
    known *= out[i];
  }
  if (count <= 0 || count % known != 0) return std::nullopt;
  if (open) {
    out[*open] = count / known;
  } else if (known != count) {
    return std::nullopt;
  }
  return out;
}

}  // namespace

bool is_foldable(const std::string& op_type) {
  return find_rule(op_type) != nullptr;
}

std::optional<FoldedInts> fold_node(const Node& node,
                                    const std::vector<const FoldedInts*>& inputs) {
  const Rule* rule = find_rule(node.op_type);
  if (rule == nullptr || inputs.empty() || inputs[0] == nullptr) return std::nullopt;
  FoldedInts out;
  for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
    std::vector<Operand> operands;
    operands.reserve(inputs.size());
    for (const FoldedInts* input : inputs) {
      operands.push_back(input == nullptr ? Operand{}
                                          : Operand{true, input->is_scalar, input->at[batch]});
    }
    std::optional<Folded> value = rule->apply(node, operands);
    if (!value || value->values.size() > kMaxFoldedInts) return std::nullopt;
    // As many as samples: for a node of the graph to make.
    if (batch > 0 && value->values.size() != out.at[0].size()) return std::nullopt;
    out.is_scalar = value->is_scalar;
    out.at[batch] = std::move(value->values);
  }
  return out;
}

std::optional<FoldedInts> fold_shape(const Node& node, const PerBatch<Shape>& input) {
  FoldedInts out;
  const auto rank = static_cast<std::int64_t>(input[0].size());
  const auto clamp = [rank](std::int64_t index) {
    return std::clamp<std::int64_t>(index < 0 && index >= -rank ? index + rank : index, 0, rank);
  };
  const std::int64_t start = clamp(node.int_or("start", 0));
  const std::int64_t end =
      std::max(start, clamp(node.int_or("end", std::numeric_limits<std::int64_t>::max())));
  for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
    out.at[batch].assign(input[batch].begin() + start, input[batch].begin() + end);
  }
  return out;
}

std::optional<FoldedInts> fold_size(const PerBatch<Shape>& input) {
  FoldedInts out{true, {}};
  for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
    const std::int64_t count = bounded_element_count(input[batch]);
    if (count < 0) return std::nullopt;
    out.at[batch] = {count};
  }
  return out;
}

std::optional<std::vector<std::int64_t>> batch_free_target(const FoldedInts& target,
                                                           const PerBatch<Shape>& input,
                                                           bool allow_zero,
                                                           std::int64_t fixed_batch) {
  PerBatch<Shape> out;
  for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
    Ints values = target.at[batch];
    const bool input_has_batch =
        !input[batch].empty() && input[0][0] == kProbeBatches[0] && input[1][0] == kProbeBatches[1];
    if (fixed_batch != kBatchDim && input_has_batch && !target.depends_on_batch() &&
        !values.empty() && values[0] == fixed_batch) {
      values[0] = kProbeBatches[batch];
    }
    std::optional<Shape> shape = resolve(values, input[batch], allow_zero);
    if (!shape) return std::nullopt;
    out[batch] = std::move(*shape);
  }
  std::vector<std::int64_t> result = out[0];
  bool has_open = false;
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (out[0][i] == out[1][i]) continue;
    const bool is_copy =
        i < input[0].size() && out[0][i] == input[0][i] && out[1][i] == input[1][i];
    if (!is_copy && has_open) return std::nullopt;
    result[i] = is_copy ? 0 : -1;
    has_open = has_open || !is_copy;
  }
  return result;
}

}  // namespace tempo
