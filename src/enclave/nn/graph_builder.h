// File: enclave/nn/graph_builder.h
// Builds graphs in a few lines, with values that a Python script can repeat. For tests and
// benchmarks; models for users come from ONNX.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "enclave/graph/graph.h"

namespace tempo {

// Element `index` of stream `stream`, in [-1, 1): a 32-bit hash, the same in
// tests/fixtures/gen_resnet20_grad.py.
float hashed_value(std::uint32_t stream, std::uint32_t index);

class GraphBuilder {
 public:
  using Attributes = std::map<std::string, Attribute>;

  explicit GraphBuilder(int opset = 13) { graph_.opset = opset; }

  // `rest`: the dimensions after the batch.
  TensorId input(const Shape& rest, DataType type = DataType::kFloat32);
  // hashed_value(stream, i) * scale + offset in ONNX's order; the streams count up from 0.
  TensorId parameter(const Shape& shape, float scale, float offset = 0,
                     Storage storage = Storage::kOnnx, TensorKind kind = TensorKind::kParameter);
  TensorId filled(const Shape& shape, float value, TensorKind kind);
  TensorId ints(std::vector<std::int64_t> values);
  TensorId scalar(std::int64_t value);
  TensorId node(const std::string& op_type, std::vector<TensorId> inputs,
                Attributes attributes = {});

  // Convolution with `padding` on all sides and weights from [-scale, scale).
  TensorId conv(TensorId x, std::int64_t in_c, std::int64_t out_c, std::int64_t kernel,
                std::int64_t stride, std::int64_t padding, float scale, bool with_bias = false,
                std::int64_t groups = 1);
  // Scale around 1, bias around 0, running statistics 0 and 1.
  TensorId batch_norm(TensorId x, std::int64_t channels);
  TensorId relu(TensorId x) { return node("Relu", {x}); }
  TensorId add(TensorId a, TensorId b) { return node("Add", {a, b}); }
  TensorId gemm(TensorId x, std::int64_t n, std::int64_t m, float scale);

  Graph finish(TensorId output);

  // Dimensions of what has been built, at this batch size. Precondition: the shapes fit.
  std::size_t rank(TensorId id, std::int64_t batch) const;

  const Tensor& tensor(TensorId id) const { return graph_.tensors[static_cast<std::size_t>(id)]; }

 private:
  TensorId add_tensor(Tensor tensor);

  Graph graph_;
  std::uint32_t stream_ = 0;
};

// ResNet-20 for CIFAR (He et al., 2015, section 4.2; projection shortcuts): 3 x 6 blocks of two
// 3x3 convolutions. Parameters are made in forward order.
Graph resnet20(std::int64_t classes);
// ResNet-50 for 32x32 images: 3x3 stem, bottlenecks 3, 4, 6, 3; 1.3 G multiply-adds an image.
Graph resnet50(std::int64_t classes);

}  // namespace tempo
