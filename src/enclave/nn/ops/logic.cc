// Integers and flags: comparisons, logic, casts, and Where, which chooses by them.
#include <cmath>
#include <vector>

#include "enclave/nn/ops/broadcast.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"
#include "enclave/nn/ops/strided_loop.h"

namespace tempo {
namespace {

// TensorProto.DataType, which Cast's `to` holds.
constexpr std::int64_t kOnnxFloat = 1, kOnnxInt32 = 6, kOnnxInt64 = 7, kOnnxBool = 9;

Shape operand_strides(const OpContext& context, int i) {
  return broadcast_strides(context.in_shape(i), context.in_block(i), context.out_shape(0).size());
}
Shape result_strides(const OpContext& context) {
  return activation_strides(context.out_shape(0), context.out_block(0));
}

// --- Two operands of one type, flags out ---

template <class T, class Test>
void compare(OpContext& context) {
  const StridedLoop<3> loop(
      context.out_shape(0),
      {result_strides(context), operand_strides(context, 0), operand_strides(context, 1)});
  std::int64_t* y = OpContext::ints(context.out[0]);
  const T* a = OpContext::elements<T>(context.in[0]);
  const T* b = OpContext::elements<T>(context.in[1]);
  loop.parallel_rows(context.pool, [&](const auto& at) {
    const auto& [size, strides] = loop.inner();
    for (std::int64_t i = 0; i < size; ++i) {
      y[at[0] + i * strides[0]] =
          Test::holds(a[at[1] + i * strides[1]], b[at[2] + i * strides[2]]) ? 1 : 0;
    }
  });
}

template <class Test>
void compare_forward(OpContext& context) {
  if (type_of_first(context.graph, context.node) == DataType::kFloat32) {
    compare<float, Test>(context);
  } else {
    compare<std::int64_t, Test>(context);
  }
}

struct EqualTest {
  template <class T>
  static bool holds(T a, T b) {
    return a == b;
  }
};
struct GreaterTest {
  template <class T>
  static bool holds(T a, T b) {
    return a > b;
  }
};
struct GreaterOrEqualTest {
  template <class T>
  static bool holds(T a, T b) {
    return a >= b;
  }
};
struct LessTest {
  template <class T>
  static bool holds(T a, T b) {
    return a < b;
  }
};
struct LessOrEqualTest {
  template <class T>
  static bool holds(T a, T b) {
    return a <= b;
  }
};
struct AndTest {
  template <class T>
  static bool holds(T a, T b) {
    return a != 0 && b != 0;
  }
};
struct OrTest {
  template <class T>
  static bool holds(T a, T b) {
    return a != 0 || b != 0;
  }
};
struct XorTest {
  template <class T>
  static bool holds(T a, T b) {
    return (a != 0) != (b != 0);
  }
};

template <class Test>
OpDef compare_op(std::string_view type, int min_opset = 6) {
  return {.type = type,
          .min_opset = min_opset,
          .notes = "no gradient",
          .unsupported = unsupported_pair,
          .output_type = integer_type,
          .infer = broadcast_shape,
          .forward = compare_forward<Test>};
}

// --- One operand ---

// y = f(x), element by element, whatever the types and layouts.
template <class From, class To, class Map>
void map_elements(OpContext& context, const From* x, To* y, const Map& map) {
  const StridedLoop<2> loop(context.out_shape(0),
                            {result_strides(context), operand_strides(context, 0)});
  loop.parallel_rows(context.pool, [&](const auto& at) {
    const auto& [size, strides] = loop.inner();
    for (std::int64_t i = 0; i < size; ++i) {
      y[at[0] + i * strides[0]] = map(x[at[1] + i * strides[1]]);
    }
  });
}

void not_forward(OpContext& context) {
  map_elements(context, OpContext::ints(context.in[0]), OpContext::ints(context.out[0]),
               [](std::int64_t x) { return std::int64_t{x == 0}; });
}

void is_nan_forward(OpContext& context) {
  map_elements(context, context.in[0], OpContext::ints(context.out[0]),
               [](float x) { return std::int64_t{std::isnan(x)}; });
}

void is_inf_forward(OpContext& context) {
  const bool negative = context.node.int_or("detect_negative", 1) != 0;
  const bool positive = context.node.int_or("detect_positive", 1) != 0;
  map_elements(context, context.in[0], OpContext::ints(context.out[0]), [=](float x) {
    return std::int64_t{std::isinf(x) && (x < 0 ? negative : positive)};
  });
}

DataType cast_type(const Graph&, const Node& node) {
  return node.int_or("to", 0) == kOnnxFloat ? DataType::kFloat32 : DataType::kInt64;
}

std::string unsupported_cast(const Graph& graph, const Node& node) {
  const std::int64_t to = node.int_or("to", 0);
  if (to != kOnnxFloat && to != kOnnxInt32 && to != kOnnxInt64 && to != kOnnxBool) {
    return "only to FLOAT, INT32, INT64 and BOOL";
  }
  return unsupported_storage(graph, node);
}

// Towards 0, as in C; what does not fit has no meaning in ONNX and is 0 here.
std::int64_t to_integer(float x) {
  return std::abs(x) < 0x1p63F ? static_cast<std::int64_t>(x) : 0;
}

void cast_forward(OpContext& context) {
  const std::int64_t to = context.node.int_or("to", 0);
  const bool from_float = type_of_first(context.graph, context.node) == DataType::kFloat32;
  const std::int64_t* integers = OpContext::ints(context.in[0]);
  if (to == kOnnxFloat && from_float) {
    map_elements(context, context.in[0], context.out[0], [](float x) { return x; });
  } else if (to == kOnnxFloat) {
    map_elements(context, integers, context.out[0],
                 [](std::int64_t x) { return static_cast<float>(x); });
  } else if (from_float) {
    map_elements(context, context.in[0], OpContext::ints(context.out[0]),
                 [to](float x) { return to == kOnnxBool ? std::int64_t{x != 0} : to_integer(x); });
  } else {
    map_elements(context, integers, OpContext::ints(context.out[0]), [to](std::int64_t x) {
      if (to == kOnnxBool) return std::int64_t{x != 0};
      return to == kOnnxInt32 ? std::int64_t{static_cast<std::int32_t>(x)} : x;
    });
  }
}

// --- Where ---

Result<std::vector<Shape>> infer_where(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 3));
  ShapeContext branches{context.graph, context.node, context.inputs, context.batch};
  branches.inputs[0] = context.inputs[1];
  branches.inputs[1] = context.inputs[2];
  auto both = broadcast_shape(branches);
  if (!both) return both;
  branches.inputs[1] = (*both)[0];
  branches.inputs[0] = context.inputs[0];
  return broadcast_shape(branches);
}

DataType type_of_second(const Graph& graph, const Node& node) {
  return input_tensor(graph, node, 1)->type;
}

std::string unsupported_where(const Graph& graph, const Node& node) {
  const Tensor* a = input_tensor(graph, node, 1);
  const Tensor* b = input_tensor(graph, node, 2);
  if (a == nullptr || b == nullptr || a->type != b->type) return "its branches have several types";
  return unsupported_storage(graph, node);
}

template <class T>
void choose(OpContext& context, const T* a, const T* b, T* y) {
  const StridedLoop<4> loop(context.out_shape(0),
                            {result_strides(context), operand_strides(context, 0),
                             operand_strides(context, 1), operand_strides(context, 2)});
  const std::int64_t* condition = OpContext::ints(context.in[0]);
  loop.parallel_rows(context.pool, [&](const auto& at) {
    const auto& [size, strides] = loop.inner();
    for (std::int64_t i = 0; i < size; ++i) {
      y[at[0] + i * strides[0]] = condition[at[1] + i * strides[1]] != 0
                                      ? a[at[2] + i * strides[2]]
                                      : b[at[3] + i * strides[3]];
    }
  });
}

void where_forward(OpContext& context) {
  if (type_of_second(context.graph, context.node) == DataType::kFloat32) {
    choose(context, context.in[1], context.in[2], context.out[0]);
  } else {
    choose(context, OpContext::ints(context.in[1]), OpContext::ints(context.in[2]),
           OpContext::ints(context.out[0]));
  }
}

// The gradient goes to the branch that was chosen, summed over what was broadcast.
void where_backward(OpContext& context) {
  const std::int64_t* condition = OpContext::ints(context.in[0]);
  for (const int side : {1, 2}) {
    const auto branch = static_cast<std::size_t>(side);
    float* dx = context.d_in[branch];
    if (dx == nullptr) continue;
    const StridedLoop<3> loop(
        context.out_shape(0),
        {result_strides(context), operand_strides(context, 0), operand_strides(context, side)});
    const auto& inner = loop.inner();
    const auto share = [&](const auto& at, std::int64_t i) {
      const bool is_first = condition[at[1] + i * inner.strides[1]] != 0;
      return is_first == (side == 1) ? context.d_out[0][at[0] + i * inner.strides[0]] : 0.0F;
    };
    const Shape& shape = context.in_shape(side);
    if (shape == context.out_shape(0)) {
      const bool accumulate = context.accumulate[branch];
      loop.parallel_rows(context.pool, [&](const auto& at) {
        for (std::int64_t i = 0; i < inner.size; ++i) {
          float& target = dx[at[2] + i * inner.strides[2]];
          target = accumulate ? target + share(at, i) : share(at, i);
        }
      });
      continue;
    }
    std::vector<double> sums(static_cast<std::size_t>(element_count(shape)), 0.0);
    loop.all_rows([&](const auto& at) {
      for (std::int64_t i = 0; i < inner.size; ++i) {
        sums[static_cast<std::size_t>(at[2] + i * inner.strides[2])] +=
            static_cast<double>(share(at, i));
      }
    });
    store_sums(sums, dx, context.accumulate[branch]);
  }
}

OpDef one_operand_op(std::string_view type, void (*forward)(OpContext&)) {
  return {.type = type,
          .notes = "no gradient",
          .unsupported = unsupported_storage,
          .output_type = integer_type,
          .infer = same_shape,
          .forward = forward};
}

}  // namespace

OpDef and_op() {
  return compare_op<AndTest>("And");
}
OpDef equal_op() {
  return compare_op<EqualTest>("Equal");
}
OpDef greater_op() {
  return compare_op<GreaterTest>("Greater");
}
OpDef greater_or_equal_op() {
  return compare_op<GreaterOrEqualTest>("GreaterOrEqual", 12);
}
OpDef less_op() {
  return compare_op<LessTest>("Less");
}
OpDef less_or_equal_op() {
  return compare_op<LessOrEqualTest>("LessOrEqual", 12);
}
OpDef or_op() {
  return compare_op<OrTest>("Or");
}
OpDef xor_op() {
  return compare_op<XorTest>("Xor");
}
OpDef not_op() {
  return one_operand_op("Not", not_forward);
}
OpDef is_inf_op() {
  OpDef op = one_operand_op("IsInf", is_inf_forward);
  op.min_opset = 10;
  return op;
}
OpDef is_nan_op() {
  return one_operand_op("IsNaN", is_nan_forward);
}
OpDef cast_op() {
  OpDef op = one_operand_op("Cast", cast_forward);
  op.notes = "between float32, integers and flags; no gradient";
  op.unsupported = unsupported_cast;
  op.output_type = cast_type;
  return op;
}
OpDef where_op() {
  return {.type = "Where",
          .min_opset = 9,
          .notes = "with broadcasting",
          .unsupported = unsupported_where,
          .output_type = type_of_second,
          .infer = infer_where,
          .forward = where_forward,
          .backward = where_backward,
          .needs = {.inputs = true}};
}

}  // namespace tempo
