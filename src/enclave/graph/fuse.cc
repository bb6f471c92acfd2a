#include "enclave/graph/fuse.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <utility>

#include "enclave/graph/fold.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

constexpr int kNoNode = -1;

// Constants went through float32 once or twice on their way into the file.
bool is_close(double value, double wanted) {
  constexpr double kTolerance = 4 * static_cast<double>(std::numeric_limits<float>::epsilon());
  return std::fabs(value - wanted) <= kTolerance * std::fabs(wanted);
}

// A chain that is one operator.
struct Match {
  Node node;               // what replaces it, but for its output; no name: that of the last node
  std::vector<int> chain;  // the nodes that it replaces; its result is that of chain[0]
  int turned = kNoNode;    // a Transpose node that leaves the last dimension last from now on
  bool is_counted = true;
};

// A product of tensors and numbers, however it is bracketed.
struct Product {
  double scale = 1;
  std::vector<TensorId> factors;
};

// x + by.
struct Shifted {
  TensorId x = kNoTensor;
  double by = 0;
};

class Fuser {
 public:
  explicit Fuser(Graph* graph) : graph_(*graph) {}

  FusedCounts run() {
    for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
      Result<Shapes> shapes = infer_shapes(graph_, kProbeBatches[batch]);
      if (!shapes) return {};  // whoever runs the graph says what is wrong with it
      shapes_[batch] = std::move(*shapes);
    }
    index();
    // Backwards: a chain is recognised by its last node.
    for (int i = static_cast<int>(graph_.nodes.size()) - 1; i >= 0; --i) {
      if (is_replaced_[at(i)]) continue;
      if (std::optional<Match> match = match_at(i)) replace(std::move(*match));
    }
    std::vector<Node> kept;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (!is_replaced_[i]) kept.push_back(std::move(graph_.nodes[i]));
    }
    graph_.nodes = std::move(kept);
    return counts_;
  }

 private:
  // --- The graph, by tensor ---

  static std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

  void index() {
    producer_.assign(graph_.tensors.size(), kNoNode);
    reader_.assign(graph_.tensors.size(), kNoNode);
    readers_.assign(graph_.tensors.size(), 0);
    is_replaced_.assign(graph_.nodes.size(), false);
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      for (const TensorId id : graph_.nodes[i].inputs) {
        if (id == kNoTensor) continue;
        ++readers_[at(id)];
        reader_[at(id)] = static_cast<int>(i);
      }
      for (const TensorId id : graph_.nodes[i].outputs) {
        if (id != kNoTensor) producer_[at(id)] = static_cast<int>(i);
      }
    }
    for (const TensorId id : graph_.outputs) ++readers_[at(id)];
  }

  const Node& node(int i) const { return graph_.nodes[at(i)]; }

  // The node of this type that makes the tensor, or kNoNode.
  int made_by(TensorId id, const char* op_type) const {
    const int i = id == kNoTensor ? kNoNode : producer_[at(id)];
    return i != kNoNode && node(i).op_type == op_type ? i : kNoNode;
  }

  // The node of this type that alone reads the tensor, or kNoNode.
  int read_by(TensorId id, const char* op_type) const {
    if (readers_[at(id)] != 1) return kNoNode;
    const int i = reader_[at(id)];
    return i != kNoNode && node(i).op_type == op_type ? i : kNoNode;
  }

  // A number: a constant of one element that changes no shape.
  std::optional<double> number(TensorId id) const {
    if (id == kNoTensor) return std::nullopt;
    const Tensor& tensor = graph_.tensors[at(id)];
    if (tensor.kind != TensorKind::kConstant || tensor.type != DataType::kFloat32 ||
        tensor.floats.size() != 1 || tensor.declared.size() > 1) {
      return std::nullopt;
    }
    return static_cast<double>(tensor.floats[0]);
  }

  // --- Parts of chains; each adds the nodes that it goes through ---

  // Nodes of one product: 0.5 * x * (1 + ...) has three, the cubic term of Gelu four at most.
  static constexpr int kMaxProductNodes = 5;

  Product product(TensorId id, std::vector<int>* chain) const {
    Product out;
    int nodes = 0;
    multiply(id, &out, &nodes, chain);
    return out;
  }

  void multiply(TensorId id, Product* out, int* nodes, std::vector<int>* chain) const {
    if (const std::optional<double> value = number(id)) {
      out->scale *= *value;
      return;
    }
    const int i = id == kNoTensor ? kNoNode : producer_[at(id)];
    // What others read too is a factor as it stands. The product itself may have any readers.
    const bool may_open =
        i != kNoNode && *nodes < kMaxProductNodes && (*nodes == 0 || readers_[at(id)] == 1);
    const std::string type = may_open ? node(i).op_type : "";
    const auto open = [&] {
      ++*nodes;
      chain->push_back(i);
    };
    if (type == "Mul") {
      open();
      for (const TensorId factor : node(i).inputs) multiply(factor, out, nodes, chain);
      return;
    }
    const std::optional<double> value =
        type == "Div" || type == "Pow" ? number(node(i).inputs[1]) : std::nullopt;
    if (type == "Div" && value && *value != 0) {
      open();
      out->scale /= *value;
      multiply(node(i).inputs[0], out, nodes, chain);
      return;
    }
    if (type == "Pow" && (value == 2.0 || value == 3.0)) {
      open();
      out->factors.insert(out->factors.end(), value == 2.0 ? 2 : 3, node(i).inputs[0]);
      return;
    }
    out->factors.push_back(id);
  }

  // True when the tensor is scale * x^power.
  bool is_power(TensorId id, TensorId x, std::size_t power, double scale,
                std::vector<int>* chain) const {
    const Product found = product(id, chain);
    return is_close(found.scale, scale) && found.factors == std::vector<TensorId>(power, x);
  }

  // The tensor as a sum with a number.
  std::optional<Shifted> shifted(TensorId id, std::vector<int>* chain) const {
    const int add = made_by(id, "Add");
    if (add == kNoNode) return std::nullopt;
    const std::vector<TensorId>& terms = node(add).inputs;
    for (const std::size_t k : {0U, 1U}) {
      const std::optional<double> by = number(terms[k]);
      if (!by) continue;
      chain->push_back(add);
      return Shifted{terms[1 - k], *by};
    }
    return std::nullopt;
  }

  // What the tensor is the mean of, over the last dimension.
  std::optional<TensorId> mean_of(TensorId id, std::vector<int>* chain) const {
    const int mean = made_by(id, "ReduceMean");
    if (mean == kNoNode) return std::nullopt;
    const Node& reduce = node(mean);
    std::vector<std::int64_t> axes = reduce.ints_or("axes", {});
    if (reduce.inputs.size() > 1 && reduce.inputs[1] != kNoTensor) {
      axes = graph_.tensors[at(reduce.inputs[1])].ints;
    }
    const TensorId x = reduce.inputs[0];
    const auto rank = static_cast<std::int64_t>(shapes_[0][at(x)].size());
    if (axes.size() != 1 || (axes[0] != -1 && axes[0] != rank - 1) ||
        reduce.int_or("keepdims", 1) == 0) {
      return std::nullopt;
    }
    chain->push_back(mean);
    return x;
  }

  // --- Operators ---

  std::optional<Match> match_at(int last) const {
    const std::string& type = node(last).op_type;
    if (type == "Add") return biased_product(last);
    if (type == "MatMul") return by_transposed(last);
    if (type != "Mul" && type != "Div") return std::nullopt;
    std::optional<Match> match = layer_normalization(last);
    if (!match) match = gated(last);
    const bool keeps_shape = match && shapes_[0][at(node(match->chain[0]).outputs[0])] ==
                                          shapes_[0][at(match->node.inputs[0])];
    return keeps_shape && is_closed(*match) ? match : std::nullopt;
  }

  // A product by a weight, and a vector that is added to its rows: how a fully connected layer is
  // written out where its input is no matrix.
  std::optional<Match> biased_product(int last) const {
    const std::vector<TensorId>& terms = node(last).inputs;
    for (const std::size_t k : {0U, 1U}) {
      const int product = made_by(terms[k], "MatMul");
      if (product == kNoNode || !is_linear_node(graph_, node(product)) ||
          node(product).inputs.size() != 2 ||
          !is_vector(terms[1 - k], shapes_[0][at(terms[k])].back())) {
        continue;
      }
      Match match{node(product), {last, product}};
      match.node.inputs.push_back(terms[1 - k]);
      if (is_closed(match)) return match;
    }
    return std::nullopt;
  }

  // A product by a matrix that a Transpose node has turned last, as attention has for its keys:
  // the product takes it unturned. What else the node moves, it moves still.
  std::optional<Match> by_transposed(int last) const {
    const Node& product = node(last);
    const int turn = made_by(product.inputs[1], "Transpose");
    if (turn == kNoNode || product.int_or("transB", 0) != 0 ||
        readers_[at(product.inputs[1])] != 1 || is_fixed(graph_.tensors[at(product.inputs[0])])) {
      return std::nullopt;
    }
    const std::size_t rank = shapes_[0][at(product.inputs[1])].size();
    std::vector<std::int64_t> order = node(turn).ints_or("perm", {});
    if (rank < 2 || order.size() != rank ||
        order[rank - 2] != static_cast<std::int64_t>(rank) - 1) {
      return std::nullopt;
    }
    Match match{product, {last}};
    match.node.attributes["transB"] = {std::int64_t{1}};
    match.is_counted = false;
    std::swap(order[rank - 2], order[rank - 1]);
    const TensorId source = node(turn).inputs[0];
    if (std::ranges::is_sorted(order) && !is_fixed(graph_.tensors[at(source)])) {
      match.node.inputs[1] = source;  // nothing is left to move
      match.chain.push_back(turn);
    } else {
      match.turned = turn;
    }
    return match;
  }

  // Nothing outside of the chain reads what it computes on the way, and nothing of it is gone.
  bool is_closed(const Match& match) const {
    for (const int i : match.chain) {
      if (is_replaced_[at(i)]) return false;
      if (i == match.chain[0]) continue;
      int inside = 0;
      for (const int reader : match.chain) {
        inside += static_cast<int>(
            std::count(node(reader).inputs.begin(), node(reader).inputs.end(), node(i).outputs[0]));
      }
      if (inside != readers_[at(node(i).outputs[0])]) return false;
    }
    return true;
  }

  // c * x * gate(x).
  std::optional<Match> gated(int last) const {
    std::vector<int> chain;
    const Product found = product(node(last).outputs[0], &chain);
    if (found.factors.size() != 2) return std::nullopt;
    for (const std::size_t k : {0U, 1U}) {
      std::optional<Match> match =
          gated_by(found.factors[k], found.factors[1 - k], found.scale, chain);
      if (match) return match;
    }
    return std::nullopt;
  }

  std::optional<Match> gated_by(TensorId gate, TensorId x, double scale,
                                std::vector<int> chain) const {
    const int opened = gate == kNoTensor ? kNoNode : producer_[at(gate)];
    if (opened == kNoNode) return std::nullopt;
    const Node& by = node(opened);
    Node result{.inputs = {x}};
    if (by.op_type == "Sigmoid" && by.inputs[0] == x && is_close(scale, 1)) {
      result.op_type = "Swish";
      chain.push_back(opened);
    } else if (by.op_type == "HardSigmoid" && by.inputs[0] == x && is_close(scale, 1) &&
               is_close(static_cast<double>(by.float_or("alpha", 0.2F)), 1.0 / 6) &&
               by.float_or("beta", 0.5F) == 0.5F) {
      result.op_type = "HardSwish";
      chain.push_back(opened);
    } else if (is_close(scale, 1.0 / 6) && is_clipped(gate, x, &chain)) {
      result.op_type = "HardSwish";
    } else if (is_close(scale, 0.5)) {
      const std::optional<Shifted> sum = shifted(gate, &chain);
      if (!sum || !is_close(sum->by, 1)) return std::nullopt;
      const bool by_tanh = made_by(sum->x, "Tanh") != kNoNode;
      if (!(by_tanh ? is_tanh_of_cubic(sum->x, x, &chain) : is_erf(sum->x, x, &chain))) {
        return std::nullopt;
      }
      result.op_type = "Gelu";
      if (by_tanh) result.attributes["approximate"] = {std::string("tanh")};
    } else {
      return std::nullopt;
    }
    return Match{std::move(result), std::move(chain)};
  }

  // min(max(x + 3, 0), 6). PyTorch 1 writes a Relu before the Clip, which then may lack the lower
  // bound.
  bool is_clipped(TensorId id, TensorId x, std::vector<int>* chain) const {
    const int clip = made_by(id, "Clip");
    if (clip == kNoNode) return false;
    const Node& by = node(clip);
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const auto bound = [&](std::size_t input, const char* attribute, float none) -> double {
      if (input >= by.inputs.size() || by.inputs[input] == kNoTensor) {
        return static_cast<double>(by.float_or(attribute, none));  // until opset 10
      }
      return number(by.inputs[input]).value_or(NAN);
    };
    chain->push_back(clip);
    TensorId inner = by.inputs[0];
    const double low = bound(1, "min", -kInfinity);
    bool is_low_0 = low == 0;
    if (const int relu = made_by(inner, "Relu"); relu != kNoNode) {
      is_low_0 = low <= 0;
      chain->push_back(relu);
      inner = node(relu).inputs[0];
    }
    if (!is_low_0 || bound(2, "max", kInfinity) != 6) return false;
    const std::optional<Shifted> sum = shifted(inner, chain);
    return sum && sum->x == x && sum->by == 3.0;
  }

  // erf(x / sqrt(2)).
  bool is_erf(TensorId id, TensorId x, std::vector<int>* chain) const {
    const int erf = made_by(id, "Erf");
    if (erf == kNoNode) return false;
    chain->push_back(erf);
    return is_power(node(erf).inputs[0], x, 1, 1 / std::numbers::sqrt2, chain);
  }

  // tanh(sqrt(2/pi) (x + 0.044715 x^3)), or tanh(sqrt(2/pi) x (1 + 0.044715 x^2)).
  bool is_tanh_of_cubic(TensorId id, TensorId x, std::vector<int>* chain) const {
    constexpr double kCubic = 0.044715;
    const int tanh = made_by(id, "Tanh");
    if (tanh == kNoNode) return false;
    chain->push_back(tanh);
    const Product found = product(node(tanh).inputs[0], chain);
    if (!is_close(found.scale, std::numbers::sqrt2 * std::numbers::inv_sqrtpi)) return false;
    std::vector<TensorId> factors = found.factors;
    const auto is_x = std::find(factors.begin(), factors.end(), x);
    if (factors.size() == 2 && is_x != factors.end()) {
      factors.erase(is_x);
      const std::optional<Shifted> sum = shifted(factors[0], chain);
      return sum && is_close(sum->by, 1) && is_power(sum->x, x, 2, kCubic, chain);
    }
    const int add = factors.size() == 1 ? made_by(factors[0], "Add") : kNoNode;
    if (add == kNoNode) return false;
    chain->push_back(add);
    const std::vector<TensorId>& terms = node(add).inputs;
    const std::size_t linear = terms[0] == x ? 0 : 1;
    return terms[linear] == x && is_power(terms[1 - linear], x, 3, kCubic, chain);
  }

  // d / sqrt(mean(d^2) + epsilon) with d = x - mean(x), then the scale and the bias.
  std::optional<Match> layer_normalization(int last) const {
    std::vector<int> chain = {last};
    TensorId d = kNoTensor;
    const TensorId variance = normalised_by(last, &d, &chain);
    const int centred = made_by(d, "Sub");
    if (variance == kNoTensor || centred == kNoNode) return std::nullopt;
    const std::optional<Shifted> sum = shifted(variance, &chain);
    if (!sum || !(sum->by >= 0) || !std::isfinite(sum->by)) return std::nullopt;
    const std::optional<TensorId> squares = mean_of(sum->x, &chain);
    if (!squares || !is_power(*squares, d, 2, 1, &chain)) return std::nullopt;
    chain.push_back(centred);
    const TensorId x = node(centred).inputs[0];
    if (mean_of(node(centred).inputs[1], &chain) != x) return std::nullopt;
    const Shape& shape = shapes_[0][at(x)];
    if (shape.size() < 2 || shape.back() != shapes_[1][at(x)].back()) return std::nullopt;
    Match match{
        {.op_type = "LayerNormalization",
         .attributes = {{"axis", {std::int64_t{-1}}}, {"epsilon", {static_cast<float>(sum->by)}}},
         .inputs = {x, kNoTensor}},
        std::move(chain)};
    const TensorId scale = take_features("Mul", shape.back(), &match);
    const TensorId bias = take_features("Add", shape.back(), &match);
    match.node.inputs[1] = scale;
    if (bias != kNoTensor) match.node.inputs.push_back(bias);
    return match;
  }

  // The v of `d` / sqrt(v) or `d` * (1 / sqrt(v)); kNoTensor when the node is neither.
  TensorId normalised_by(int last, TensorId* d, std::vector<int>* chain) const {
    const std::vector<TensorId>& inputs = node(last).inputs;
    TensorId deviation = inputs[1];
    *d = inputs[0];
    if (node(last).op_type == "Mul") {
      const std::size_t k = made_by(inputs[0], "Reciprocal") != kNoNode ? 0 : 1;
      const int reciprocal = made_by(inputs[k], "Reciprocal");
      if (reciprocal == kNoNode) return kNoTensor;
      chain->push_back(reciprocal);
      deviation = node(reciprocal).inputs[0];
      *d = inputs[1 - k];
    }
    const int root = made_by(deviation, "Sqrt");
    if (root == kNoNode) return kNoTensor;
    chain->push_back(root);
    return node(root).inputs[0];
  }

  // Goes on to the node that alone reads the chain's result, when it is of this type and its other
  // operand a vector of `width`: that vector. Else kNoTensor.
  TensorId take_features(const char* op_type, std::int64_t width, Match* match) const {
    const TensorId result = node(match->chain[0]).outputs[0];
    const int next = read_by(result, op_type);
    if (next == kNoNode) return kNoTensor;
    const std::vector<TensorId>& operands = node(next).inputs;
    const TensorId other = operands[operands[0] == result ? 1 : 0];
    if (!is_vector(other, width)) return kNoTensor;
    match->chain.insert(match->chain.begin(), next);
    return other;
  }

  bool is_vector(TensorId id, std::int64_t width) const {
    const Tensor& tensor = graph_.tensors[at(id)];
    const bool is_fixed =
        tensor.kind == TensorKind::kParameter || tensor.kind == TensorKind::kConstant;
    return is_fixed && tensor.type == DataType::kFloat32 && tensor.storage == Storage::kOnnx &&
           tensor.declared == Shape{width};
  }

  // --- The change ---

  void replace(Match match) {
    const int last = match.chain[0];
    Node& node = match.node;
    if (node.name.empty()) node.name = graph_.nodes[at(last)].name;
    node.outputs = {graph_.nodes[at(last)].outputs[0]};
    node.opset = std::max(graph_.opset, find_op(node.op_type)->min_opset);
    if (node.op_type == "LayerNormalization" && node.inputs[1] == kNoTensor) {
      node.inputs[1] = add_ones(node.name + "/ones", shapes_[0][at(node.inputs[0])].back());
    }
    for (const int i : match.chain) is_replaced_[at(i)] = i != last;
    if (match.turned != kNoNode) leave_last(match.turned);
    if (match.is_counted) ++counts_[node.op_type];
    graph_.nodes[at(last)] = std::move(node);
  }

  void leave_last(int transpose) {
    auto& order =
        std::get<std::vector<std::int64_t>>(graph_.nodes[at(transpose)].attributes["perm"].value);
    std::swap(order[order.size() - 1], order[order.size() - 2]);
    const TensorId result = graph_.nodes[at(transpose)].outputs[0];
    for (Shapes& shapes : shapes_) {
      Shape& shape = shapes[at(result)];
      std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
    }
  }

  TensorId add_ones(std::string name, std::int64_t count) {
    graph_.tensors.push_back({.name = std::move(name),
                              .kind = TensorKind::kConstant,
                              .declared = {count},
                              .floats = std::vector<float>(at(static_cast<int>(count)), 1.0F)});
    return static_cast<TensorId>(graph_.tensors.size() - 1);
  }

  Graph& graph_;
  PerBatch<Shapes> shapes_;
  std::vector<int> producer_;  // by tensor
  std::vector<int> reader_;    // by tensor: the last
  std::vector<int> readers_;   // by tensor, every input and graph output that names it
  std::vector<bool> is_replaced_;
  FusedCounts counts_;
};

}  // namespace

FusedCounts fuse_patterns(Graph* graph) {
  return Fuser(graph).run();
}

}  // namespace tempo
