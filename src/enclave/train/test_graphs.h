// File: enclave/train/test_graphs.h
// Small models for tests, built node by node.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "enclave/graph/graph.h"

namespace tempo::test {

class GraphBuilder {
 public:
  explicit GraphBuilder(Shape input) {
    graph_.name = "test";
    graph_.opset = 17;
    Tensor tensor;
    tensor.name = "input";
    tensor.kind = TensorKind::kInput;
    tensor.declared = std::move(input);
    last_ = add(std::move(tensor));
    graph_.inputs = {last_};
  }

  // Values in (-scale, scale), a fixed function of their position.
  GraphBuilder& gemm(std::int64_t in, std::int64_t out, float scale) {
    const TensorId weights = parameter("W", {out, in}, Storage::kOnnx, scale);
    const TensorId bias = parameter("B", {out}, Storage::kOnnx, scale);
    node("Gemm", {last_, weights, bias}, {{"transB", Attribute{std::int64_t{1}}}});
    return *this;
  }
  GraphBuilder& conv3x3(std::int64_t in, std::int64_t out, float scale) {
    const TensorId weights = parameter("W", {out, in, 3, 3}, Storage::kConvWeights, scale);
    const TensorId bias = parameter("B", {out}, Storage::kOnnx, scale);
    node("Conv", {last_, weights, bias},
         {{"kernel_shape", Attribute{std::vector<std::int64_t>{3, 3}}},
          {"pads", Attribute{std::vector<std::int64_t>{1, 1, 1, 1}}}});
    return *this;
  }
  // Running statistics 0 and 1.
  GraphBuilder& batch_norm(std::int64_t channels) {
    const TensorId scale = parameter("S", {channels}, Storage::kOnnx, 1);
    const TensorId bias = parameter("B", {channels}, Storage::kOnnx, 1);
    const TensorId mean = statistic("M", channels, 0);
    const TensorId variance = statistic("V", channels, 1);
    node("BatchNormalization", {last_, scale, bias, mean, variance}, {});
    return *this;
  }
  GraphBuilder& simple(const char* op_type) {
    node(op_type, {last_}, {});
    return *this;
  }
  GraphBuilder& softmax(std::int64_t axis) {
    node("Softmax", {last_}, {{"axis", Attribute{axis}}});
    return *this;
  }
  TensorId last() const { return last_; }
  Graph build() {
    graph_.outputs = {last_};
    return std::move(graph_);
  }

 private:
  static std::string numbered(const char* name, std::size_t number) {
    return std::string(name).append(std::to_string(number));
  }
  TensorId add(Tensor tensor) {
    graph_.tensors.push_back(std::move(tensor));
    return static_cast<TensorId>(graph_.tensors.size() - 1);
  }
  TensorId parameter(const char* name, Shape shape, Storage storage, float scale) {
    Tensor tensor;
    tensor.name = numbered(name, graph_.tensors.size());
    tensor.kind = TensorKind::kParameter;
    tensor.storage = storage;
    for (std::int64_t i = 0; i < element_count(shape); ++i) {
      const auto phase = static_cast<float>(i * 37 + 11 * static_cast<int>(graph_.tensors.size()));
      tensor.floats.push_back(scale * std::sin(phase));
    }
    tensor.declared = std::move(shape);
    return add(std::move(tensor));
  }
  TensorId statistic(const char* name, std::int64_t channels, float value) {
    Tensor tensor;
    tensor.name = numbered(name, graph_.tensors.size());
    tensor.kind = TensorKind::kStatistic;
    tensor.declared = {channels};
    tensor.floats.assign(static_cast<std::size_t>(channels), value);
    return add(std::move(tensor));
  }
  void node(const char* op_type, std::vector<TensorId> inputs,
            std::map<std::string, Attribute> attributes) {
    Tensor output;
    output.name = numbered("t", graph_.tensors.size());
    Node node;
    node.op_type = op_type;
    node.name = numbered(op_type, graph_.nodes.size());
    node.opset = graph_.opset;
    node.attributes = std::move(attributes);
    node.inputs = std::move(inputs);
    last_ = add(std::move(output));
    node.outputs = {last_};
    graph_.nodes.push_back(std::move(node));
  }

  Graph graph_;
  TensorId last_ = kNoTensor;
};

}  // namespace tempo::test
