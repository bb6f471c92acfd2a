// File: enclave/nn/op.h
// Every operator is one entry of one table: name, opsets, shape rule, forward, backward, work.
// `tempo ops` prints the table; the importer asks it what is supported.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/feature_view.h"
#include "enclave/offload/linear.h"

namespace tempo {

// Everything that a shape rule may look at: input shapes (empty Shape for an absent input) and the
// tensors themselves, for constant inputs such as Reshape's target.
struct ShapeContext {
  const Graph& graph;
  const Node& node;
  std::vector<Shape> inputs;
  std::int64_t batch = 1;
  // At import, a Slice of a shape may leave nothing: a dimension of 0, which no tensor of a step
  // has.
  bool allows_empty = false;
};

// One node at one step. Tensors lie as `blocks` says; null where absent or not needed. Those of
// integers stand among the others: see ints(). BatchNormalization also gets out[1] and out[2]: the
// running mean and variance to update, null when they must stay as they are.
struct OpContext {
  const Graph& graph;
  const Node& node;
  const Shapes& shapes;
  ThreadPool& pool;
  StepMode mode;
  std::uint64_t seed = 0;  // dropout: philox(seed, step, node, element)
  std::uint64_t step = 0;
  int node_index = 0;

  std::vector<const float*> in;
  std::vector<float*> out;
  std::vector<const float*> d_out;         // backward
  std::vector<float*> d_in;                // backward; null where no gradient is wanted
  std::vector<bool> accumulate;            // backward; per d_in: add instead of overwrite
  std::byte* saved = nullptr;              // what forward keeps for backward (saved_bytes of it)
  const ColumnMoments* moments = nullptr;  // BatchNormalization: moments of in[0], when the
                                           // linear operator before it delivered them
  // Operators with a ReluFusion: out[0] is the Relu of the result, d_out[0] is the gradient of
  // that Relu's output.
  bool fused_relu = false;
  // Channel block by TensorId (feature_view.h); null: activations are channels last.
  const std::vector<int>* blocks = nullptr;
  std::int64_t batch = 1;
  Status status = {};  // forward: set for data that the operator cannot take (kBadData)

  static const std::int64_t* ints(const float* data) {
    return reinterpret_cast<const std::int64_t*>(data);
  }
  static std::int64_t* ints(float* data) { return reinterpret_cast<std::int64_t*>(data); }
  // T: float or std::int64_t.
  template <class T>
  static const T* elements(const float* data) {
    return reinterpret_cast<const T*>(data);
  }
  template <class T>
  static T* elements(float* data) {
    return reinterpret_cast<T*>(data);
  }
  ShapeContext shape_context() const {
    ShapeContext context{.graph = graph, .node = node, .inputs = {}, .batch = batch};
    for (const TensorId id : node.inputs) {
      context.inputs.push_back(id == kNoTensor ? Shape{} : shape_of(id));
    }
    return context;
  }
  int block_of(TensorId id) const {
    if (blocks != nullptr) return (*blocks)[static_cast<std::size_t>(id)];
    return is_fixed(graph.tensors[static_cast<std::size_t>(id)]) ? kOnnxOrder : 0;
  }
  int in_block(int i) const { return block_of(node.inputs[static_cast<std::size_t>(i)]); }
  int out_block(int i) const { return block_of(node.outputs[static_cast<std::size_t>(i)]); }
  const Shape& shape_of(TensorId id) const { return shapes[static_cast<std::size_t>(id)]; }
  const Shape& in_shape(int i) const { return shape_of(node.inputs[static_cast<std::size_t>(i)]); }
  const Shape& out_shape(int i) const {
    return shape_of(node.outputs[static_cast<std::size_t>(i)]);
  }
};

// What backward reads besides d_out: decides how long forward's tensors live.
struct BackwardNeeds {
  bool inputs = false;
  bool outputs = false;
};

// What an operator asks of the layout of its rank-4 activations (feature_view.h).
enum class Blocking {
  kNone,       // not blocked, each its own
  kPlainSame,  // not blocked, and the same for all of them
  kSame,       // any, but the same for all of them
  kFree,       // any, each its own
};

// Whether an operator can do the Relu after it in the same passes.
enum class ReluFusion {
  kNo,
  kReadsOutput,  // backward masks by out[0]
  kRecomputes,   // backward finds the mask from what it reads anyway
};

// What one forward pass of a node comes to, whoever does it and however well.
struct OpWork {
  double flops = 0;  // additions, multiplications, comparisons; kFunctionFlops for a function
  double bytes = 0;  // operands read once, the result written once
};
inline constexpr double kFunctionFlops = 10;  // of exp, tanh and the like, about

struct OpDef {
  std::string_view type = {};  // ONNX operator
  int min_opset = 1;
  bool is_linear = false;       // done by the LinearEngine, not by forward/backward below
  std::string_view notes = {};  // restrictions, one line, shown by `tempo ops`

  // Why this node cannot be done, or empty. Looks at attributes and constants only.
  std::string (*unsupported)(const Graph& graph, const Node& node) = nullptr;
  // Element type of the output; null: float32.
  DataType (*output_type)(const Graph& graph, const Node& node) = nullptr;
  // Shapes of the outputs. Error: kBadModel, `where` = node name.
  Result<std::vector<Shape>> (*infer)(const ShapeContext& context) = nullptr;
  // Linear operators only: geometry for given shapes.
  ConvGeometry (*lower)(const Node& node, const Graph& graph, const Shapes& shapes) = nullptr;

  void (*forward)(OpContext& context) = nullptr;
  void (*backward)(OpContext& context) = nullptr;
  BackwardNeeds needs = {};
  Blocking blocking = Blocking::kNone;
  // Its rank-4 activations are images: never in ONNX's order.
  bool takes_images = false;
  // The first so many inputs may lie where out[0] lies (and their gradients where d_out[0] lies)
  // when they have as many elements.
  int in_place_inputs = 0;
  // Overrides in_place_inputs for one node: false when its elements move. Null: always true.
  bool (*keeps_order)(const Node& node, const Shapes& shapes,
                      const std::vector<int>& blocks) = nullptr;
  ReluFusion relu_fusion = ReluFusion::kNo;
  // Bytes that forward leaves for backward in OpContext::saved.
  std::int64_t (*saved_bytes)(const Node& node, const Shapes& shapes) = nullptr;
  // OpWork::flops, an element of the node's largest operand or result; `flops` overrides it where
  // that says nothing. Linear operators need neither.
  double flops_an_element = 1;
  double (*flops)(const Node& node, const Shapes& shapes) = nullptr;
};

// False for integers and what is made of constants; operators that import replaces have one.
inline bool has_gradient(const OpDef& op) {
  return op.is_linear || op.backward != nullptr || op.forward == nullptr;
}

std::span<const OpDef> op_table();
const OpDef* find_op(std::string_view onnx_type);  // null when unknown

// True when the node is done by a LinearEngine: Conv, Gemm, and MatMul by a parameter or constant.
// A MatMul of two activations is not.
bool is_linear_node(const Graph& graph, const Node& node);

// Of a node that the table knows.
OpWork forward_work(const Graph& graph, const Node& node, const Shapes& shapes);

}  // namespace tempo
