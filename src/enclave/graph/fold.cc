#include "enclave/graph/fold.h"

#include <algorithm>
#include <limits>

#include "enclave/graph/infer_node.h"

namespace tempo {
namespace {

using Ints = std::vector<std::int64_t>;

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

FoldedInts fold_shape(const Node& node, const PerBatch<Shape>& input) {
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
