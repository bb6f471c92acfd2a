// Operators against ONNX's own backend tests (Debian's libonnx-testdata), where those are
// installed. A test is one node, its inputs and its outputs.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "enclave/graph/onnx_schema.h"
#include "enclave/graph/onnx_tensor.h"
#include "enclave/graph/storage.h"
#include "enclave/nn/feature_view.h"
#include "enclave/nn/op.h"
#include "enclave/offload/local_engine.h"

namespace tempo {
namespace {

const std::filesystem::path kData = "/usr/share/libonnx-testdata/data/node";

template <class Proto>
bool read_proto(const std::filesystem::path& path, Proto* proto) {
  std::ifstream file(path, std::ios::binary);
  return file && proto->ParseFromIstream(&file);
}

// One backend test, as a graph of one node.
struct NodeTest {
  Graph graph;
  Shapes shapes;
  std::vector<std::vector<float>> values;  // of inputs, by TensorId, in memory order
  std::vector<float> want;                 // first output, ONNX's order
  Shape want_shape;

  // False when the test has something else than float32 tensors.
  bool load(const std::filesystem::path& folder, ThreadPool& pool) {
    onnx::ModelProto model;
    if (!read_proto(folder / "model.onnx", &model) || model.graph().node_size() != 1) return false;
    const onnx::NodeProto& proto = model.graph().node(0);
    Node node;
    node.op_type = proto.op_type();
    node.name = folder.filename();
    node.opset = static_cast<int>(model.opset_import(0).version());
    if (!read_attributes(proto, &node).ok()) return false;
    int file = 0;
    for (const std::string& name : proto.input()) {
      if (name.empty()) {
        node.inputs.push_back(kNoTensor);
        continue;
      }
      onnx::TensorProto tensor;
      const auto path = folder / "test_data_set_0" / ("input_" + std::to_string(file++) + ".pb");
      if (!read_proto(path, &tensor) || !add_input(&node, tensor, pool)) return false;
    }
    onnx::TensorProto output;
    if (!read_proto(folder / "test_data_set_0" / "output_0.pb", &output)) return false;
    const auto info = check_tensor(output, "output");
    if (!info.ok() || info->type != DataType::kFloat32) return false;
    want = read_floats(output, *info);
    want_shape = info->dims;
    node.outputs = {static_cast<TensorId>(graph.tensors.size())};
    graph.tensors.emplace_back();
    graph.nodes.push_back(std::move(node));
    return true;
  }

  bool add_input(Node* node, const onnx::TensorProto& proto, ThreadPool& pool) {
    const auto info = check_tensor(proto, "input");
    if (!info.ok()) return false;
    const std::size_t position = node->inputs.size();
    const std::string& op = node->op_type;
    Tensor tensor;
    tensor.declared = info->dims;
    tensor.type = info->type;
    const bool both_activations = op == "MatMul" || (position == 1 && find_op(op) != nullptr &&
                                                     find_op(op)->in_place_inputs == 2);
    if (position > 0 && !both_activations) {
      tensor.kind = op == "Reshape" || op == "Clip" || op.starts_with("Reduce")
                        ? TensorKind::kConstant
                        : TensorKind::kParameter;
      if (op == "BatchNormalization" && position >= 3) tensor.kind = TensorKind::kStatistic;
    }
    std::vector<float> in_memory;
    if (info->type == DataType::kInt64) {
      tensor.ints = read_ints(proto, *info);
    } else if (tensor.kind == TensorKind::kActivation) {
      const std::vector<float> ordered = read_floats(proto, *info);
      in_memory.resize(ordered.size());
      from_onnx_order(pool, info->dims, 0, ordered.data(), in_memory.data());
    } else {
      if (op == "Conv" && position == 1) tensor.storage = Storage::kConvWeights;
      if (op == "Gemm" && position == 1 && node->int_or("transB", 0) == 0) {
        tensor.storage = Storage::kTransposed;
      }
      in_memory = to_storage(read_floats(proto, *info), info->dims, tensor.storage);
    }
    tensor.floats = in_memory;
    node->inputs.push_back(static_cast<TensorId>(graph.tensors.size()));
    graph.tensors.push_back(std::move(tensor));
    shapes.push_back(info->dims);
    values.push_back(std::move(in_memory));
    return true;
  }
};

// What the node gives, in ONNX's order.
std::vector<float> run(NodeTest& test, ThreadPool& pool) {
  const Node& node = test.graph.nodes[0];
  const OpDef& op = *find_op(node.op_type);
  const Shape& shape = test.shapes.back();
  std::vector<float> out(static_cast<std::size_t>(element_count(shape)));
  if (is_linear_node(test.graph, node)) {
    TimeLedger ledger;
    LocalEngine engine(pool, ledger);
    LinearOp linear;
    linear.geometry = op.lower(node, test.graph, test.shapes);
    const float* bias = node.inputs.size() > 2 ? test.values[2].data() : nullptr;
    EXPECT_TRUE(engine
                    .forward(linear, test.values[0].data(), test.values[1].data(), bias, out.data(),
                             nullptr)
                    .ok());
  } else {
    const bool trains = node.int_or("training_mode", 0) != 0;
    OpContext context{.graph = test.graph,
                      .node = node,
                      .shapes = test.shapes,
                      .pool = pool,
                      .mode = trains ? StepMode::kTraining : StepMode::kInference,
                      .in = {},
                      .out = {out.data(), nullptr, nullptr},
                      .d_out = {},
                      .d_in = {},
                      .accumulate = {}};
    for (const TensorId id : node.inputs) {
      context.in.push_back(id == kNoTensor ? nullptr
                                           : test.values[static_cast<std::size_t>(id)].data());
    }
    op.forward(context);
  }
  std::vector<float> ordered(out.size());
  to_onnx_order(pool, shape, 0, out.data(), ordered.data());
  return ordered;
}

TEST(OnnxBackendTests, AgreeWhereWeSupportTheNode) {
  if (!std::filesystem::exists(kData)) GTEST_SKIP() << "libonnx-testdata is not installed";
  ThreadPool pool(2);
  int compared = 0, refused = 0;
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(kData)) {
    const std::string name = entry.path().filename();
    for (const char* prefix : {"test_abs",
                               "test_add",
                               "test_averagepool",
                               "test_basic_conv",
                               "test_batchnorm",
                               "test_clip",
                               "test_conv_",
                               "test_div",
                               "test_dropout_default",
                               "test_elu",
                               "test_erf",
                               "test_exp",
                               "test_flatten",
                               "test_gelu",
                               "test_gemm",
                               "test_globalaveragepool",
                               "test_hardsigmoid",
                               "test_hardswish",
                               "test_identity",
                               "test_leakyrelu",
                               "test_log",
                               "test_matmul_",
                               "test_max_",
                               "test_maxpool_",
                               "test_min_",
                               "test_mul",
                               "test_neg",
                               "test_pow",
                               "test_reciprocal",
                               "test_relu",
                               "test_reshape",
                               "test_sigmoid",
                               "test_softmax",
                               "test_sqrt",
                               "test_sub",
                               "test_tanh",
                               "test_transpose",
                               "test_reduce_mean",
                               "test_reduce_sum_",
                               "test_layer_normalization"}) {
      if (name.starts_with(prefix)) folders.push_back(entry.path());
    }
  }
  std::ranges::sort(folders);
  for (const auto& folder : folders) {
    SCOPED_TRACE(folder.filename());
    NodeTest test;
    if (!test.load(folder, pool)) continue;
    const Node& node = test.graph.nodes[0];
    const OpDef* op = find_op(node.op_type);
    if (op == nullptr) continue;
    if (op->unsupported != nullptr && !op->unsupported(test.graph, node).empty()) {
      ++refused;
      continue;
    }
    const auto shapes = op->infer({.graph = test.graph, .node = node, .inputs = test.shapes});
    // One-dimensional inputs, and dimensions of 0.
    if (!shapes.ok()) {
      ++refused;
      continue;
    }
    ASSERT_EQ((*shapes)[0], test.want_shape);
    test.shapes.push_back((*shapes)[0]);
    const std::vector<float> got = run(test, pool);
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], test.want[i], 1e-5 * std::max(1.0F, std::abs(test.want[i]))) << i;
    }
    ++compared;
  }
  RecordProperty("compared", compared);
  RecordProperty("refused", refused);
  std::printf("%d nodes agree, %d are refused\n", compared, refused);
  EXPECT_GE(compared, 60);
}

}  // namespace
}  // namespace tempo
