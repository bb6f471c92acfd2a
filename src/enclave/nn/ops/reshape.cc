// Flatten, Reshape, Squeeze, Unsqueeze, Identity: the elements stay, in ONNX's order; in memory
// they move where a rank-4 tensor lies channels last.
#include <algorithm>

#include "base/buffer.h"
#include "enclave/nn/feature_view.h"
#include "enclave/nn/ops/op_defs.h"

namespace tempo {
namespace {

bool keeps_order(const Node& node, const Shapes& shapes, const std::vector<int>& blocks) {
  const auto in = static_cast<std::size_t>(node.inputs[0]);
  const auto out = static_cast<std::size_t>(node.outputs[0]);
  return is_onnx_order(shapes[in], blocks[in]) && is_onnx_order(shapes[out], blocks[out]);
}

// Both sides in layouts of their own.
void move(ThreadPool& pool, const Shape& from_shape, int from_block, const float* from,
          const Shape& to_shape, int to_block, float* to, bool accumulate) {
  if (from_shape == to_shape && from_block == to_block) {
    to_onnx_order(pool, {element_count(from_shape)}, 0, from, to, accumulate);
  } else if (is_onnx_order(to_shape, to_block)) {
    to_onnx_order(pool, from_shape, from_block, from, to, accumulate);
  } else if (is_onnx_order(from_shape, from_block)) {
    from_onnx_order(pool, to_shape, to_block, from, to, accumulate);
  } else {
    AlignedBuffer<float> ordered(static_cast<std::size_t>(element_count(from_shape)));
    to_onnx_order(pool, from_shape, from_block, from, ordered.data());
    from_onnx_order(pool, to_shape, to_block, ordered.data(), to, accumulate);
  }
}

void forward(OpContext& context) {
  if (context.in[0] == context.out[0]) return;
  if (type_of_first(context.graph, context.node) == DataType::kInt64) {
    std::copy_n(OpContext::ints(context.in[0]), element_count(context.in_shape(0)),
                OpContext::ints(context.out[0]));
    return;
  }
  move(context.pool, context.in_shape(0), context.in_block(0), context.in[0], context.out_shape(0),
       context.out_block(0), context.out[0], false);
}

void backward(OpContext& context) {
  if (context.d_in[0] == nullptr || context.d_in[0] == context.d_out[0]) return;
  move(context.pool, context.out_shape(0), context.out_block(0), context.d_out[0],
       context.in_shape(0), context.in_block(0), context.d_in[0], context.accumulate[0]);
}

Result<std::vector<Shape>> infer_flatten(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  const auto rank = static_cast<std::int64_t>(in.size());
  std::int64_t axis = context.node.int_or("axis", 1);
  if (axis < -rank || axis > rank) {
    return shape_error(context.node, "Flatten's axis is out of range",
                       "from " + std::to_string(-rank) + " to " + std::to_string(rank),
                       std::to_string(axis));
  }
  if (axis < 0) axis += rank;
  const Shape rows(in.begin(), in.begin() + axis), columns(in.begin() + axis, in.end());
  return std::vector<Shape>{{element_count(rows), element_count(columns)}};
}

std::string unsupported_reshape(const Graph& graph, const Node& node) {
  const Tensor* target = input_tensor(graph, node, 1);
  if (target == nullptr || target->kind != TensorKind::kConstant ||
      target->type != DataType::kInt64) {
    return "its target shape is not a constant";
  }
  return unsupported_storage(graph, node);
}

// 0 copies the input's dimension (unless allowzero), one -1 takes what is left.
Result<std::vector<Shape>> infer_reshape(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Node& node = context.node;
  const Tensor* target = input_tensor(context.graph, node, 1);
  if (target == nullptr) return shape_error(node, "Reshape lacks its target", "input 1");
  const Shape& in = context.inputs[0];
  const bool allow_zero = node.int_or("allowzero", 0) != 0;
  const auto refuse = [&] {
    return shape_error(node, "Reshape's target does not fit its input",
                       "as many elements as in " + shape_to_string(in),
                       shape_to_string(target->ints));
  };
  const std::int64_t elements = element_count(in);
  Shape out = ints_at(*target, context.batch);
  std::int64_t known = 1;
  std::size_t open = out.size();
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i] == 0 && !allow_zero && i < in.size()) out[i] = in[i];
    if (out[i] == -1 && open == out.size()) {
      open = i;
      continue;
    }
    if (out[i] < 1 || out[i] > elements || known > elements / out[i]) return refuse();
    known *= out[i];
  }
  if (open < out.size()) {
    if (elements % known != 0) return refuse();
    out[open] = elements / known;
    known = elements;
  }
  if (known != elements) return refuse();
  return std::vector<Shape>{out};
}

// Axes are an attribute in older opsets, an input in newer ones. True where `rank` dimensions have
// a listed one.
Result<std::vector<bool>> listed_axes(const ShapeContext& context, std::size_t rank) {
  std::vector<std::int64_t> axes = context.node.ints_or("axes", {});
  if (const auto given = constant_ints(context, 1)) axes = *given;
  std::vector<bool> listed(rank, false);
  for (const std::int64_t index : axes) {
    const auto axis = checked_axis(context.node, index, rank);
    if (!axis) return axis.error();
    if (listed[*axis]) {
      return shape_error(context.node, "an axis of " + context.node.op_type + " is there twice",
                         "each axis once", std::to_string(index));
    }
    listed[*axis] = true;
  }
  return listed;
}

Result<std::vector<Shape>> infer_squeeze(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  auto listed = listed_axes(context, in.size());
  if (!listed) return listed.error();
  const bool all = std::find(listed->begin(), listed->end(), true) == listed->end();
  Shape out;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if ((*listed)[i] && in[i] != 1) {
      return shape_error(context.node, "Squeeze's dimension is not 1", "1", std::to_string(in[i]));
    }
    if (!(*listed)[i] && !(all && in[i] == 1)) out.push_back(in[i]);
  }
  return std::vector<Shape>{out};
}

Result<std::vector<Shape>> infer_unsqueeze(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  std::size_t added = context.node.ints_or("axes", {}).size();
  if (const auto given = constant_ints(context, 1)) added = given->size();
  auto listed = listed_axes(context, in.size() + added);
  if (!listed) return listed.error();
  Shape out;
  std::size_t next = 0;
  for (const bool is_new : *listed) out.push_back(is_new ? 1 : in[next++]);
  return std::vector<Shape>{out};
}

OpDef moving_op(std::string_view type) {
  return {.type = type,
          .unsupported = unsupported_storage,
          .output_type = type_of_first,
          .forward = forward,
          .backward = backward,
          .blocking = Blocking::kFree,
          .in_place_inputs = 1,
          .keeps_order = keeps_order,
          .flops_an_element = 0};
}

}  // namespace

OpDef flatten_op() {
  OpDef op = moving_op("Flatten");
  op.infer = infer_flatten;
  return op;
}

OpDef reshape_op() {
  OpDef op = moving_op("Reshape");
  op.min_opset = 5;
  op.notes = "to a constant shape, 0 and -1 allowed";
  op.unsupported = unsupported_reshape;
  op.infer = infer_reshape;
  return op;
}

OpDef squeeze_op() {
  OpDef op = moving_op("Squeeze");
  op.infer = infer_squeeze;
  return op;
}

OpDef unsqueeze_op() {
  OpDef op = moving_op("Unsqueeze");
  op.infer = infer_unsqueeze;
  return op;
}

OpDef identity_op() {
  OpDef op = moving_op("Identity");
  op.infer = same_shape;
  return op;
}

}  // namespace tempo
