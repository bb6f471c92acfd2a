#include "enclave/graph/onnx_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tempo {
namespace {

constexpr std::int64_t kMaxMask = std::int64_t{1} << 24;  // elements of a causal mask

Attribute order(std::vector<std::int64_t> dims) {
  return {std::move(dims)};
}

bool has_mask(const std::vector<OperandInfo>& operands) {
  return operands.size() > 3 && operands[3].is_there;
}

// Why the node is none that can be done, whatever its sizes; or empty.
std::string check_form(const Node& node, const NodeNames& names,
                       const std::vector<OperandInfo>& operands) {
  for (std::size_t i = 0; i < 3; ++i) {
    if (i >= operands.size() || !operands[i].is_there) return "it lacks an operand";
    if (!operands[i].shapes) return "the shape of its input " + names.inputs[i] + " is not known";
    const Shape& shape = (*operands[i].shapes)[0];
    const Shape& other = (*operands[i].shapes)[1];
    if (shape.empty() || shape.size() != other.size() ||
        !std::equal(shape.begin() + 1, shape.end(), other.begin() + 1)) {
      return "its operands' sizes depend on the batch";
    }
  }
  for (std::size_t i = 4; i < operands.size(); ++i) {
    if (operands[i].is_there) return "only without past keys and values";
  }
  for (std::size_t i = 1; i < names.outputs.size(); ++i) {
    if (!names.outputs[i].empty()) return "its output " + names.outputs[i] + " is used";
  }
  if (names.outputs.empty() || names.outputs[0].empty()) return "it lacks an output";
  if (node.float_or("softcap", 0) != 0) return "only without softcap";
  return "";
}

// Heads and what follows from them.
struct Geometry {
  bool has_heads = true;  // operands are (N, heads, tokens, width), not (N, tokens, heads * width)
  std::int64_t heads = 1, queries = 1, keys = 1, width = 1, value_width = 1;
};

// Of operands that check_form() has passed. Says why there is none, or nothing.
std::string read_geometry(const Node& node, const std::vector<OperandInfo>& operands, Geometry* g) {
  const Shape& q = (*operands[0].shapes)[0];
  const Shape& k = (*operands[1].shapes)[0];
  const Shape& v = (*operands[2].shapes)[0];
  const std::size_t rank = q.size();
  if ((rank != 3 && rank != 4) || k.size() != rank || v.size() != rank) {
    return "its operands must all have rank 3 or 4";
  }
  g->has_heads = rank == 4;
  const std::int64_t heads = g->has_heads ? q[1] : node.int_or("q_num_heads", 0);
  const std::int64_t key_heads = g->has_heads ? k[1] : node.int_or("kv_num_heads", 0);
  if (heads != key_heads || (g->has_heads && v[1] != heads)) {
    return "only as many heads of keys and values as of queries";
  }
  const std::size_t tokens = rank - 2;
  const std::int64_t split = g->has_heads ? 1 : heads;
  if (heads < 1 || q.back() % split != 0 || v.back() % split != 0) {
    return "its heads do not divide its operands";
  }
  if (q.back() != k.back() || k[tokens] != v[tokens]) return "its operands do not fit each other";
  g->heads = heads;
  g->queries = q[tokens];
  g->keys = k[tokens];
  g->width = q.back() / split;
  g->value_width = v.back() / split;
  if (node.int_or("is_causal", 0) != 0 &&
      g->queries > kMaxMask / std::max<std::int64_t>(1, g->keys)) {
    return "its causal mask is too large";
  }
  return "";
}

// (N, heads, tokens, width), or keys: (N, heads, width, tokens).
std::string by_head(DecompositionBuilder& parts, const Geometry& g, const std::string& x,
                    std::int64_t tokens, std::int64_t width, bool transposed) {
  if (g.has_heads) {
    return transposed ? parts.add("Transpose", {x}, {{"perm", order({0, 1, 3, 2})}}) : x;
  }
  const std::string shape = parts.ints({0, tokens, g.heads, width});
  return parts.add("Transpose", {parts.add("Reshape", {x, shape})},
                   {{"perm", order(transposed ? std::vector<std::int64_t>{0, 2, 3, 1}
                                              : std::vector<std::int64_t>{0, 2, 1, 3})}});
}

std::string mask_scores(DecompositionBuilder& parts, const Node& node, const NodeNames& names,
                        const std::vector<OperandInfo>& operands, const Geometry& g,
                        std::string scores) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  if (node.int_or("is_causal", 0) != 0) {
    std::vector<float> mask(static_cast<std::size_t>(g.queries * g.keys), 0.0F);
    for (std::int64_t q = 0; q < g.queries; ++q) {
      for (std::int64_t k = q + 1; k < g.keys; ++k) {
        mask[static_cast<std::size_t>(q * g.keys + k)] = kNever;
      }
    }
    const std::string later = parts.floats({g.queries, g.keys}, std::move(mask));
    scores = parts.add("Add", {scores, later});
  }
  if (!has_mask(operands)) return scores;
  if (operands[3].type == DataType::kFloat32) return parts.add("Add", {scores, names.inputs[3]});
  return parts.add("Where", {names.inputs[3], scores, parts.number(kNever)});
}

}  // namespace

Decomposition decompose_attention(const Node& node, const NodeNames& names,
                                  const std::vector<OperandInfo>& operands,
                                  const FreshName& fresh_name) {
  Geometry g;
  std::string reason = check_form(node, names, operands);
  if (reason.empty()) reason = read_geometry(node, operands, &g);
  if (!reason.empty()) return Decomposition::refused(std::move(reason));

  DecompositionBuilder parts(node, fresh_name);
  const auto default_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(g.width)));
  const std::string scale = parts.number(node.float_or("scale", default_scale));
  std::string q = by_head(parts, g, names.inputs[0], g.queries, g.width, false);
  q = parts.add("Mul", {q, scale});
  const std::string k = by_head(parts, g, names.inputs[1], g.keys, g.width, true);
  const std::string v = by_head(parts, g, names.inputs[2], g.keys, g.value_width, false);
  std::string scores = parts.add("MatMul", {q, k});
  scores = mask_scores(parts, node, names, operands, g, std::move(scores));
  const std::string weights = parts.add("Softmax", {scores}, {{"axis", {std::int64_t{-1}}}});
  const std::string heads = parts.add("MatMul", {weights, v});
  if (!g.has_heads) {
    const std::string joined = parts.add("Transpose", {heads}, {{"perm", order({0, 2, 1, 3})}});
    parts.add("Reshape", {joined, parts.ints({0, g.queries, g.heads * g.value_width})});
  }
  return parts.finish(names.outputs[0]);
}

}  // namespace tempo
