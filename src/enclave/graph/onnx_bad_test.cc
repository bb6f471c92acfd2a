// What a damaged, hostile or merely unsuitable file gets: one clear error, never a crash.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "enclave/graph/onnx_import.h"
#include "enclave/graph/onnx_parse.h"
#include "enclave/graph/test_models.h"

namespace tempo {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using namespace test;

// The error of an import that must fail.
Error failure(const std::vector<std::byte>& file, ImportOptions options = {}) {
  const Result<OnnxModel> model = OnnxModel::import(file, options);
  if (model.ok()) {
    ADD_FAILURE() << "imported";
    return {};
  }
  return model.error();
}
Error failure(const onnx::ModelProto& model) {
  return failure(to_bytes(model));
}

void expect_bad(const onnx::ModelProto& model, const std::string& text) {
  const Error error = failure(model);
  EXPECT_EQ(error.code, ErrorCode::kBadModel) << error.one_line();
  EXPECT_THAT(error.one_line(), HasSubstr(text));
}

void expect_unsupported(const onnx::ModelProto& model, const std::string& text) {
  const Error error = failure(model);
  EXPECT_EQ(error.code, ErrorCode::kUnsupportedModel) << error.one_line();
  EXPECT_THAT(error.one_line(), HasSubstr(text));
}

TEST(BadBytes, EmptyAndForeignFiles) {
  EXPECT_EQ(failure(std::vector<std::byte>{}).code, ErrorCode::kBadModel);
  for (const std::string text : {"\x89PNG\r\n\x1a\n", "PK\x03\x04", "{\"model\": 1}", "\xff\xff"}) {
    const auto* data = reinterpret_cast<const std::byte*>(text.data());
    EXPECT_EQ(failure({data, data + text.size()}).code, ErrorCode::kBadModel) << text;
  }
}

TEST(BadBytes, RandomBytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bytes(random() % 200);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    failure(bytes);
  }
}

TEST(BadBytes, EveryTruncation) {
  const std::vector<std::byte> file = to_bytes(small_model());
  for (std::size_t length = 0; length < file.size(); ++length) {
    const Error error = failure({file.begin(), file.begin() + static_cast<std::ptrdiff_t>(length)});
    EXPECT_EQ(error.code, ErrorCode::kBadModel) << length;
  }
}

TEST(BadBytes, EveryFlippedByteIsAnErrorOrAModel) {
  const std::vector<std::byte> file = read_fixture("mlp_opset13.onnx");
  ASSERT_FALSE(file.empty());
  std::mt19937 random(2);
  for (std::size_t at = 0; at < file.size(); ++at) {
    std::vector<std::byte> damaged = file;
    damaged[at] ^= static_cast<std::byte>(1 + random() % 255);
    const Result<OnnxModel> model = OnnxModel::import(damaged, {});
    if (!model.ok()) {
      EXPECT_FALSE(model.error().what.empty());
      continue;
    }
    EXPECT_TRUE(model->export_file().ok());
  }
}

TEST(BadBytes, FieldsAndNestingAreBounded) {
  // Field 1 of a graph (a node) of length 0, over and over: two bytes that cost an object each.
  std::string nodes;
  while (nodes.size() < 2 * static_cast<std::size_t>(kMaxModelFields) + 2)
    nodes += std::string("\x0a") + '\0';
  onnx::ModelProto shell;
  std::string file = "\x3a";  // field 7, the graph
  for (std::size_t length = nodes.size(); length > 0; length >>= 7) {
    file += static_cast<char>((length & 0x7f) | (length >> 7 > 0 ? 0x80 : 0));
  }
  file += nodes;
  const auto* data = reinterpret_cast<const std::byte*>(file.data());
  const Error fields = failure({data, data + file.size()});
  EXPECT_THAT(fields.one_line(), HasSubstr("fields"));

  onnx::ModelProto deep = small_model();
  onnx::GraphProto* graph = deep.mutable_graph();
  for (int i = 0; i < kMaxModelNesting; ++i) {
    onnx::AttributeProto* attribute = graph->add_node()->add_attribute();
    attribute->set_type(onnx::AttributeProto::GRAPH);
    graph = attribute->mutable_g();
  }
  expect_bad(deep, "nested");
}

TEST(BadStructure, GraphInputsAndOutputs) {
  onnx::ModelProto model = small_model();
  model.clear_graph();
  expect_bad(model, "no graph");
  model = small_model();
  model.mutable_graph()->clear_input();
  expect_bad(model, "nothing makes");
  model = small_model();
  model.mutable_graph()->clear_output();
  expect_bad(model, "no output");
  model = small_model();
  add_output(&model, "missing");
  expect_bad(model, "missing");
  model = small_model();
  add_output(&model, "w");
  expect_unsupported(model, "does not depend on the input");
  model = small_model();
  set_value_info(model.mutable_graph()->add_input(), "x", {0, 4});
  expect_bad(model, "same name");
}

TEST(BadStructure, InputShapes) {
  const auto with_input = [](const Shape& dims) {
    onnx::ModelProto model = small_model();
    set_value_info(model.mutable_graph()->mutable_input(0), "x", dims);
    return model;
  };
  expect_unsupported(with_input({0, 0}), "only the first dimension");
  expect_unsupported(with_input({0, -4}), "only the first dimension");
  expect_unsupported(with_input({}), "no usable shape");
  expect_unsupported(with_input({0, 1, 1, 1, 1, 1, 1, 1, 1}), "no usable shape");
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  expect_bad(with_input({0, huge}), "too large");
  expect_bad(with_input({0, huge, huge}), "too large");
  EXPECT_EQ(failure(with_input({0, 5})).code, ErrorCode::kBadModel);
  onnx::ModelProto half = small_model();
  set_value_info(half.mutable_graph()->mutable_input(0), "x", {0, 4}, onnx::TensorProto::FLOAT16);
  expect_unsupported(half, "float32");
}

TEST(BadStructure, NamesAndEdges) {
  onnx::ModelProto model = small_model();
  add_floats(&model, "w", {3, 4});
  expect_bad(model, "same name");
  model = small_model();
  add_node(&model, "Relu", {"z"}, {"y"});
  expect_bad(model, "made twice");
  model = small_model();
  add_node(&model, "Relu", {"z"}, {"w"});
  expect_bad(model, "made twice");
  model = small_model();
  add_node(&model, "Relu", {"ghost"}, {"other"});
  expect_bad(model, "ghost");
  model = small_model();
  add_node(&model, "Add", {"z", "loop2"}, {"loop1"});
  add_node(&model, "Relu", {"loop1"}, {"loop2"});
  expect_bad(model, "cycle");
  model = small_model();
  add_node(&model, "Relu", {"self"}, {"self"});
  expect_bad(model, "cycle");
  model = small_model();
  model.mutable_graph()->mutable_node(0)->set_input(1, "");
  expect_bad(model, "lacks an input");
  model = small_model();
  model.mutable_graph()->mutable_node(0)->clear_input();
  expect_bad(model, "wrong number of inputs");
  model = small_model();
  for (int i = 0; i < 9; ++i) model.mutable_graph()->mutable_node(1)->add_input("z");
  expect_bad(model, "wrong number of inputs");
}

TEST(BadStructure, AttributeTypes) {
  onnx::ModelProto model = small_model();
  onnx::AttributeProto* attribute = model.mutable_graph()->mutable_node(0)->mutable_attribute(0);
  attribute->set_type(onnx::AttributeProto::FLOAT);
  expect_bad(model, "transB");
  attribute->set_type(onnx::AttributeProto::INT);
  *model.mutable_graph()->mutable_node(0)->add_attribute() = *attribute;
  expect_bad(model, "twice");
}

TEST(BadTensor, SizesAgainstDimensions) {
  const auto with = [](auto change) {
    onnx::ModelProto model = small_model();
    change(model.mutable_graph()->mutable_initializer(0));
    return model;
  };
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  expect_bad(with([](auto* w) { w->add_float_data(1); }), "does not match");
  expect_bad(with([](auto* w) { w->clear_float_data(); }), "does not match");
  expect_bad(with([](auto* w) { w->set_raw_data(std::string(47, 'a')); }), "does not match");
  expect_bad(with([](auto* w) { w->set_raw_data(std::string(48, 'a')); }), "does not match");
  expect_bad(with([](auto* w) { w->set_dims(0, -3); }), "impossible");
  expect_bad(with([huge](auto* w) { w->set_dims(0, huge); }), "impossible");
  expect_bad(with([huge](auto* w) { w->add_dims(huge); }), "impossible");
  expect_bad(with([](auto* w) {
               w->set_dims(0, 0);
               w->clear_float_data();
             }),
             "empty");
  expect_bad(with([](auto* w) { w->set_data_location(onnx::TensorProto::EXTERNAL); }),
             "outside the file");
  expect_unsupported(with([](auto* w) { w->mutable_segment()->set_begin(1); }), "segments");
  expect_unsupported(with([](auto* w) {
                       for (int i = 0; i < 9; ++i) w->add_dims(1);
                     }),
                     "too many dimensions");
}

TEST(BadTensor, ElementTypes) {
  for (const auto type : {onnx::TensorProto::FLOAT16, onnx::TensorProto::DOUBLE,
                          onnx::TensorProto::BFLOAT16, onnx::TensorProto::STRING}) {
    onnx::ModelProto model = small_model();
    model.mutable_graph()->mutable_initializer(0)->set_data_type(type);
    expect_unsupported(model, onnx::TensorProto::DataType_Name(type));
  }
  onnx::ModelProto model = small_model();
  model.mutable_graph()->mutable_initializer(0)->set_data_type(9999);
  expect_unsupported(model, "9999");
  onnx::TensorProto* w = model.mutable_graph()->mutable_initializer(0);
  w->set_data_type(onnx::TensorProto::INT64);
  w->clear_float_data();
  for (int i = 0; i < 12; ++i) w->add_int64_data(i);
  expect_bad(model, "wrong type");
}

TEST(BadTensor, TwoUsesThatExcludeEachOther) {
  onnx::ModelProto model = empty_model({0, 4});
  add_floats(&model, "w", {4, 4});
  add_int(add_node(&model, "Gemm", {"x", "w"}, {"a"}), "transB", 1);
  add_node(&model, "Gemm", {"a", "w"}, {"y"});
  add_output(&model, "y");
  expect_unsupported(model, "two ways");
  // The same use twice is a shared parameter.
  add_int(model.mutable_graph()->mutable_node(1), "transB", 1);
  EXPECT_TRUE(import_model(model).ok());
}

TEST(Opset, OutsideTheRange) {
  for (const int opset : {5, static_cast<int>(kNewestOpset) + 1, 0, -1}) {
    onnx::ModelProto model = small_model();
    model.mutable_opset_import(0)->set_version(opset);
    expect_unsupported(model, "6 to 28");
  }
  onnx::ModelProto model = small_model();
  model.clear_opset_import();
  expect_bad(model, "operator set");
  model = small_model();
  model.add_opset_import()->set_version(13);
  expect_bad(model, "twice");
}

TEST(Unsupported, AllNodesAtOnce) {
  onnx::ModelProto model = empty_model({0, 4, 6, 6}, 17);
  add_floats(&model, "w", {4, 4, 3});
  add_node(&model, "Conv", {"x", "w"}, {"line"});
  add_node(&model, "Gelu", {"line"}, {"gelu"});
  add_node(&model, "Relu", {"gelu"}, {"fine"});
  add_node(&model, "Fused", {"fine"}, {"vendor"})->set_domain("com.example");
  add_node(&model, "Shape", {"vendor"}, {"shape"});
  add_ints(&model, "index", {0});
  add_node(&model, "Gather", {"shape", "index"}, {"batch"});
  add_ints(&model, "rest", {-1});
  add_int(add_node(&model, "Concat", {"batch", "rest"}, {"target"}), "axis", 0);
  add_node(&model, "Reshape", {"vendor", "target"}, {"flat"});
  add_node(&model, "MaxPool", {"fine"}, {"pooled", "indices"});
  add_node(&model, "Relu", {"indices"}, {"reader"});
  add_output(&model, "flat");
  const std::string line = failure(model).one_line();
  EXPECT_EQ(failure(model).code, ErrorCode::kUnsupportedModel);
  EXPECT_THAT(line, HasSubstr("4 nodes are not supported"));
  EXPECT_THAT(line, HasSubstr("line_node (Conv, opset 17, forward): only two-dimensional"));
  EXPECT_THAT(line, HasSubstr("gelu_node (Gelu, opset 17, forward)"));
  EXPECT_THAT(line, HasSubstr("vendor_node (Fused, opset 17, forward): operators of domain "
                              "com.example"));
  EXPECT_THAT(line, HasSubstr("pooled_node (MaxPool, opset 17, forward)"));
  // Consequences of the above are not listed.
  EXPECT_THAT(line, Not(HasSubstr("Gather")));
  EXPECT_THAT(line, Not(HasSubstr("Reshape")));
}

TEST(Unsupported, ALongListIsCut) {
  onnx::ModelProto model = empty_model({0, 4});
  std::string last = "x";
  for (int i = 0; i < 1200; ++i) {
    const std::string next = "v" + std::to_string(i);
    add_node(&model, "Det", {last}, {next});
    last = next;
  }
  add_output(&model, last);
  EXPECT_THAT(failure(model).one_line(), HasSubstr("and 200 more"));
}

TEST(Unsupported, ReshapeThatMergesAFixedBatch) {
  onnx::ModelProto model = empty_model({2, 4});
  add_ints(&model, "target", {8});
  add_node(&model, "Reshape", {"x", "target"}, {"y"});
  add_output(&model, "y");
  expect_unsupported(model, "symbolic batch size");
}

TEST(Unsupported, OutputWithoutTheBatchFirst) {
  onnx::ModelProto model = empty_model({0, 4});
  add_ints(&model, "target", {4, -1});
  add_node(&model, "Reshape", {"x", "target"}, {"y"});
  add_output(&model, "y");
  expect_unsupported(model, "batch as first dimension");
}

// Well-formed files whose operators, edges, shapes and attributes are drawn at random: they pass
// the structure checks and reach the operators' own rules.
class RandomModel {
 public:
  explicit RandomModel(std::uint32_t seed) : random_(seed) {}

  onnx::ModelProto make() {
    const Shape input = below(3) == 0 ? Shape{0, 4} : Shape{0, dim(), dim(), dim()};
    onnx::ModelProto model =
        empty_model(input, kOldestOpset + static_cast<int>(below(kNewestOpset - kOldestOpset + 1)));
    std::vector<std::string> names = {"x"};
    for (int i = 0; i < 6; ++i) {
      Shape dims(below(5));
      for (std::int64_t& d : dims) d = dim();
      names.push_back(add_floats(&model, "w" + std::to_string(i), dims)->name());
      std::vector<std::int64_t> ints(below(4));
      for (std::int64_t& value : ints) value = number();
      names.push_back(add_ints(&model, "i" + std::to_string(i), ints)->name());
    }
    const int nodes = 1 + static_cast<int>(below(4));
    for (int i = 0; i < nodes; ++i) {
      std::vector<std::string> inputs = {below(4) == 0 ? pick(names) : names.back()};
      if (i == 0) inputs = {"x"};
      const Operator& op = kOperators[below(static_cast<std::uint32_t>(kOperators.size()))];
      const std::uint32_t wanted = below(10) == 0 ? below(7) : op.inputs;
      while (inputs.size() < wanted) inputs.push_back(pick(names));
      onnx::NodeProto* node = add_node(&model, op.type, inputs, {"v" + std::to_string(i)});
      for (const char* name : {"strides", "pads", "dilations", "kernel_shape", "axes"}) {
        if (below(6) == 0) add_list(node, name);
      }
      for (const char* name : {"axis", "group", "transB", "transA", "allowzero", "ceil_mode",
                               "broadcast", "batch_dims", "blocksize", "fmod", "k", "keepdims"}) {
        if (below(8) == 0) add_int(node, name, number());
      }
      names.push_back(node->output(0));
    }
    add_output(&model, names.back());
    return model;
  }

 private:
  std::uint32_t below(std::uint32_t bound) { return random_() % bound; }
  std::int64_t dim() { return 1 + below(4); }
  std::int64_t number() {
    constexpr std::int64_t kLow = std::numeric_limits<std::int64_t>::min();
    constexpr std::int64_t kHigh = std::numeric_limits<std::int64_t>::max();
    const std::vector<std::int64_t> values = {-1, 0, 1, 1, 1, 2, 2, 3, 4, kLow, kHigh, kHigh / 2};
    return values[below(static_cast<std::uint32_t>(values.size()))];
  }
  std::string pick(const std::vector<std::string>& from) {
    return from[below(static_cast<std::uint32_t>(from.size()))];
  }
  void add_list(onnx::NodeProto* node, const std::string& name) {
    onnx::AttributeProto* attribute = node->add_attribute();
    attribute->set_name(name);
    attribute->set_type(onnx::AttributeProto::INTS);
    for (std::uint32_t count = 1 + below(4); count > 0; --count) attribute->add_ints(number());
  }

  struct Operator {
    std::string type;
    std::uint32_t inputs;
  };
  const std::vector<Operator> kOperators = {{"Conv", 2},
                                            {"Gemm", 3},
                                            {"MatMul", 2},
                                            {"Add", 2},
                                            {"BatchNormalization", 5},
                                            {"Relu", 1},
                                            {"MaxPool", 1},
                                            {"Flatten", 1},
                                            {"Reshape", 2},
                                            {"AveragePool", 1},
                                            {"Dropout", 1},
                                            {"Softmax", 1},
                                            {"Identity", 1},
                                            {"Shape", 1},
                                            {"GlobalAveragePool", 1},
                                            {"Gather", 2},
                                            {"Slice", 3},
                                            {"Concat", 2},
                                            {"Unsqueeze", 2},
                                            {"Transpose", 1},
                                            {"Expand", 2},
                                            {"Pad", 2},
                                            {"Cast", 1},
                                            {"Squeeze", 1},
                                            {"Mul", 2},
                                            {"CastLike", 2},
                                            {"ReduceMean", 2},
                                            {"ReduceProd", 2},
                                            {"ReduceMax", 1},
                                            {"ArgMax", 1},
                                            {"Hardmax", 1},
                                            {"EyeLike", 1},
                                            {"OneHot", 3},
                                            {"CumSum", 2},
                                            {"Tile", 2},
                                            {"GatherND", 2},
                                            {"GatherElements", 2},
                                            {"Div", 2},
                                            {"Mod", 2},
                                            {"Pow", 2},
                                            {"Mean", 3},
                                            {"Size", 1},
                                            {"ConstantOfShape", 1},
                                            {"DepthToSpace", 1},
                                            {"SpaceToDepth", 1},
                                            {"SplitToSequence", 2},
                                            {"SequenceAt", 2},
                                            {"Where", 3}};
  std::mt19937 random_;
};

TEST(RandomModels, AreAnErrorOrAModelThatExports) {
  int accepted = 0;
  for (std::uint32_t seed = 0; seed < 4000; ++seed) {
    const Result<OnnxModel> model = import_model(RandomModel(seed).make());
    if (!model.ok()) {
      EXPECT_NE(model.error().code, ErrorCode::kInternal) << model.error().one_line();
      continue;
    }
    ++accepted;
    const Result<Shapes> shapes = infer_shapes(model->graph, 5);
    if (shapes.ok()) {
      EXPECT_EQ((*shapes)[static_cast<std::size_t>(model->graph.outputs[0])].at(0), 5);
    }
    const Result<std::vector<std::byte>> file = model->export_file();
    ASSERT_TRUE(file.ok()) << file.error().one_line();
    EXPECT_TRUE(OnnxModel::import(*file, {}).ok()) << seed;
  }
  EXPECT_GT(accepted, 100);
}

// What depends on constants alone is computed at import: by operators that must neither trap nor
// run without bound, whatever the constants are.
TEST(Bounds, ConstantsCannotTrapWhoeverComputesWithThem) {
  constexpr std::int64_t kLow = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kHigh = std::numeric_limits<std::int64_t>::max();
  struct Case {
    std::string type;
    std::vector<std::vector<std::int64_t>> operands;
    std::map<std::string, std::int64_t> attributes = {};
  };
  // Of rank 1, long enough not to be folded as shapes are.
  const auto many = [](std::int64_t value) { return std::vector<std::int64_t>(100, value); };
  const std::vector<Case> cases = {
      {"Div", {many(1), many(0)}},
      {"Div", {many(kLow), many(-1)}},
      {"Div", {{kLow}, {-1}}},
      {"Div", {{kLow}, {0}}},
      {"Mod", {many(1), many(0)}},
      {"Mod", {many(kLow), many(-1)}},
      {"Mod", {{kLow}, {-1}}},
      {"Mod", {many(1), many(0)}, {{"fmod", 1}}},
      {"Mod", {many(kLow), many(-1)}, {{"fmod", 1}}},
      {"Pow", {many(kLow), many(kHigh)}},
      {"Pow", {many(0), many(-1)}},
      {"Neg", {many(kLow)}},
      {"Abs", {many(kLow)}},
      {"Add", {many(kHigh), many(kHigh)}},
      {"Sub", {many(kLow), many(kHigh)}},
      {"Mul", {many(kLow), many(kLow)}},
      {"CumSum", {many(kHigh), {0}}},
      {"CumSum", {many(1), {kLow}}},
      {"CumSum", {many(1), {}}},
      {"Tile", {many(1), {kHigh}}},
      {"Tile", {many(1), {1 << 30}}},
      {"Tile", {many(1), {-1}}},
      {"Tile", {many(1), {}}},
      {"Expand", {many(1), {1 << 20, 100}}},
      {"Expand", {many(1), {kHigh, 100}}},
      {"ConstantOfShape", {{kHigh}}},
      {"ConstantOfShape", {{1 << 20, 1 << 12}}},
      {"OneHot", {many(kLow), {kHigh}, {0, 1}}},
      {"OneHot", {many(kLow), {1 << 30}, {0, 1}}},
      {"OneHot", {many(kLow), {3}, {0, 1}}},
      {"OneHot", {many(0), {3}, {0}}},
      {"Range", {{0}, {kHigh}, {1}}},
      {"Range", {{0}, {1}, {0}}},
      {"ArgMax", {many(1)}, {{"axis", kLow}}},
      {"GatherElements", {many(1), many(kLow)}},
      {"GatherElements", {many(1), many(100)}},
      {"GatherND", {many(1), many(0)}},
      {"GatherND", {many(1), {kHigh}}},
      {"GatherND", {many(1), {0}}, {{"batch_dims", kHigh}}},
      {"Slice", {many(1), {1}, {2}, {0}, {kHigh}}},
      {"Slice", {many(1), {kLow}, {kHigh}, {0}, {kLow}}},
      {"EyeLike", {many(1)}, {{"k", kLow}}},
      {"Trilu", {many(1), {kLow}}},
      {"Size", {many(1)}},
      {"Shape", {many(1)}, {{"start", kLow}}},
      {"SplitToSequence", {many(1), {0}}},
      {"SplitToSequence", {many(1), {kHigh, kHigh}}},
      {"DepthToSpace", {many(1)}, {{"blocksize", kHigh}}},
  };
  for (const Case& c : cases) {
    onnx::ModelProto model = empty_model({0, 4});
    std::vector<std::string> names;
    for (const auto& operand : c.operands) {
      names.push_back("c" + std::to_string(names.size()));
      add_ints(&model, names.back(), operand);
    }
    onnx::NodeProto* node = add_node(&model, c.type, names, {"made"});
    for (const auto& [name, value] : c.attributes) add_int(node, name, value);
    add_int(add_node(&model, "Cast", {"made"}, {"floats"}), "to", 1);
    add_node(&model, "ReduceMax", {"floats"}, {"number"});
    add_node(&model, "Mul", {"x", "number"}, {"y"});
    add_output(&model, "y");
    const Result<OnnxModel> imported = import_model(model);
    if (!imported.ok()) {
      EXPECT_NE(imported.error().code, ErrorCode::kInternal) << c.type;
    }
  }
}

TEST(Unsupported, WhatReadsASequenceOrGivesIt) {
  onnx::ModelProto model = empty_model({0, 4});
  add_ints(&model, "sizes", {2, 2});
  add_int(add_node(&model, "SplitToSequence", {"x", "sizes"}, {"parts"}), "axis", 1);
  onnx::ModelProto reader = model;
  add_node(&reader, "Identity", {"parts"}, {"y"});
  add_output(&reader, "y");
  expect_unsupported(reader, "its input parts is a sequence");
  add_output(&model, "parts");
  expect_unsupported(model, "is a sequence");
  model = empty_model({0, 4});
  add_ints(&model, "at", {0});
  add_node(&model, "SequenceAt", {"x", "at"}, {"y"});
  add_output(&model, "y");
  expect_unsupported(model, "only of SplitToSequence");
}

TEST(Bounds, IdentityCannotMultiplyParameters) {
  onnx::ModelProto model = empty_model({0, 1 << 18});
  auto* values = add_floats(&model, "w", {1 << 18})->mutable_float_data();
  std::fill(values->begin(), values->end(), 1.0F);  // fresh, hence not tied
  std::string last = "x";
  for (int i = 0; i < 100; ++i) {
    const std::string n = std::to_string(i);
    add_node(&model, "Identity", {"w"}, {"copy" + n});
    add_node(&model, "Add", {last, "copy" + n}, {"sum" + n});
    last = "sum" + n;
  }
  add_output(&model, last);
  expect_unsupported(model, "copy too many");
}

}  // namespace
}  // namespace tempo
