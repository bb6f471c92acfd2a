// Operators that make tensors of constants: ConstantOfShape, EyeLike, OneHot and Range.
#include <algorithm>
#include <cmath>

#include "enclave/nn/ops/onnx_ordered.h"
#include "enclave/nn/ops/op_defs.h"

namespace tempo {
namespace {

// --- ConstantOfShape ---

// The attribute `value`, or null for the float 0.
const Tensor* value_of(const Node& node) {
  const auto found = node.attributes.find("value");
  return found == node.attributes.end() ? nullptr : std::get_if<Tensor>(&found->second.value);
}

std::string unsupported_fill(const Graph&, const Node& node) {
  const Tensor* value = value_of(node);
  if (value == nullptr) {
    return node.attributes.contains("value") ? "its value is no tensor of numbers" : "";
  }
  return value->floats.size() + value->ints.size() == 1 ? "" : "its value must be one number";
}

DataType fill_type(const Graph&, const Node& node) {
  const Tensor* value = value_of(node);
  return value == nullptr ? DataType::kFloat32 : value->type;
}

Result<std::vector<Shape>> infer_fill(const ShapeContext& context) {
  const auto shape = constant_ints(context, 0);
  if (!shape) return shape_error(context.node, "ConstantOfShape lacks its shape", "input 0");
  for (const std::int64_t dim : *shape) {
    if (dim >= 1) continue;
    return shape_error(context.node, "ConstantOfShape's result is empty", "dimensions above 0",
                       shape_to_string(*shape));
  }
  return std::vector<Shape>{*shape};
}

void fill_forward(OpContext& context) {
  const Tensor* value = value_of(context.node);
  const std::int64_t count = element_count(context.out_shape(0));
  if (value != nullptr && value->type == DataType::kInt64) {
    std::fill_n(OpContext::ints(context.out[0]), count, value->ints[0]);
  } else {
    std::fill_n(context.out[0], count, value == nullptr ? 0.0F : value->floats[0]);
  }
}

// --- EyeLike ---

// TensorProto.DataType, which `dtype` holds; 0: as the input.
constexpr std::int64_t kOnnxFloat = 1, kOnnxInt32 = 6, kOnnxInt64 = 7, kOnnxBool = 9;

DataType eye_type(const Graph& graph, const Node& node) {
  const std::int64_t type = node.int_or("dtype", 0);
  if (type == 0) return type_of_first(graph, node);
  return type == kOnnxFloat ? DataType::kFloat32 : DataType::kInt64;
}

std::string unsupported_eye(const Graph&, const Node& node) {
  const std::int64_t type = node.int_or("dtype", 0);
  for (const std::int64_t known :
       {std::int64_t{0}, kOnnxFloat, kOnnxInt32, kOnnxInt64, kOnnxBool}) {
    if (type == known) return "";
  }
  return "only of FLOAT, INT32, INT64 and BOOL";
}

Result<std::vector<Shape>> infer_eye(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  if (context.inputs[0].size() != 2) {
    return shape_error(context.node, "EyeLike makes matrices", "rank 2",
                       shape_to_string(context.inputs[0]));
  }
  return std::vector<Shape>{context.inputs[0]};
}

template <class T>
void write_eye(const OpContext& context, T* to) {
  const Shape& shape = context.out_shape(0);
  std::fill_n(to, element_count(shape), T{0});
  const std::int64_t k = context.node.int_or("k", 0);
  if (k <= -shape[0] || k >= shape[1]) return;
  for (std::int64_t row = std::max<std::int64_t>(0, -k); row < shape[0] && row + k < shape[1];
       ++row) {
    to[row * shape[1] + row + k] = T{1};
  }
}

void eye_forward(OpContext& context) {
  if (eye_type(context.graph, context.node) == DataType::kFloat32) {
    write_eye(context, context.out[0]);
  } else {
    write_eye(context, OpContext::ints(context.out[0]));
  }
}

// --- OneHot ---

// The tensor of the two values, off and on.
DataType hot_type(const Graph& graph, const Node& node) {
  return input_tensor(graph, node, 2)->type;
}

Result<std::int64_t> depth_of(const ShapeContext& context) {
  const Tensor* tensor = input_tensor(context.graph, context.node, 1);
  double depth = 0;
  if (tensor != nullptr && tensor->floats.size() == 1)
    depth = static_cast<double>(tensor->floats[0]);
  if (tensor != nullptr && tensor->ints.size() == 1) {
    depth = static_cast<double>(ints_at(*tensor, context.batch)[0]);
  }
  if (!(depth >= 1 && depth <= static_cast<double>(kMaxTensorElements))) {
    return shape_error(context.node, "OneHot's depth makes no sense", "one number from 1 on");
  }
  return static_cast<std::int64_t>(depth);
}

// Of the result's dimension that OneHot adds.
Result<std::size_t> hot_axis(const ShapeContext& context) {
  return checked_axis(context.node, context.node.int_or("axis", -1), context.inputs[0].size() + 1);
}

std::string unsupported_hot(const Graph& graph, const Node& node) {
  const Tensor* depth = input_tensor(graph, node, 1);
  if (depth == nullptr || depth->floats.size() + depth->ints.size() != 1) {
    return "its depth must be a constant number";
  }
  const Tensor* values = input_tensor(graph, node, 2);
  if (values == nullptr || values->floats.size() + values->ints.size() != 2) {
    return "its values must be two constants";
  }
  return "";
}

Result<std::vector<Shape>> infer_hot(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const auto axis = hot_axis(context);
  if (!axis) return axis.error();
  const auto depth = depth_of(context);
  if (!depth) return depth.error();
  Shape out = context.inputs[0];
  out.insert(out.begin() + static_cast<std::ptrdiff_t>(*axis), *depth);
  return std::vector<Shape>{out};
}

// Indices outside of the depth are hot nowhere.
template <class T>
void write_hot(OpContext& context, const T* values, T* to) {
  const ShapeContext shapes = context.shape_context();
  const std::size_t axis = *hot_axis(shapes);
  const std::int64_t depth = *depth_of(shapes);
  const Shape& in = shapes.inputs[0];
  const std::int64_t inner =
      element_count(Shape(in.begin() + static_cast<std::ptrdiff_t>(axis), in.end()));
  const std::int64_t* indices = OpContext::ints(context.in[0]);
  std::fill_n(to, element_count(context.out_shape(0)), values[0]);
  for (std::int64_t i = 0; i < element_count(in); ++i) {
    const std::int64_t index = indices[i] < 0 ? indices[i] + depth : indices[i];
    if (index < 0 || index >= depth) continue;
    to[(i / inner * depth + index) * inner + i % inner] = values[1];
  }
}

void hot_forward(OpContext& context) {
  if (hot_type(context.graph, context.node) == DataType::kFloat32) {
    OnnxOrderedResult y(context.pool, context.out_shape(0), context.out_block(0), context.out[0],
                        false);
    write_hot(context, context.in[2], y.data());
    y.finish();
  } else {
    write_hot(context, OpContext::ints(context.in[2]), OpContext::ints(context.out[0]));
  }
}

// --- Range ---

constexpr double kMaxRange = 1 << 24;

struct Limits {
  double start = 0, limit = 0, delta = 1;
};

// Of constants of either type; integers up to 2^53.
Limits limits_of(const ShapeContext& context) {
  const auto number = [&](std::size_t i) {
    const Tensor& tensor = *input_tensor(context.graph, context.node, i);
    if (tensor.type == DataType::kFloat32) return static_cast<double>(tensor.floats[0]);
    return static_cast<double>(ints_at(tensor, context.batch)[0]);
  };
  return {number(0), number(1), number(2)};
}

std::string unsupported_range(const Graph& graph, const Node& node) {
  for (std::size_t i = 0; i < 3; ++i) {
    const Tensor* tensor = input_tensor(graph, node, i);
    if (tensor == nullptr || tensor->floats.size() + tensor->ints.size() != 1) {
      return "its limits must be constant numbers";
    }
    if (tensor->type != type_of_first(graph, node)) return "its limits have several types";
  }
  return "";
}

Result<std::vector<Shape>> infer_range(const ShapeContext& context) {
  const Limits limits = limits_of(context);
  const double count = std::ceil((limits.limit - limits.start) / limits.delta);
  if (!(count >= 1 && count <= kMaxRange)) {
    return shape_error(context.node, "Range has no elements, or too many",
                       "1 to " + std::to_string(static_cast<std::int64_t>(kMaxRange)),
                       std::to_string(count));
  }
  return std::vector<Shape>{{static_cast<std::int64_t>(count)}};
}

void range_forward(OpContext& context) {
  const Limits limits = limits_of(context.shape_context());
  const std::int64_t count = context.out_shape(0)[0];
  const bool is_float = type_of_first(context.graph, context.node) == DataType::kFloat32;
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = limits.start + static_cast<double>(i) * limits.delta;
    if (is_float) {
      context.out[0][i] = static_cast<float>(value);
    } else {
      OpContext::ints(context.out[0])[i] = static_cast<std::int64_t>(value);
    }
  }
}

}  // namespace

OpDef constant_of_shape_op() {
  return {.type = "ConstantOfShape",
          .min_opset = 9,
          .notes = "of a constant shape, which may contain the batch size",
          .unsupported = unsupported_fill,
          .output_type = fill_type,
          .infer = infer_fill,
          .forward = fill_forward,
          .flops_an_element = 0};
}

OpDef eye_like_op() {
  return {.type = "EyeLike",
          .min_opset = 9,
          .notes = "no gradient",
          .unsupported = unsupported_eye,
          .output_type = eye_type,
          .infer = infer_eye,
          .forward = eye_forward};
}

OpDef one_hot_op() {
  return {.type = "OneHot",
          .min_opset = 9,
          .notes = "of constant depth and values; no gradient",
          .unsupported = unsupported_hot,
          .output_type = hot_type,
          .infer = infer_hot,
          .forward = hot_forward};
}

OpDef range_op() {
  return {.type = "Range",
          .min_opset = 11,
          .notes = "between constants, which may depend on the batch size",
          .unsupported = unsupported_range,
          .output_type = type_of_first,
          .infer = infer_range,
          .forward = range_forward};
}

}  // namespace tempo
