#include "enclave/graph/onnx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "enclave/graph/onnx_import.h"
#include "enclave/graph/onnx_schema.h"
#include "enclave/graph/test_models.h"
#include "enclave/nn/op.h"

namespace tempo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace test;

OnnxModel must_import(const std::vector<std::byte>& file) {
  Result<OnnxModel> model = OnnxModel::import(file, {});
  if (!model) ADD_FAILURE() << model.error().one_line();
  return model ? std::move(*model) : OnnxModel();
}

std::vector<std::string> op_types(const Graph& graph) {
  std::vector<std::string> types;
  for (const Node& node : graph.nodes) types.push_back(node.op_type);
  return types;
}

const Tensor& tensor(const Graph& graph, const std::string& name) {
  const TensorId id = graph.find(name);
  TEMPO_ASSERT(id != kNoTensor);
  return graph.tensors[static_cast<std::size_t>(id)];
}

// Name -> bytes of every float initializer.
std::map<std::string, std::string> payloads(const onnx::ModelProto& model) {
  std::map<std::string, std::string> out;
  for (const onnx::TensorProto& initializer : model.graph().initializer()) {
    if (initializer.data_type() != onnx::TensorProto::FLOAT) continue;
    std::string& bytes = out[initializer.name()];
    bytes = initializer.raw_data();
    if (!initializer.has_raw_data()) {
      bytes.assign(reinterpret_cast<const char*>(initializer.float_data().data()),
                   static_cast<std::size_t>(initializer.float_data_size()) * sizeof(float));
    }
  }
  return out;
}

std::vector<std::string> nodes_of(const onnx::ModelProto& model) {
  std::vector<std::string> nodes;
  for (const onnx::NodeProto& node : model.graph().node())
    nodes.push_back(node.SerializeAsString());
  return nodes;
}

int count_types(const onnx::ModelProto& model, const std::string& op_type) {
  const auto& nodes = model.graph().node();
  return static_cast<int>(std::count_if(
      nodes.begin(), nodes.end(), [&](const auto& node) { return node.op_type() == op_type; }));
}

TEST(Import, EveryOperatorOfTheTableHasItsInputsChecked) {
  for (const OpDef& op : op_table()) {
    if (op.forward == nullptr && !op.is_linear) continue;  // never a node of the graph
    EXPECT_NE(find_schema(op.type), nullptr) << op.type;
  }
}

class CnnFixture : public ::testing::TestWithParam<std::string> {};

TEST_P(CnnFixture, ImportsAndExportsEveryWeight) {
  const std::vector<std::byte> file = read_fixture(GetParam());
  const OnnxModel model = must_import(file);
  ASSERT_EQ(model.graph.outputs.size(), 1U);
  const Result<Shapes> shapes = infer_shapes(model.graph, 5);
  ASSERT_TRUE(shapes.ok()) << shapes.error().one_line();
  EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[0])], (Shape{5, 3}));
  EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.inputs[0])], (Shape{5, 3, 12, 10}));
  // Exporters differ in how they write pooling and flattening, and in fusing normalisation; what is
  // left after import is one of these.
  std::vector<std::string> types = op_types(model.graph);
  std::erase(types, "Dropout");
  std::erase(types, "Flatten");
  std::erase(types, "Reshape");
  std::erase(types, "BatchNormalization");
  EXPECT_THAT(types, ElementsAre("Conv", "Relu", "MaxPool", "Conv", "Conv", "Add", "Relu",
                                 "AveragePool", "Conv", "GlobalAveragePool", "Gemm"));

  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok()) << exported.error().one_line();
  EXPECT_EQ(payloads(from_bytes(*exported)), payloads(from_bytes(file)));
  const OnnxModel again = must_import(*exported);
  EXPECT_EQ(op_types(again.graph), op_types(model.graph));
}

INSTANTIATE_TEST_SUITE_P(Opsets, CnnFixture,
                         ::testing::Values("cnn_opset9.onnx", "cnn_opset11.onnx",
                                           "cnn_opset13.onnx", "cnn_opset17.onnx",
                                           "cnn_opset18.onnx", "cnn_opset23.onnx",
                                           "cnn_newest.onnx", "cnn_fixed_opset13.onnx",
                                           "cnn_fixed_opset20.onnx"));

class MlpFixture : public ::testing::TestWithParam<std::string> {};

TEST_P(MlpFixture, FoldsTheFlatteningIntoOneReshape) {
  const std::vector<std::byte> file = read_fixture(GetParam());
  const OnnxModel model = must_import(file);
  EXPECT_THAT(op_types(model.graph), ElementsAre("Reshape", "Gemm", "Relu", "MatMul", "Softmax"));
  const Node& reshape = model.graph.nodes[0];
  const Tensor& target = model.graph.tensors[static_cast<std::size_t>(reshape.inputs[1])];
  EXPECT_THAT(target.ints, ElementsAre(0, 12));
  for (const std::int64_t batch : {1, 4, 33}) {
    const Result<Shapes> shapes = infer_shapes(model.graph, batch);
    ASSERT_TRUE(shapes.ok()) << shapes.error().one_line();
    EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[0])], (Shape{batch, 5}));
  }
  EXPECT_EQ(tensor(model.graph, "matrix").storage, Storage::kTransposed);
  EXPECT_EQ(tensor(model.graph, "matrix").kind, TensorKind::kParameter);
  EXPECT_EQ(tensor(model.graph, "bias").kind, TensorKind::kParameter);
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  EXPECT_EQ(payloads(from_bytes(*exported)), payloads(from_bytes(file)));
}

INSTANTIATE_TEST_SUITE_P(Opsets, MlpFixture,
                         ::testing::Values("mlp_opset9.onnx", "mlp_opset11.onnx",
                                           "mlp_opset13.onnx", "mlp_opset17.onnx",
                                           "mlp_opset18.onnx", "mlp_opset23.onnx",
                                           "mlp_newest.onnx", "mlp_fixed_opset13.onnx",
                                           "mlp_fixed_opset20.onnx"));

TEST(Import, KindsAndStorageOfParameters) {
  const OnnxModel model = must_import(read_fixture("cnn_opset17.onnx"));
  const Graph& graph = model.graph;
  EXPECT_EQ(tensor(graph, "stem.weight").kind, TensorKind::kParameter);
  EXPECT_EQ(tensor(graph, "stem.weight").storage, Storage::kConvWeights);
  EXPECT_EQ(tensor(graph, "stem.weight").declared, (Shape{4, 3, 3, 3}));
  EXPECT_EQ(tensor(graph, "block.bias").kind, TensorKind::kParameter);
  EXPECT_EQ(tensor(graph, "stem_bn.weight").kind, TensorKind::kParameter);
  EXPECT_EQ(tensor(graph, "stem_bn.bias").kind, TensorKind::kParameter);
  EXPECT_EQ(tensor(graph, "stem_bn.running_mean").kind, TensorKind::kStatistic);
  EXPECT_EQ(tensor(graph, "stem_bn.running_var").kind, TensorKind::kStatistic);
  EXPECT_EQ(tensor(graph, "fc.weight").storage, Storage::kOnnx);  // transB=1 is m x n already
  EXPECT_EQ(tensor(graph, "input").kind, TensorKind::kInput);
  EXPECT_EQ(tensor(graph, "input").declared, (Shape{kBatchDim, 3, 12, 10}));
}

// What the file has as an initializer is trained; a Constant node is a number of the network's
// code. PyTorch before opset 18 writes group normalisation as the latter kind of
// InstanceNormalization.
TEST(Import, SlopesAndNormalisationsAreParametersWhenTheyAreInitializers) {
  onnx::ModelProto proto = empty_model({0, 4, 3, 3}, 18);
  for (const char* name : {"slope", "scale", "bias", "group_scale", "group_bias"}) {
    add_floats(&proto, name, {std::string(name).starts_with("group") ? 2 : 4});
  }
  proto.mutable_graph()->mutable_initializer(0)->add_dims(1);  // (4, 1, 1)
  proto.mutable_graph()->mutable_initializer(0)->add_dims(1);
  for (const char* name : {"ones", "zeros"}) {
    onnx::AttributeProto* value = add_node(&proto, "Constant", {}, {name})->add_attribute();
    value->set_name("value");
    value->set_type(onnx::AttributeProto::TENSOR);
    value->mutable_t()->set_data_type(onnx::TensorProto::FLOAT);
    value->mutable_t()->add_dims(4);
    for (int i = 0; i < 4; ++i) value->mutable_t()->add_float_data(*name == 'o' ? 1.0F : 0.0F);
  }
  add_node(&proto, "PRelu", {"x", "slope"}, {"a"});
  add_node(&proto, "InstanceNormalization", {"a", "scale", "bias"}, {"b"});
  add_node(&proto, "InstanceNormalization", {"b", "ones", "zeros"}, {"c"});
  add_int(add_node(&proto, "GroupNormalization", {"c", "group_scale", "group_bias"}, {"d"}),
          "num_groups", 2);
  add_node(&proto, "Flatten", {"d"}, {"y"});
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  for (const char* name : {"slope", "scale", "bias", "group_scale", "group_bias"}) {
    EXPECT_EQ(tensor(model.graph, name).kind, TensorKind::kParameter) << name;
  }
  for (const char* name : {"ones", "zeros"}) {
    EXPECT_EQ(tensor(model.graph, name).kind, TensorKind::kConstant) << name;
  }
}

TEST(Import, GemmWithoutTransBIsStoredTransposed) {
  onnx::ModelProto proto = empty_model({0, 2});
  add_floats(&proto, "w", {2, 3});
  add_node(&proto, "Gemm", {"x", "w"}, {"y"});
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_EQ(tensor(model.graph, "w").storage, Storage::kTransposed);
  EXPECT_THAT(tensor(model.graph, "w").floats, ElementsAre(1, 4, 2, 5, 3, 6));
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  EXPECT_EQ(payloads(from_bytes(*exported)), payloads(proto));
}

class PatternsFixture : public ::testing::TestWithParam<std::string> {};

TEST_P(PatternsFixture, FusesInTheGraphAndNotInTheFile) {
  const std::vector<std::byte> file = read_fixture(GetParam());
  OnnxModel model = must_import(file);
  EXPECT_THAT(
      model.fused["LayerNormalization"] + count_types(from_bytes(file), "LayerNormalization"), 3);
  EXPECT_EQ(model.fused["Gelu"], 5);
  EXPECT_EQ(model.fused["HardSwish"] + count_types(from_bytes(file), "HardSwish"), 2);
  EXPECT_EQ(model.fused["Swish"], 1);
  const std::vector<std::string> types = op_types(model.graph);
  for (const char* part : {"Erf", "Tanh", "Sqrt", "Pow", "ReduceMean", "Sigmoid", "Clip"}) {
    EXPECT_EQ(std::count(types.begin(), types.end(), part), 0) << part;
  }

  // New weights go back to where they came from, in the file as it was.
  std::map<std::string, std::string> wanted = payloads(from_bytes(file));
  float value = 1;
  for (Tensor& parameter : model.graph.tensors) {
    if (parameter.kind != TensorKind::kParameter) continue;
    parameter.floats.assign(parameter.floats.size(), ++value);
    ASSERT_TRUE(wanted.contains(parameter.name)) << parameter.name;
    wanted[parameter.name] = std::string(reinterpret_cast<const char*>(parameter.floats.data()),
                                         parameter.floats.size() * 4);
  }
  // Two normalisations, two layers, and the ones that the newer exporter writes for a normalisation
  // without parameters: an initializer like any other.
  EXPECT_EQ(value, 9 + static_cast<float>(GetParam() == "patterns_opset18.onnx"));
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok()) << exported.error().one_line();
  EXPECT_EQ(payloads(from_bytes(*exported)), wanted);
  EXPECT_EQ(nodes_of(from_bytes(*exported)), nodes_of(from_bytes(file)));
}

INSTANTIATE_TEST_SUITE_P(Exporters, PatternsFixture,
                         ::testing::Values("patterns_opset9.onnx", "patterns_opset13.onnx",
                                           "patterns_opset18.onnx"));

TEST(Import, ParametersThatWereEqualAtExportAreSeparate) {
  OnnxModel model = must_import(read_fixture("fresh_norms_opset13.onnx"));
  EXPECT_THAT(op_types(model.graph), ElementsAre("Conv", "BatchNormalization", "Relu", "Conv",
                                                 "BatchNormalization", "Flatten"));
  const std::vector<std::string> names = {"bn1.weight",      "bn2.weight",       "bn1.bias",
                                          "bn2.bias",        "bn1.running_mean", "bn2.running_mean",
                                          "bn1.running_var", "bn2.running_var"};
  float value = 100;
  for (const std::string& name : names) {
    const TensorId id = model.graph.find(name);
    ASSERT_NE(id, kNoTensor) << name;
    model.graph.tensors[static_cast<std::size_t>(id)].floats.assign(3, value++);
  }
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  const OnnxModel again = must_import(*exported);
  value = 100;
  for (const std::string& name : names) {
    EXPECT_THAT(tensor(again.graph, name).floats, ElementsAre(value, value, value)) << name;
    value++;
  }
  EXPECT_EQ(tensor(again.graph, "bn2.running_var").kind, TensorKind::kStatistic);
  EXPECT_EQ(tensor(again.graph, "bn2.weight").kind, TensorKind::kParameter);
}

TEST(Import, TiedParametersStayOne) {
  onnx::ModelProto proto = test::empty_model({0, 4});
  test::add_floats(&proto, "a.weight", {4, 4});
  test::add_node(&proto, "Identity", {"a.weight"}, {"b.weight"});
  test::add_node(&proto, "Identity", {"b.weight"}, {"c.weight"});
  test::add_int(test::add_node(&proto, "Gemm", {"x", "b.weight"}, {"y"}), "transB", 1);
  test::add_int(test::add_node(&proto, "Gemm", {"y", "a.weight"}, {"z"}), "transB", 1);
  test::add_int(test::add_node(&proto, "Gemm", {"z", "c.weight"}, {"w"}), "transB", 1);
  test::add_output(&proto, "w");
  OnnxModel model = must_import(to_bytes(proto));
  ASSERT_EQ(model.graph.nodes.size(), 3U);
  const TensorId weight = model.graph.find("a.weight");
  ASSERT_NE(weight, kNoTensor);
  for (const Node& node : model.graph.nodes) EXPECT_EQ(node.inputs[1], weight);
  model.graph.tensors[static_cast<std::size_t>(weight)].floats.assign(16, 7);
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  const onnx::ModelProto written = from_bytes(*exported);
  ASSERT_EQ(written.graph().initializer_size(), 1);
  EXPECT_EQ(written.graph().node_size(), 5) << "the Identity nodes stay";
}

// Layers that were made as copies of each other, as PyTorch's encoder makes them.
TEST(Import, ParametersWhoseNamesDifferInNumbersAreCopies) {
  onnx::ModelProto proto = empty_model({0, 4});
  add_floats(&proto, "layers.0.fc2.weight", {4, 4});
  add_node(&proto, "Identity", {"layers.0.fc2.weight"}, {"layers.11.fc2.weight"});
  add_node(&proto, "Identity", {"layers.11.fc2.weight"}, {"layers.1.fc2.weight"});
  add_node(&proto, "Identity", {"layers.0.fc2.weight"}, {"layers.0.fc.weight"});  // tied
  std::string last = "x";
  for (const char* name : {"layers.0.fc2.weight", "layers.11.fc2.weight", "layers.1.fc2.weight",
                           "layers.0.fc.weight"}) {
    const std::string next = std::string("by.") + name;
    add_int(add_node(&proto, "Gemm", {last, name}, {next}), "transB", 1);
    last = next;
  }
  add_output(&proto, last);
  OnnxModel model = must_import(to_bytes(proto));
  ASSERT_EQ(model.graph.nodes.size(), 4U);
  const TensorId first = model.graph.find("layers.0.fc2.weight");
  EXPECT_EQ(model.graph.nodes[0].inputs[1], first);
  EXPECT_EQ(model.graph.nodes[3].inputs[1], first);
  for (const int layer : {1, 11}) {
    const std::string name = "layers." + std::to_string(layer) + ".fc2.weight";
    const TensorId copy = model.graph.find(name);
    ASSERT_NE(copy, kNoTensor) << name;
    EXPECT_NE(copy, first);
    Tensor& parameter = model.graph.tensors[static_cast<std::size_t>(copy)];
    EXPECT_EQ(parameter.kind, TensorKind::kParameter);
    EXPECT_EQ(parameter.floats, model.graph.tensors[static_cast<std::size_t>(first)].floats);
    parameter.floats.assign(16, static_cast<float>(layer));
  }
  // Each is in the exported file with what it has learned.
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  const OnnxModel again = must_import(*exported);
  EXPECT_EQ(tensor(again.graph, "layers.11.fc2.weight").floats, std::vector<float>(16, 11));
  EXPECT_EQ(tensor(again.graph, "layers.1.fc2.weight").floats, std::vector<float>(16, 1));
}

// As GPT-2's mask is made: not integers that are known, but a node that makes them.
TEST(Import, IntegersThatAreAsManyAsSamplesAreMadeByTheGraph) {
  onnx::ModelProto proto = empty_model({0, 4});
  add_ints(&proto, "zero", {0})->clear_dims();
  add_ints(&proto, "one", {1})->clear_dims();
  add_ints(&proto, "columns", {1});
  add_node(&proto, "Shape", {"x"}, {"shape"});
  add_node(&proto, "Gather", {"shape", "zero"}, {"samples"});
  add_node(&proto, "Range", {"zero", "samples", "one"}, {"count"});
  add_node(&proto, "Unsqueeze", {"count", "columns"}, {"column"});
  add_int(add_node(&proto, "Cast", {"column"}, {"numbers"}), "to", 1);
  add_node(&proto, "Mul", {"x", "numbers"}, {"y"});
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_THAT(op_types(model.graph), ElementsAre("Range", "Unsqueeze", "Cast", "Mul"));
  const Result<Shapes> shapes = infer_shapes(model.graph, 5);
  ASSERT_TRUE(shapes.ok());
  EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[0])], (Shape{5, 4}));
}

TEST(Export, SaysInOpset6ThatItIsForInference) {
  onnx::ModelProto proto = empty_model({0, 4}, 6);
  for (const char* name : {"scale", "bias", "mean", "variance"}) add_floats(&proto, name, {4});
  add_node(&proto, "BatchNormalization", {"x", "scale", "bias", "mean", "variance"}, {"a"});
  add_int(add_node(&proto, "Dropout", {"a"}, {"y"}), "is_test", 0);
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  const onnx::ModelProto written = from_bytes(*model.export_file());
  for (const onnx::NodeProto& node : written.graph().node()) {
    ASSERT_EQ(node.attribute_size(), 1) << node.op_type();
    EXPECT_EQ(node.attribute(0).name(), "is_test");
    EXPECT_EQ(node.attribute(0).i(), 1);
  }
}

TEST(Export, CarriesMetadata) {
  OnnxModel model = must_import(to_bytes(small_model()));
  EXPECT_EQ(model.metadata("tempo.mean"), "");
  model.set_metadata("tempo.mean", "1");
  model.set_metadata("tempo.mean", "0.5,0.25");
  model.set_metadata("other", "text");
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  const OnnxModel again = must_import(*exported);
  EXPECT_EQ(again.metadata("tempo.mean"), "0.5,0.25");
  EXPECT_EQ(again.metadata("other"), "text");
}

TEST(Import, OldFilesListInitializersAsInputs) {
  onnx::ModelProto proto = small_model();
  proto.set_ir_version(3);
  set_value_info(proto.mutable_graph()->add_input(), "w", {3, 4});
  set_value_info(proto.mutable_graph()->add_input(), "b", {3});
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_EQ(model.graph.inputs.size(), 1U);
  EXPECT_EQ(tensor(model.graph, "w").kind, TensorKind::kParameter);
}

TEST(Import, OrdersNodes) {
  onnx::ModelProto proto = small_model();
  proto.mutable_graph()->mutable_node()->SwapElements(0, 1);
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_THAT(op_types(model.graph), ElementsAre("Gemm", "Relu"));
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  EXPECT_EQ(from_bytes(*exported).graph().node(0).op_type(), "Gemm");
}

TEST(Import, NamesNodesUniquely) {
  onnx::ModelProto proto = empty_model({0, 4});
  add_node(&proto, "Relu", {"x"}, {"a"})->set_name("same");
  add_node(&proto, "Relu", {"a"}, {"b"})->set_name("same");
  add_node(&proto, "Relu", {"b"}, {"y"})->set_name("");
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_EQ(model.graph.nodes[0].name, "same");
  EXPECT_EQ(model.graph.nodes[1].name, "same_1");
  EXPECT_EQ(model.graph.nodes[2].name, "Relu_2");
}

TEST(Import, AConstantNodeMayHoldAParameter) {
  onnx::ModelProto proto = empty_model({0, 2});
  onnx::AttributeProto* attribute = add_node(&proto, "Constant", {}, {"w"})->add_attribute();
  attribute->set_name("value");
  attribute->set_type(onnx::AttributeProto::TENSOR);
  attribute->mutable_t()->set_data_type(onnx::TensorProto::FLOAT);
  for (const int dim : {2, 2}) attribute->mutable_t()->add_dims(dim);
  for (const float value : {1.F, 2.F, 3.F, 4.F}) attribute->mutable_t()->add_float_data(value);
  add_node(&proto, "MatMul", {"x", "w"}, {"y"});
  add_output(&proto, "y");
  OnnxModel model = must_import(to_bytes(proto));
  const TensorId w = model.graph.find("w");
  ASSERT_NE(w, kNoTensor);
  EXPECT_EQ(tensor(model.graph, "w").kind, TensorKind::kParameter);
  EXPECT_THAT(tensor(model.graph, "w").floats, ElementsAre(1, 3, 2, 4));
  model.graph.tensors[static_cast<std::size_t>(w)].floats = {10, 30, 20, 40};
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  const onnx::ModelProto out = from_bytes(*exported);
  ASSERT_EQ(out.graph().initializer_size(), 1);
  EXPECT_EQ(out.graph().initializer(0).name(), "w");
  float values[4];
  ASSERT_EQ(out.graph().initializer(0).raw_data().size(), sizeof(values));
  std::memcpy(values, out.graph().initializer(0).raw_data().data(), sizeof(values));
  EXPECT_THAT(values, ElementsAre(10, 20, 30, 40));
  ASSERT_EQ(out.graph().node_size(), 1);
}

TEST(Import, ListsOfOperandsBecomePairs) {
  onnx::ModelProto proto = test::empty_model({0, 4});
  test::add_node(&proto, "Relu", {"x"}, {"a"});
  test::add_node(&proto, "Sum", {"x", "a", "x"}, {"sum"});
  test::add_node(&proto, "Max", {"sum", "a"}, {"largest"});
  test::add_node(&proto, "Min", {"largest"}, {"same"});
  test::add_output(&proto, "same");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_THAT(op_types(model.graph), ElementsAre("Relu", "Add", "Add", "Max", "Identity"));
  EXPECT_EQ(model.graph.nodes[2].inputs[0], model.graph.nodes[1].outputs[0]);
  EXPECT_EQ(model.graph.nodes[2].name, "sum_node");
}

TEST(Import, MeanOverTheImageIsGlobalAveragePooling) {
  for (const std::int64_t keep : {0, 1}) {
    onnx::ModelProto proto = empty_model({0, 2, 3, 4}, 18);
    add_ints(&proto, "axes", {-1, 2});
    add_int(add_node(&proto, "ReduceMean", {"x", "axes"}, {"y"}), "keepdims", keep);
    add_output(&proto, "y");
    const OnnxModel model = must_import(to_bytes(proto));
    ASSERT_FALSE(model.graph.nodes.empty());
    EXPECT_EQ(model.graph.nodes[0].op_type, "GlobalAveragePool");
    // Images leave through an Identity, in ONNX's order.
    EXPECT_EQ(model.graph.nodes.back().op_type, keep == 1 ? "Identity" : "Flatten");
    EXPECT_EQ(model.graph.nodes.size(), 2U);
    const Result<Shapes> shapes = infer_shapes(model.graph, 2);
    ASSERT_TRUE(shapes.ok());
    EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[0])],
              keep == 1 ? (Shape{2, 2, 1, 1}) : (Shape{2, 2}));
  }
}

TEST(Import, ANumberInTheCodeIsNotTrained) {
  onnx::ModelProto proto = empty_model({0, 4});
  onnx::AttributeProto* attribute = add_node(&proto, "Constant", {}, {"c"})->add_attribute();
  attribute->set_name("value_floats");
  attribute->set_type(onnx::AttributeProto::FLOATS);
  for (int i = 0; i < 4; ++i) attribute->add_floats(1.5F);
  add_node(&proto, "Add", {"x", "c"}, {"y"});
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_EQ(tensor(model.graph, "c").kind, TensorKind::kConstant);
  EXPECT_THAT(tensor(model.graph, "c").floats, ElementsAre(1.5F, 1.5F, 1.5F, 1.5F));
}

TEST(Import, MasksAndNumbersAreNotTrained) {
  onnx::ModelProto proto = empty_model({0, 4});
  add_floats(&proto, "bias", {4});
  add_floats(&proto, "mask", {4})->set_float_data(2, -std::numeric_limits<float>::infinity());
  add_floats(&proto, "val_7", {1});        // an exporter's name
  add_floats(&proto, "scale", {1});        // a module's
  add_floats(&proto, "triangle", {1, 4});  // only compared
  add_floats(&proto, "zero", {});
  add_node(&proto, "Add", {"x", "bias"}, {"a"});
  add_node(&proto, "Add", {"a", "mask"}, {"b"});
  add_node(&proto, "Mul", {"b", "val_7"}, {"c"});
  add_node(&proto, "Mul", {"c", "scale"}, {"d"});
  add_node(&proto, "Transpose", {"triangle"}, {"turned"});
  add_ints(&proto, "flat", {4});
  add_node(&proto, "Reshape", {"turned", "flat"}, {"row"});
  add_node(&proto, "Equal", {"row", "zero"}, {"hidden"});
  add_node(&proto, "Where", {"hidden", "zero", "d"}, {"y"});
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_EQ(tensor(model.graph, "bias").kind, TensorKind::kParameter);
  EXPECT_EQ(tensor(model.graph, "scale").kind, TensorKind::kParameter);
  EXPECT_EQ(tensor(model.graph, "mask").kind, TensorKind::kConstant);
  EXPECT_EQ(tensor(model.graph, "val_7").kind, TensorKind::kConstant);
  EXPECT_EQ(tensor(model.graph, "triangle").kind, TensorKind::kConstant);
}

// As nn.Linear on rank 3 is exported without constant folding, with weights tied to an embedding.
TEST(Import, ProductsByATransposedWeightTakeTheWeight) {
  onnx::ModelProto proto = empty_model({0, 3});
  set_value_info(proto.mutable_graph()->mutable_input(0), "x", {0, 3}, onnx::TensorProto::INT64);
  add_floats(&proto, "table", {5, 4});
  add_node(&proto, "Gather", {"table", "x"}, {"rows"});
  add_node(&proto, "Transpose", {"table"}, {"turned"});
  add_node(&proto, "MatMul", {"rows", "turned"}, {"y"});
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_THAT(op_types(model.graph), ElementsAre("Gather", "MatMul"));
  EXPECT_EQ(model.graph.nodes[1].inputs[1], model.graph.nodes[0].inputs[0]);
  EXPECT_TRUE(is_linear_node(model.graph, model.graph.nodes[1]));
  const Result<Shapes> shapes = infer_shapes(model.graph, 2);
  ASSERT_TRUE(shapes.ok());
  EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[0])], (Shape{2, 3, 5}));
}

// A class token, as PyTorch's script exporter expands it over the batch.
TEST(Import, ShapesThatDependOnTheBatchAreFollowed) {
  onnx::ModelProto proto = empty_model({0, 2, 4});
  add_floats(&proto, "token", {1, 1, 4});
  add_ints(&proto, "first", {0});
  add_ints(&proto, "rest", {-1, -1});
  add_ints(&proto, "minus", {-1});
  add_node(&proto, "Shape", {"x"}, {"shape"});
  add_node(&proto, "Gather", {"shape", "first"}, {"n"});
  add_int(add_node(&proto, "Concat", {"n", "rest"}, {"target"}), "axis", 0);
  add_node(&proto, "Shape", {"target"}, {"rank"});
  onnx::NodeProto* ones = add_node(&proto, "ConstantOfShape", {"rank"}, {"ones"});
  onnx::AttributeProto* value = ones->add_attribute();
  value->set_name("value");
  value->set_type(onnx::AttributeProto::TENSOR);
  value->mutable_t()->set_data_type(onnx::TensorProto::INT64);
  value->mutable_t()->add_dims(1);
  value->mutable_t()->add_int64_data(1);
  add_node(&proto, "Equal", {"target", "minus"}, {"open"});
  add_node(&proto, "Where", {"open", "ones", "target"}, {"wanted"});
  add_node(&proto, "Expand", {"token", "wanted"}, {"tokens"});
  add_int(add_node(&proto, "Concat", {"tokens", "x"}, {"y"}), "axis", 1);
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_THAT(op_types(model.graph), ElementsAre("Expand", "Concat"));
  for (const std::int64_t batch : {1, 7}) {
    const Result<Shapes> shapes = infer_shapes(model.graph, batch);
    ASSERT_TRUE(shapes.ok());
    EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[0])], (Shape{batch, 3, 4}));
  }
}

TEST(Import, WhatDependsOnConstantsAloneIsComputed) {
  onnx::ModelProto proto = empty_model({0, 2, 2}, 14);
  add_ints(&proto, "square", {2, 2});
  add_node(&proto, "ConstantOfShape", {"square"}, {"zeros"});
  add_floats(&proto, "one", {});
  add_node(&proto, "Add", {"zeros", "one"}, {"ones"});
  add_int(add_node(&proto, "Trilu", {"ones"}, {"lower"}), "upper", 0);
  add_node(&proto, "Mul", {"x", "lower"}, {"y"});
  add_output(&proto, "y");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_THAT(op_types(model.graph), ElementsAre("Mul"));
  EXPECT_EQ(tensor(model.graph, "lower").kind, TensorKind::kConstant);
  EXPECT_THAT(tensor(model.graph, "lower").floats, ElementsAre(1, 0, 1, 1));
}

TEST(Import, SplitBecomesSlices) {
  onnx::ModelProto proto = empty_model({0, 7}, 18);
  onnx::NodeProto* split = add_node(&proto, "Split", {"x"}, {"a", "b"});
  add_int(split, "axis", 1);
  add_int(split, "num_outputs", 2);
  add_node(&proto, "Relu", {"a"}, {"y"});
  add_node(&proto, "Relu", {"b"}, {"z"});
  add_output(&proto, "y");
  add_output(&proto, "z");
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_THAT(op_types(model.graph), ElementsAre("Slice", "Slice", "Relu", "Relu"));
  const Result<Shapes> shapes = infer_shapes(model.graph, 5);
  ASSERT_TRUE(shapes.ok());
  EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[0])], (Shape{5, 4}));
  EXPECT_EQ((*shapes)[static_cast<std::size_t>(model.graph.outputs[1])], (Shape{5, 3}));
}

TEST(Export, IsInInferenceForm) {
  const OnnxModel model = must_import(read_fixture("cnn_opset17.onnx"));
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  int norms = 0;
  int dropouts = 0;
  const onnx::ModelProto out = from_bytes(*exported);
  for (const onnx::NodeProto& node : out.graph().node()) {
    if (node.op_type() == "BatchNormalization") {
      ++norms;
      EXPECT_EQ(node.output_size(), 1);
      for (const onnx::AttributeProto& attribute : node.attribute()) {
        EXPECT_NE(attribute.name(), "training_mode");
      }
    } else if (node.op_type() == "Dropout") {
      ++dropouts;
      EXPECT_EQ(node.input_size(), 2);
    }
  }
  EXPECT_EQ(norms, 2);
  EXPECT_EQ(dropouts, 1);
}

class TrainingForm : public ::testing::TestWithParam<std::string> {};

TEST_P(TrainingForm, IsThatOfTheFile) {
  const std::vector<std::byte> file = read_fixture(GetParam());
  OnnxModel model = must_import(file);
  const TensorId mean = model.graph.find("stem_bn.running_mean");
  ASSERT_NE(mean, kNoTensor);
  model.graph.tensors[static_cast<std::size_t>(mean)].floats = {1, 2, 3, 4};
  const Result<std::vector<std::byte>> exported = model.export_file({.training_form = true});
  ASSERT_TRUE(exported.ok());
  EXPECT_EQ(nodes_of(from_bytes(*exported)), nodes_of(from_bytes(file)));
  EXPECT_EQ(from_bytes(*exported).graph().value_info_size(),
            from_bytes(file).graph().value_info_size());
  const OnnxModel again = must_import(*exported);
  EXPECT_THAT(tensor(again.graph, "stem_bn.running_mean").floats, ElementsAre(1, 2, 3, 4));
  // The file has not been changed by this: it still exports in inference form.
  const Result<std::vector<std::byte>> inference = model.export_file();
  ASSERT_TRUE(inference.ok());
  EXPECT_NE(nodes_of(from_bytes(*inference)), nodes_of(from_bytes(file)));
}

INSTANTIATE_TEST_SUITE_P(Opsets, TrainingForm,
                         ::testing::Values("cnn_opset9.onnx", "cnn_opset11.onnx",
                                           "cnn_opset13.onnx", "cnn_opset17.onnx"));

TEST(TrainingNotes, SayNothingOfAnExportForTraining) {
  for (const char* name : {"cnn_opset9.onnx", "cnn_opset11.onnx", "cnn_opset13.onnx",
                           "cnn_opset17.onnx", "mlp_opset13.onnx"}) {
    EXPECT_THAT(must_import(read_fixture(name)).training_notes(), IsEmpty()) << name;
  }
}

TEST(TrainingNotes, TellOfNormalisationsInInferenceFormThatTrainAllTheSame) {
  for (const char* name : {"cnn_opset18.onnx", "cnn_opset23.onnx", "cnn_newest.onnx"}) {
    const OnnxModel model = must_import(read_fixture(name));
    EXPECT_THAT(model.training_notes(),
                ElementsAre(HasSubstr("2 batch normalisations came in inference form")))
        << name;
    EXPECT_EQ(tensor(model.graph, "stem_bn.running_mean").kind, TensorKind::kStatistic);
  }
}

TEST(TrainingNotes, TellOfFoldedNormalisations) {
  for (const char* name : {"cnn_fixed_opset13.onnx", "cnn_fixed_opset20.onnx"}) {
    const std::vector<std::byte> file = read_fixture(name);
    EXPECT_THAT(must_import(file).training_notes(),
                ElementsAre(HasSubstr("the export has folded 2 batch normalisations")))
        << name;
    onnx::ModelProto from_elsewhere = from_bytes(file);  // whose names mean nothing
    from_elsewhere.set_producer_name("other");
    EXPECT_THAT(must_import(to_bytes(from_elsewhere)).training_notes(), IsEmpty()) << name;
  }
}

TEST(TrainingNotes, TellOfOutputsThatAreNotTrainedOn) {
  onnx::ModelProto proto = small_model();
  EXPECT_THAT(must_import(to_bytes(proto)).prediction_notes(), IsEmpty());
  const std::string first = proto.graph().output(0).name();
  for (const char* name : {"aux", "hidden"}) {
    onnx::NodeProto* node = proto.mutable_graph()->add_node();
    node->set_op_type("Relu");
    node->add_input(first);
    node->add_output(name);
    *proto.mutable_graph()->add_output() = proto.graph().output(0);
    proto.mutable_graph()->mutable_output(proto.graph().output_size() - 1)->set_name(name);
  }
  const OnnxModel model = must_import(to_bytes(proto));
  EXPECT_THAT(model.training_notes(),
              ElementsAre("only the first output, " + first + ", is trained on: not aux, hidden"));
  EXPECT_THAT(model.prediction_notes(),
              ElementsAre("only the first output, " + first + ", is predicted: not aux, hidden"));
}

TEST(TrainingNotes, SayNothingOfLayersThatHaveTheirOwnBias) {
  onnx::ModelProto proto = small_model();
  proto.set_producer_name("pytorch");
  EXPECT_THAT(must_import(to_bytes(proto)).training_notes(), IsEmpty());
}

TEST(Export, CarriesChangedParameters) {
  OnnxModel model = must_import(to_bytes(small_model()));
  const TensorId b = model.graph.find("b");
  model.graph.tensors[static_cast<std::size_t>(b)].floats = {7, 8, 9};
  const Result<std::vector<std::byte>> exported = model.export_file();
  ASSERT_TRUE(exported.ok());
  EXPECT_THAT(tensor(must_import(*exported).graph, "b").floats, ElementsAre(7, 8, 9));
  EXPECT_THAT(tensor(must_import(*exported).graph, "w").floats,
              ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12));
}

TEST(InferShapes, RefusesABatchThatMakesNoSenseOrIsTooLarge) {
  const OnnxModel model = must_import(to_bytes(small_model()));
  EXPECT_EQ(infer_shapes(model.graph, 0).error().code, ErrorCode::kUsage);
  EXPECT_EQ(infer_shapes(model.graph, kMaxTensorElements).error().code, ErrorCode::kBadModel);
  EXPECT_TRUE(infer_shapes(model.graph, 1).ok());
}

}  // namespace
}  // namespace tempo
