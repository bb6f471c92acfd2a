// File: enclave/graph/graph.h
// The intermediate representation: a directed acyclic graph of nodes over tensors, as imported from
// ONNX, with parameters already in the enclave's own layout. Batch-agnostic; infer_shapes() fixes a
// batch size.
//
// Layout. Images, inputs and activations of rank 4, are stored channels last: ONNX (N, C, H, W)
// lies in memory as (N, H, W, C), a matrix of N*H*W positions by C features. Every other tensor
// lies in ONNX's order. Shapes in this file are always in ONNX's logical order.
// Thread safety: plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/error.h"

namespace tempo {

using TensorId = std::int32_t;
inline constexpr TensorId kNoTensor = -1;  // an optional input or output that is absent

using Shape = std::vector<std::int64_t>;
inline constexpr std::int64_t kBatchDim = -1;  // stands for the batch size in a declared shape

// Product of the dimensions. Precondition: all >= 0 and the product fits (import guarantees it).
std::int64_t element_count(const Shape& shape);
std::string shape_to_string(const Shape& shape);  // "(N,3,32,32)"

enum class TensorKind {
  kInput,       // fed at every step
  kActivation,  // made by a node
  kParameter,   // trained: an initializer that a gradient reaches
  kStatistic,   // BatchNormalization's running mean and variance: updated, no gradient
  kConstant,    // shapes, axes, frozen values
};

enum class DataType { kFloat32, kInt64 };  // integers and flags of all sorts are kInt64

// How `Tensor::floats` relates to the ONNX initializer.
enum class Storage {
  kOnnx,         // as in the file
  kConvWeights,  // ONNX (O, I, kh, kw) stored as (O, kh, kw, I): an m x n matrix, n = kh*kw*I;
                 // I: input channels of one group
  kTransposed,   // ONNX (n, m) stored as (m, n): Gemm with transB=0, MatMul
};

struct Tensor {
  std::string name{};
  TensorKind kind = TensorKind::kActivation;
  DataType type = DataType::kFloat32;
  Storage storage = Storage::kOnnx;
  Shape declared{};             // inputs: with kBatchDim; initializers: their shape; else empty
  std::vector<float> floats{};  // kParameter, kStatistic, float kConstant
  std::vector<std::int64_t> ints{};  // int64 kConstant
  // Empty, or as many as `ints`: what is computed from the batch size is ints + batch * this.
  std::vector<std::int64_t> ints_per_sample{};
};

// A constant's integers at a batch size.
std::vector<std::int64_t> ints_at(const Tensor& tensor, std::int64_t batch);
std::int64_t element_bytes(DataType type);  // in memory

// Parameters, statistics and constants: what does not change with the sample.
inline bool is_fixed(const Tensor& tensor) {
  return tensor.kind != TensorKind::kInput && tensor.kind != TensorKind::kActivation;
}

struct Attribute {
  std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>, std::vector<float>,
               Tensor>
      value;
};

struct Node {
  std::string op_type{};  // ONNX operator, e.g. "Conv"
  std::string name{};     // from the file, or made from op_type and position; unique
  int opset = 0;          // of the operator's domain
  std::map<std::string, Attribute> attributes{};
  std::vector<TensorId> inputs{};   // kNoTensor where absent
  std::vector<TensorId> outputs{};  // kNoTensor where absent

  // The attribute, or `fallback` when it is absent. A wrong type counts as absent: import has
  // checked the types of the attributes that the operator table names.
  std::int64_t int_or(const std::string& key, std::int64_t fallback) const;
  float float_or(const std::string& key, float fallback) const;
  std::string string_or(const std::string& key, const std::string& fallback) const;
  std::vector<std::int64_t> ints_or(const std::string& key,
                                    const std::vector<std::int64_t>& fallback) const;
};

struct Graph {
  std::string name;
  int opset = 0;
  std::vector<Tensor> tensors;  // index = TensorId
  std::vector<Node> nodes;      // in topological order
  std::vector<TensorId> inputs;
  std::vector<TensorId> outputs;

  TensorId find(const std::string& tensor_name) const;  // kNoTensor when there is none
};

// Shapes of all tensors for one batch size; index = TensorId.
using Shapes = std::vector<Shape>;

// Runs every node's shape rule (enclave/nn/op.h). Errors: kBadModel with the node's name for shapes
// that contradict each other; kBadModel when any tensor would exceed kMaxTensorElements.
inline constexpr std::int64_t kMaxTensorElements = std::int64_t{1} << 33;
Result<Shapes> infer_shapes(const Graph& graph, std::int64_t batch);

}  // namespace tempo
