// Shape rules against models that mean harm: every rule gives shapes or a kBadModel, whatever the
// shapes and attributes are.
#include <gtest/gtest.h>

#include <random>

#include "enclave/nn/op.h"

namespace tempo {
namespace {

struct BadNode {
  std::string name;
  std::string op_type;
  std::vector<Shape> inputs;
  std::map<std::string, Attribute> attributes = {};
  std::vector<std::int64_t> ints = {};  // Reshape's target
};

// A graph with one node.
struct OneNode {
  Graph graph;
  std::vector<Shape> shapes;

  OneNode(const std::string& op_type, const std::vector<Shape>& inputs,
          std::map<std::string, Attribute> attributes, const std::vector<std::int64_t>& ints,
          int opset = 13) {
    Node node;
    node.op_type = op_type;
    node.name = "it";
    node.opset = opset;
    node.attributes = std::move(attributes);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      Tensor tensor;
      const bool weight = i > 0 && op_type != "Add" && op_type != "MatMul";
      tensor.kind = weight ? TensorKind::kParameter : TensorKind::kActivation;
      const bool takes_ints =
          op_type.starts_with("Reduce") || op_type.starts_with("Gather") || op_type == "Reshape" ||
          op_type == "Slice" || op_type == "Pad" || op_type == "Expand" || op_type == "Squeeze" ||
          op_type == "Unsqueeze" || op_type == "Tile" || op_type == "CumSum" || op_type == "OneHot";
      if (op_type == "ConstantOfShape" || op_type == "Range" || (takes_ints && i > 0)) {
        tensor.kind = TensorKind::kConstant;
        tensor.type = DataType::kInt64;
        tensor.ints = ints;
        if (i > 1 && !ints.empty()) tensor.ints[0] += static_cast<std::int64_t>(i);
      }
      tensor.declared = inputs[i];
      if (op_type == "Conv" && i == 1) tensor.storage = Storage::kConvWeights;
      node.inputs.push_back(static_cast<TensorId>(graph.tensors.size()));
      graph.tensors.push_back(std::move(tensor));
      shapes.push_back(inputs[i]);
    }
    node.outputs = {static_cast<TensorId>(graph.tensors.size())};
    graph.tensors.emplace_back();
    graph.nodes.push_back(std::move(node));
  }

  Result<std::vector<Shape>> infer(bool allows_empty = false) const {
    const Node& node = graph.nodes[0];
    return find_op(node.op_type)
        ->infer({.graph = graph, .node = node, .inputs = shapes, .allows_empty = allows_empty});
  }
};

Attribute ints(std::vector<std::int64_t> values) {
  return {std::move(values)};
}
Attribute number(std::int64_t value) {
  return {value};
}

class BadNodes : public testing::TestWithParam<BadNode> {};

TEST_P(BadNodes, AreRefusedByName) {
  const BadNode& bad = GetParam();
  const OneNode one(bad.op_type, bad.inputs, bad.attributes, bad.ints);
  const auto shapes = one.infer();
  ASSERT_FALSE(shapes.ok());
  EXPECT_EQ(shapes.error().code, ErrorCode::kBadModel) << shapes.error().one_line();
  EXPECT_EQ(shapes.error().where, "it");
  EXPECT_FALSE(shapes.error().what.empty());
}

const std::vector<BadNode> kBadNodes = {
    {"conv_of_a_matrix", "Conv", {{2, 3}, {4, 3, 3, 3}}},
    {"conv_without_weights", "Conv", {{2, 3, 8, 8}}},
    {"conv_channels", "Conv", {{2, 3, 8, 8}, {4, 5, 3, 3}}},
    {"conv_groups_0", "Conv", {{2, 4, 8, 8}, {4, 4, 3, 3}}, {{"group", number(0)}}},
    {"conv_groups_of_inputs", "Conv", {{2, 5, 8, 8}, {4, 2, 3, 3}}, {{"group", number(2)}}},
    {"conv_groups_of_outputs", "Conv", {{2, 4, 8, 8}, {5, 2, 3, 3}}, {{"group", number(2)}}},
    {"conv_group_channels", "Conv", {{2, 4, 8, 8}, {4, 4, 3, 3}}, {{"group", number(2)}}},
    {"conv_kernel_too_large", "Conv", {{2, 3, 2, 2}, {4, 3, 3, 3}}},
    {"conv_bias", "Conv", {{2, 3, 8, 8}, {4, 3, 3, 3}, {5}}},
    {"conv_stride_0", "Conv", {{2, 3, 8, 8}, {4, 3, 3, 3}}, {{"strides", ints({0, 1})}}},
    {"conv_negative_pad", "Conv", {{2, 3, 8, 8}, {4, 3, 3, 3}}, {{"pads", ints({-1, 0, 0, 0})}}},
    {"conv_huge_dilation",
     "Conv",
     {{2, 3, 8, 8}, {4, 3, 3, 3}},
     {{"dilations", ints({std::int64_t{1} << 62, 1})}}},
    {"conv_kernel_shape", "Conv", {{2, 3, 8, 8}, {4, 3, 3, 3}}, {{"kernel_shape", ints({5, 5})}}},
    {"conv_auto_pad", "Conv", {{2, 3, 8, 8}, {4, 3, 3, 3}}, {{"auto_pad", {std::string("X")}}}},
    {"conv_empty", "Conv", {{0, 3, 8, 8}, {4, 3, 3, 3}}},
    {"gemm_inner", "Gemm", {{2, 3}, {4, 5}}},
    {"gemm_rank", "Gemm", {{2, 3, 4}, {4, 5}}},
    {"matmul_inner", "MatMul", {{2, 3}, {4, 5}}},
    {"matmul_vector", "MatMul", {{3}, {3, 5}}},
    {"matmul_batches", "MatMul", {{2, 3, 4}, {3, 4, 5}}},
    {"add_shapes", "Add", {{2, 3}, {2, 4}}},
    {"add_one_input", "Add", {{2, 3}}},
    {"norm_without_channels", "BatchNormalization", {{8}, {8}, {8}, {8}, {8}}},
    {"norm_parameters", "BatchNormalization", {{2, 8}, {8}, {8}, {7}, {8}}},
    {"group_norm_groups",
     "GroupNormalization",
     {{2, 8, 3, 3}, {3}, {3}},
     {{"num_groups", number(3)}}},
    {"group_norm_no_groups", "GroupNormalization", {{2, 8, 3, 3}, {8}, {8}}},
    {"group_norm_parameters",
     "GroupNormalization",
     {{2, 8, 3, 3}, {2}, {4}},
     {{"num_groups", number(2)}}},
    {"instance_norm_parameters", "InstanceNormalization", {{2, 8, 3, 3}, {8}, {7}}},
    {"instance_norm_without_channels", "InstanceNormalization", {{8}, {8}, {8}}},
    {"prelu_of_a_larger_slope", "PRelu", {{2, 1}, {2, 3}}},
    {"log_softmax_axis", "LogSoftmax", {{2, 3}}, {{"axis", number(-3)}}},
    {"pool_of_rows", "MaxPool", {{2, 3}}, {{"kernel_shape", ints({2, 2})}}},
    {"pool_kernel_0", "AveragePool", {{2, 3, 4, 4}}, {{"kernel_shape", ints({0, 2})}}},
    {"pool_in_padding",
     "MaxPool",
     {{2, 3, 4, 4}},
     {{"kernel_shape", ints({2, 2})}, {"pads", ints({2, 0, 0, 0})}}},
    {"pool_short_strides",
     "MaxPool",
     {{2, 3, 4, 4}},
     {{"kernel_shape", ints({2, 2})}, {"strides", ints({2})}}},
    {"global_pool_of_rows", "GlobalAveragePool", {{2, 3, 4}}},
    {"flatten_axis", "Flatten", {{2, 3}}, {{"axis", number(3)}}},
    {"softmax_axis", "Softmax", {{2, 3}}, {{"axis", number(2)}}},
    {"softmax_scalar", "Softmax", {{}}},
    {"reshape_elements", "Reshape", {{2, 3}, {2}}, {}, {4, 2}},
    {"reshape_two_open", "Reshape", {{2, 3}, {2}}, {}, {-1, -1}},
    {"reshape_negative", "Reshape", {{2, 3}, {2}}, {}, {-6, -1}},
    {"reshape_overflow",
     "Reshape",
     {{2, 3}, {2}},
     {},
     {std::int64_t{1} << 40, std::int64_t{1} << 40}},
    {"reshape_zero_beyond", "Reshape", {{2, 3}, {3}}, {}, {2, 3, 0}},
    {"reshape_indivisible", "Reshape", {{2, 3}, {2}}, {}, {4, -1}},
    {"reduce_axis", "ReduceMax", {{2, 3}, {1}}, {}, {2}},
    {"arg_max_axis", "ArgMax", {{2, 3}}, {{"axis", number(-3)}}},
    {"arg_min_scalar", "ArgMin", {{}}},
    {"cum_sum_axis", "CumSum", {{2, 3}, {}}, {}, {2}},
    {"cum_sum_two_axes", "CumSum", {{2, 3}, {2}}, {}, {0, 1}},
    {"tile_rank", "Tile", {{2, 3}, {1}}, {}, {2}},
    {"tile_nothing", "Tile", {{2, 3}, {2}}, {}, {2, 0}},
    {"tile_overflow", "Tile", {{2, 3}, {2}}, {}, {std::int64_t{1} << 62, 1}},
    {"gather_nd_tuples", "GatherND", {{2, 3}, {4, 3}}, {}, {0}},
    {"gather_nd_scalar", "GatherND", {{2, 3}, {}}, {}, {0}},
    {"gather_nd_batches", "GatherND", {{2, 3}, {4, 1}}, {{"batch_dims", number(1)}}, {0}},
    {"gather_nd_batch_dims", "GatherND", {{2, 3}, {2, 3}}, {{"batch_dims", number(2)}}, {0}},
    {"gather_elements_rank", "GatherElements", {{2, 3}, {2}}, {}, {0}},
    {"gather_elements_shape", "GatherElements", {{2, 3}, {3, 3}}, {{"axis", number(1)}}, {0}},
    {"hardmax_axis", "Hardmax", {{2, 3}}, {{"axis", number(2)}}},
    {"eye_like_rank", "EyeLike", {{2, 3, 4}}},
    {"one_hot_depth", "OneHot", {{2, 3}, {}, {2}}, {}, {0}},
    {"one_hot_axis", "OneHot", {{2, 3}, {}, {2}}, {{"axis", number(3)}}, {4}},
    {"reshape_allowzero", "Reshape", {{2, 3}, {2}}, {{"allowzero", number(1)}}, {0, 3}},
};

INSTANTIATE_TEST_SUITE_P(Table, BadNodes, testing::ValuesIn(kBadNodes),
                         [](const auto& c) { return c.param.name; });

TEST(ShapeRules, SurviveWhateverComes) {
  std::mt19937_64 rng(11);
  const auto odd = [&]() -> std::int64_t {
    switch (rng() % 8) {
      case 0:
        return static_cast<std::int64_t>(rng());
      case 1:
        return -static_cast<std::int64_t>(rng() % 5);
      case 2:
        return kMaxTensorElements;
      default:
        return static_cast<std::int64_t>(rng() % 6);
    }
  };
  const auto list = [&] {
    std::vector<std::int64_t> values(rng() % 6);
    for (auto& v : values) v = odd();
    return values;
  };
  std::int64_t accepted = 0;
  for (int round = 0; round < 40000; ++round) {
    const OpDef& op = op_table()[rng() % op_table().size()];
    std::vector<Shape> inputs(rng() % 6);
    for (Shape& shape : inputs) {
      shape = list();
      // What callers guarantee: no input has more than kMaxTensorElements.
      std::int64_t room = kMaxTensorElements;
      for (auto& dim : shape) {
        if (dim > room) dim = 1;
        if (dim > 1) room /= dim;
      }
    }
    std::map<std::string, Attribute> attributes;
    for (const char* key :
         {"kernel_shape", "strides", "pads", "dilations", "axes", "starts", "ends", "perm"}) {
      if (rng() % 3 == 0) attributes[key] = ints(list());
    }
    for (const char* key : {"axis", "ceil_mode", "group", "num_groups", "allowzero", "transB",
                            "transA", "batch_dims", "k"}) {
      if (rng() % 3 == 0) attributes[key] = number(odd());
    }
    const OneNode one(std::string(op.type), inputs, attributes, list(), rng() % 2 == 0 ? 9 : 13);
    const Node& node = one.graph.nodes[0];
    if (op.unsupported != nullptr && !op.unsupported(one.graph, node).empty()) continue;
    if (const auto lists = one.infer(true); lists.ok()) {
      for (const Shape& shape : *lists) {
        for (const std::int64_t dim : shape) ASSERT_GE(dim, 0) << op.type;
      }
    }
    const auto shapes = one.infer();
    if (!shapes.ok()) {
      EXPECT_NE(shapes.error().code, ErrorCode::kInternal);
      continue;
    }
    ++accepted;
    for (const Shape& shape : *shapes) {
      for (const std::int64_t dim : shape) ASSERT_GE(dim, 1) << op.type;
    }
  }
  EXPECT_GT(accepted, 500);  // else the test looks at refusals only
}

TEST(OpTable, HasTheOperatorsThatItPromises) {
  for (const char* type : {"Add", "AveragePool", "BatchNormalization", "Constant", "Conv",
                           "Dropout", "Flatten", "Gemm", "GlobalAveragePool", "Identity", "MatMul",
                           "MaxPool", "Relu", "Reshape", "Softmax"}) {
    const OpDef* op = find_op(type);
    ASSERT_NE(op, nullptr) << type;
    EXPECT_NE(op->infer, nullptr) << type;
  }
  EXPECT_EQ(find_op("Loop"), nullptr);
}

}  // namespace
}  // namespace tempo
