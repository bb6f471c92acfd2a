#include "enclave/graph/onnx_attention.h"

#include <cmath>
#include <limits>

namespace tempo {
namespace {

constexpr std::int64_t kMaxMask = std::int64_t{1} << 24;  // elements of a causal mask

// Adds nodes one after the other; the first error stays.
class Chain {
 public:
  Chain(const Node& node, const NodeSink& sink) : node_(node), sink_(sink) {}

  // Returns the name of the result.
  std::string then(const std::string& op_type, std::vector<std::string> inputs,
                   std::map<std::string, Attribute> attributes = {}) {
    const std::string result = sink_.fresh_name(node_.name + "/" + op_type);
    finish(op_type, std::move(inputs), result, std::move(attributes));
    return result;
  }
  void finish(const std::string& op_type, std::vector<std::string> inputs,
              const std::string& result, std::map<std::string, Attribute> attributes = {}) {
    if (!status_.ok()) return;
    Node node{.op_type = op_type,
              .name = sink_.fresh_name(node_.name + "/" + op_type),
              .opset = node_.opset,
              .attributes = std::move(attributes)};
    status_ = sink_.add(std::move(node), {std::move(inputs), {result}});
  }
  std::string ints(const std::string& wish, std::vector<std::int64_t> values) {
    return sink_.ints(node_.name + "/" + wish, std::move(values));
  }
  std::string floats(const std::string& wish, const Shape& shape, std::vector<float> values) {
    return sink_.floats(node_.name + "/" + wish, shape, std::move(values));
  }
  const Status& status() const { return status_; }

 private:
  const Node& node_;
  const NodeSink& sink_;
  Status status_;
};

Attribute order(std::vector<std::int64_t> dims) {
  return {std::move(dims)};
}

// Heads and what follows from them.
struct Geometry {
  bool has_heads = true;  // operands are (N, heads, tokens, width), not (N, tokens, heads * width)
  std::int64_t heads = 1, queries = 1, keys = 1, width = 1, value_width = 1;
};

std::string read_geometry(const Node& node, const AttentionOperands& operands, Geometry* g) {
  const std::size_t rank = operands.q.size();
  if ((rank != 3 && rank != 4) || operands.k.size() != rank || operands.v.size() != rank) {
    return "its operands must all have rank 3 or 4";
  }
  g->has_heads = rank == 4;
  const std::int64_t heads = g->has_heads ? operands.q[1] : node.int_or("q_num_heads", 0);
  const std::int64_t key_heads = g->has_heads ? operands.k[1] : node.int_or("kv_num_heads", 0);
  if (heads != key_heads || (g->has_heads && operands.v[1] != heads)) {
    return "only as many heads of keys and values as of queries";
  }
  const std::size_t tokens = rank - 2;
  const std::int64_t split = g->has_heads ? 1 : heads;
  if (heads < 1 || operands.q.back() % split != 0 || operands.v.back() % split != 0) {
    return "its heads do not divide its operands";
  }
  if (operands.q.back() != operands.k.back() || operands.k[tokens] != operands.v[tokens]) {
    return "its operands do not fit each other";
  }
  g->heads = heads;
  g->queries = operands.q[tokens];
  g->keys = operands.k[tokens];
  g->width = operands.q.back() / split;
  g->value_width = operands.v.back() / split;
  return "";
}

// (N, heads, tokens, width), or keys: (N, heads, width, tokens).
std::string by_head(Chain& chain, const Geometry& g, const std::string& x, const std::string& name,
                    std::int64_t tokens, std::int64_t width, bool transposed) {
  if (g.has_heads) {
    return transposed ? chain.then("Transpose", {x}, {{"perm", order({0, 1, 3, 2})}}) : x;
  }
  const std::string shape = chain.ints(name, {0, tokens, g.heads, width});
  return chain.then("Transpose", {chain.then("Reshape", {x, shape})},
                    {{"perm", order(transposed ? std::vector<std::int64_t>{0, 2, 3, 1}
                                               : std::vector<std::int64_t>{0, 2, 1, 3})}});
}

std::string mask_scores(Chain& chain, const Node& node, const NodeNames& names,
                        const AttentionOperands& operands, const Geometry& g, std::string scores) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  if (node.int_or("is_causal", 0) != 0) {
    std::vector<float> mask(static_cast<std::size_t>(g.queries * g.keys), 0.0F);
    for (std::int64_t q = 0; q < g.queries; ++q) {
      for (std::int64_t k = q + 1; k < g.keys; ++k) {
        mask[static_cast<std::size_t>(q * g.keys + k)] = kNever;
      }
    }
    const std::string later = chain.floats("later", {g.queries, g.keys}, std::move(mask));
    scores = chain.then("Add", {scores, later});
  }
  if (operands.mask == DataType::kFloat32) {
    scores = chain.then("Add", {scores, names.inputs[3]});
  } else if (operands.mask) {
    scores = chain.then("Where", {names.inputs[3], scores, chain.floats("never", {}, {kNever})});
  }
  return scores;
}

}  // namespace

Result<std::string> expand_attention(const Node& node, const NodeNames& names,
                                     const AttentionOperands& operands, const NodeSink& sink) {
  Geometry g;
  if (std::string reason = read_geometry(node, operands, &g); !reason.empty()) return reason;
  if (node.float_or("softcap", 0) != 0) return std::string("only without softcap");
  if (node.int_or("is_causal", 0) != 0 &&
      g.queries > kMaxMask / std::max<std::int64_t>(1, g.keys)) {
    return std::string("its causal mask is too large");
  }
  Chain chain(node, sink);
  const auto default_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(g.width)));
  const std::string scale = chain.floats("scale", {}, {node.float_or("scale", default_scale)});
  std::string q = by_head(chain, g, names.inputs[0], "q", g.queries, g.width, false);
  q = chain.then("Mul", {q, scale});
  const std::string k = by_head(chain, g, names.inputs[1], "k", g.keys, g.width, true);
  const std::string v = by_head(chain, g, names.inputs[2], "v", g.keys, g.value_width, false);
  std::string scores = chain.then("MatMul", {q, k});
  scores = mask_scores(chain, node, names, operands, g, std::move(scores));
  const std::string weights = chain.then("Softmax", {scores}, {{"axis", {std::int64_t{-1}}}});
  if (g.has_heads) {
    chain.finish("MatMul", {weights, v}, names.outputs[0]);
  } else {
    const std::string heads = chain.then("MatMul", {weights, v});
    const std::string joined = chain.then("Transpose", {heads}, {{"perm", order({0, 2, 1, 3})}});
    chain.finish("Reshape", {joined, chain.ints("y", {0, g.queries, g.heads * g.value_width})},
                 names.outputs[0]);
  }
  if (!chain.status().ok()) return chain.status().error();
  return std::string();
}

}  // namespace tempo
