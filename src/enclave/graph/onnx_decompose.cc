#include "enclave/graph/onnx_decompose.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

#include "enclave/graph/onnx_attention.h"
#include "enclave/graph/onnx_split.h"

namespace tempo {
namespace {

constexpr std::int64_t kOnnxFloat = 1;  // TensorProto.DataType

class Decomposer {
 public:
  Decomposer(const Node& node, const NodeNames& names, const std::vector<OperandInfo>& operands,
             const FreshName& fresh_name)
      : node_(node), names_(names), operands_(operands), parts_(node, fresh_name) {}

  std::optional<Decomposition> run() {
    const std::string& type = node_.op_type;
    if (names_.outputs.size() != 1 || names_.outputs[0].empty()) return std::nullopt;
    const bool is_extreme = type == "Max" || type == "Min";
    if (type == "Sum" || (is_extreme && names_.inputs.size() != 2)) return list();
    if (!has(0)) return std::nullopt;
    std::optional<Decomposition> done;
    if (node_.opset < 7 && is_binary(type)) done = align_operand();
    if (node_.opset < 7 && type == "PRelu") done = align_slope();
    if (type == "Pow" && !done) done = cast_exponent();
    if (type == "CastLike") done = cast_like();
    if (type == "Mean") done = mean();
    if (type == "ReduceMean") done = mean_of_images();
    if (type == "DepthToSpace") done = depth_to_space();
    if (type == "SpaceToDepth") done = space_to_depth();
    if (type == "Gemm") done = gemm();
    return done;
  }

 private:
  static bool is_binary(std::string_view type) {
    constexpr std::array<std::string_view, 11> kBinary = {
        "Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"};
    return std::ranges::find(kBinary, type) != kBinary.end();
  }

  bool has(std::size_t i) const { return i < operands_.size() && operands_[i].is_there; }
  // At the first probe batch size; null when it is not known.
  const Shape* shape(std::size_t i) const {
    return has(i) && operands_[i].shapes ? &(*operands_[i].shapes)[0] : nullptr;
  }

  static Decomposition refuse(std::string reason) {
    return Decomposition::refused(std::move(reason));
  }
  Decomposition finish() { return parts_.finish(names_.outputs[0]); }

  // Operators of any number of operands, as a chain of those of two.
  Decomposition list() {
    const std::string type = node_.op_type == "Sum" ? "Add" : node_.op_type;
    if (names_.inputs.size() < 2) parts_.add("Identity", names_.inputs);
    std::string sum = names_.inputs.empty() ? "" : names_.inputs[0];
    for (std::size_t i = 1; i < names_.inputs.size(); ++i) {
      sum = parts_.add(type, {sum, names_.inputs[i]});
    }
    return finish();
  }

  // Before opset 7, `axis` says which dimension of the first operand the second one starts at, and
  // nothing broadcasts unless `broadcast` says so.
  std::optional<Decomposition> align_operand() {
    if (!node_.attributes.contains("axis") && !node_.attributes.contains("broadcast")) {
      return std::nullopt;
    }
    const Shape* a = shape(0);
    const Shape* b = shape(1);
    if (names_.inputs.size() != 2 || a == nullptr || b == nullptr) {
      return refuse("the shapes of its operands are not known");
    }
    const bool broadcasts = node_.int_or("broadcast", 0) != 0;
    const auto rank = static_cast<std::int64_t>(a->size());
    const auto own = static_cast<std::int64_t>(b->size());
    if (broadcasts ? own > rank : *a != *b) return refuse("its operands do not broadcast");
    std::int64_t axis = node_.int_or("axis", rank - own);
    if (axis < 0 && axis >= -rank) axis += rank;
    if (axis < 0 || axis > rank - own) return refuse("its axis is out of range");
    return with_trailing_dims(own, rank - axis);
  }

  // Likewise, a vector of slopes is one a channel.
  std::optional<Decomposition> align_slope() {
    const Shape* x = shape(0);
    const Shape* slope = shape(1);
    if (x == nullptr || slope == nullptr || x->size() < 3 || slope->size() != 1 ||
        slope->front() == 1) {
      return std::nullopt;
    }
    return with_trailing_dims(1, static_cast<std::int64_t>(x->size()) - 1);
  }

  // The node, once its second operand has dimensions of 1 at the end, `rank` in all.
  Decomposition with_trailing_dims(std::int64_t own, std::int64_t rank) {
    std::string second = names_.inputs[1];
    std::vector<std::int64_t> missing;
    for (std::int64_t dim = own; dim < rank; ++dim) missing.push_back(dim);
    if (!missing.empty()) {
      second = parts_.add("Unsqueeze", {second}, {{"axes", {std::move(missing)}}});
    }
    std::map<std::string, Attribute> attributes = node_.attributes;
    attributes.erase("axis");
    attributes.erase("broadcast");
    parts_.add(node_.op_type, {names_.inputs[0], second}, std::move(attributes));
    return finish();
  }

  // Numbers to integer powers.
  std::optional<Decomposition> cast_exponent() {
    if (!has(1) || operands_[0].type != DataType::kFloat32 ||
        operands_[1].type != DataType::kInt64) {
      return std::nullopt;
    }
    const std::string exponent = parts_.add("Cast", {names_.inputs[1]}, {{"to", {kOnnxFloat}}});
    parts_.add("Pow", {names_.inputs[0], exponent});
    return finish();
  }

  std::optional<Decomposition> cast_like() {
    if (names_.inputs.size() != 2 || !has(1)) return std::nullopt;
    std::int64_t to = kOnnxFloat;
    if (operands_[1].type == DataType::kInt64) {
      to = operands_[1].onnx_type;
      if (to == 0) return refuse("the type that it casts to is not known");
    }
    parts_.add("Cast", {names_.inputs[0]}, {{"to", {to}}});
    return finish();
  }

  Decomposition mean() {
    const std::string sum = parts_.add("Sum", names_.inputs);
    if (names_.inputs.size() > 1) {
      parts_.add("Div", {sum, parts_.number(static_cast<float>(names_.inputs.size()))});
    }
    return finish();
  }

  // The mean over both image axes: how newer exporters write global average pooling.
  std::optional<Decomposition> mean_of_images() {
    if (!operands_[0].is_activation) return std::nullopt;
    std::vector<std::int64_t> axes = node_.ints_or("axes", {});
    if (has(1)) {
      if (!operands_[1].ints || operands_[1].ints->depends_on_batch()) return std::nullopt;
      axes = operands_[1].ints->at[0];
    }
    for (std::int64_t& axis : axes) axis = axis < 0 ? axis + 4 : axis;
    std::ranges::sort(axes);
    const bool has_other_rank = shape(0) != nullptr && shape(0)->size() != 4;
    if (axes != std::vector<std::int64_t>{2, 3} || has_other_rank) return std::nullopt;
    const std::string pooled = parts_.add("GlobalAveragePool", {names_.inputs[0]});
    if (node_.int_or("keepdims", 1) == 0) parts_.add("Flatten", {pooled});
    return finish();
  }

  bool has_blocks() const { return shape(0)->size() == 4 && node_.int_or("blocksize", 0) >= 1; }

  Decomposition depth_to_space() {
    if (shape(0) == nullptr) return refuse("the shape of its input is not known");
    const Shape& in = *shape(0);
    const std::int64_t b = node_.int_or("blocksize", 0);
    // Divided twice, since the square could overflow.
    if (!has_blocks() || in[1] % b != 0 || in[1] / b % b != 0) {
      return refuse("its blocks do not fit its input");
    }
    const std::int64_t channels = in[1] / b / b;
    const std::string mode = node_.string_or("mode", "DCR");
    if (mode != "DCR" && mode != "CRD") return refuse("its mode " + mode + " is unknown");
    const bool channels_last = mode == "DCR";
    const std::string blocks = parts_.add(
        "Reshape",
        {names_.inputs[0], channels_last ? parts_.ints({0, b, b, channels, in[2], in[3]})
                                         : parts_.ints({0, channels, b, b, in[2], in[3]})});
    const std::string moved =
        parts_.add("Transpose", {blocks},
                   {{"perm", {channels_last ? Shape{0, 3, 4, 1, 5, 2} : Shape{0, 1, 4, 2, 5, 3}}}});
    parts_.add("Reshape", {moved, parts_.ints({0, channels, in[2] * b, in[3] * b})});
    return finish();
  }

  Decomposition space_to_depth() {
    if (shape(0) == nullptr) return refuse("the shape of its input is not known");
    const Shape& in = *shape(0);
    const std::int64_t b = node_.int_or("blocksize", 0);
    if (!has_blocks() || in[2] % b != 0 || in[3] % b != 0) {
      return refuse("its blocks do not fit its input");
    }
    const std::string blocks = parts_.add(
        "Reshape", {names_.inputs[0], parts_.ints({0, in[1], in[2] / b, b, in[3] / b, b})});
    const std::string moved =
        parts_.add("Transpose", {blocks}, {{"perm", {Shape{0, 3, 5, 1, 2, 4}}}});
    parts_.add("Reshape", {moved, parts_.ints({0, in[1] * b * b, in[2] / b, in[3] / b})});
    return finish();
  }

  // What Gemm adds is a vector of the output's columns.
  bool adds_a_bias(const Shape& weights) const {
    const Shape* c = shape(2);
    const std::int64_t m = weights[node_.int_or("transB", 0) != 0 ? 0 : 1];
    return c != nullptr && !operands_[2].is_activation && (*c == Shape{m} || *c == Shape{1, m});
  }
  // Broadcasting must not make the product any larger.
  bool addend_fits(const Shape& a, const Shape& b, std::size_t batch) const {
    const Shape& c = (*operands_[2].shapes)[batch];
    const Shape product = {a[node_.int_or("transA", 0) != 0 ? 1 : 0],
                           b[node_.int_or("transB", 0) != 0 ? 0 : 1]};
    if (c.size() > 2) return false;
    for (std::size_t i = 1; i <= c.size(); ++i) {
      if (c[c.size() - i] != 1 && c[c.size() - i] != product[2 - i]) return false;
    }
    return true;
  }

  // alpha * A' * B' + beta * C, where it is more than a product by weights and a bias.
  std::optional<Decomposition> gemm() {
    if (names_.inputs.size() < 2 || names_.inputs.size() > 3 || shape(0) == nullptr ||
        shape(1) == nullptr || shape(0)->size() != 2 || shape(1)->size() != 2 ||
        element_count(*shape(1)) == 0) {
      return std::nullopt;
    }
    const float alpha = node_.float_or("alpha", 1), beta = node_.float_or("beta", 1);
    const bool transposes_a = node_.int_or("transA", 0) != 0;
    const bool is_plain = !transposes_a && alpha == 1 && !operands_[1].is_activation &&
                          (!has(2) || (beta == 1 && adds_a_bias(*shape(1))));
    if (is_plain) return std::nullopt;
    if (has(2)) {
      if (shape(2) == nullptr) return std::nullopt;
      for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
        if (addend_fits((*operands_[0].shapes)[batch], (*operands_[1].shapes)[batch], batch)) {
          continue;
        }
        return refuse("C does not broadcast to the product");
      }
    }
    const auto transposed = [&](std::size_t i) {
      return parts_.add("Transpose", {names_.inputs[i]}, {{"perm", {Shape{1, 0}}}});
    };
    const std::string a = transposes_a ? transposed(0) : names_.inputs[0];
    const std::string b = node_.int_or("transB", 0) != 0 ? transposed(1) : names_.inputs[1];
    std::string product = parts_.add("MatMul", {a, b});
    if (alpha != 1) product = parts_.add("Mul", {product, parts_.number(alpha)});
    if (has(2)) {
      const std::string& c = names_.inputs[2];
      parts_.add("Add", {product, beta == 1 ? c : parts_.add("Mul", {c, parts_.number(beta)})});
    }
    return finish();
  }

  const Node& node_;
  const NodeNames& names_;
  const std::vector<OperandInfo>& operands_;
  DecompositionBuilder parts_;
};

}  // namespace

Result<std::optional<Decomposition>> decompose(const Node& node, const NodeNames& names,
                                               const std::vector<OperandInfo>& operands,
                                               const FreshName& fresh_name) {
  using Out = std::optional<Decomposition>;
  if (node.op_type == "Attention") {
    return Out(decompose_attention(node, names, operands, fresh_name));
  }
  if (node.op_type == "Split") {
    Result<Decomposition> parts = decompose_split(node, names, operands, fresh_name);
    if (!parts) return parts.error();
    return Out(std::move(*parts));
  }
  return Decomposer(node, names, operands, fresh_name).run();
}

}  // namespace tempo
