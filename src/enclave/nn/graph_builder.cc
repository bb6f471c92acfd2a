#include "enclave/nn/graph_builder.h"

#include <cmath>

#include "enclave/graph/storage.h"
#include "enclave/nn/op.h"

namespace tempo {

float hashed_value(std::uint32_t stream, std::uint32_t index) {
  std::uint32_t h = index * 0x9E3779B1U + stream * 0x85EBCA77U + 0x27D4EB2FU;
  h ^= h >> 16;
  h *= 0x85EBCA6BU;
  h ^= h >> 13;
  h *= 0xC2B2AE35U;
  h ^= h >> 16;
  return static_cast<float>(h >> 8) * 0x1p-23F - 1.0F;
}

TensorId GraphBuilder::add_tensor(Tensor tensor) {
  tensor.name = std::to_string(graph_.tensors.size());
  graph_.tensors.push_back(std::move(tensor));
  return static_cast<TensorId>(graph_.tensors.size() - 1);
}

TensorId GraphBuilder::input(const Shape& rest, DataType type) {
  Tensor tensor{.name = "", .kind = TensorKind::kInput, .type = type};
  tensor.declared = {kBatchDim};
  tensor.declared.insert(tensor.declared.end(), rest.begin(), rest.end());
  graph_.inputs.push_back(add_tensor(std::move(tensor)));
  return graph_.inputs.back();
}

TensorId GraphBuilder::parameter(const Shape& shape, float scale, float offset, Storage storage,
                                 TensorKind kind) {
  std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = hashed_value(stream_, static_cast<std::uint32_t>(i)) * scale + offset;
  }
  ++stream_;
  Tensor tensor{.name = "", .kind = kind, .storage = storage};
  tensor.declared = shape;
  tensor.floats = to_storage(std::move(values), shape, storage);
  return add_tensor(std::move(tensor));
}

TensorId GraphBuilder::filled(const Shape& shape, float value, TensorKind kind) {
  Tensor tensor{.name = "", .kind = kind};
  tensor.declared = shape;
  tensor.floats.assign(static_cast<std::size_t>(element_count(shape)), value);
  return add_tensor(std::move(tensor));
}

TensorId GraphBuilder::ints(std::vector<std::int64_t> values) {
  Tensor tensor{.name = "", .kind = TensorKind::kConstant, .type = DataType::kInt64};
  tensor.declared = {static_cast<std::int64_t>(values.size())};
  tensor.ints = std::move(values);
  return add_tensor(std::move(tensor));
}

TensorId GraphBuilder::scalar(std::int64_t value) {
  const TensorId id = ints({value});
  graph_.tensors[static_cast<std::size_t>(id)].declared.clear();
  return id;
}

TensorId GraphBuilder::node(const std::string& op_type, std::vector<TensorId> inputs,
                            Attributes attributes) {
  Node node;
  node.op_type = op_type;
  node.name = std::to_string(graph_.nodes.size());
  node.opset = graph_.opset;
  node.attributes = std::move(attributes);
  node.inputs = std::move(inputs);
  const OpDef* op = find_op(op_type);
  Tensor result;
  if (op != nullptr && op->output_type != nullptr) result.type = op->output_type(graph_, node);
  const TensorId output = add_tensor(std::move(result));
  node.outputs = {output};
  graph_.nodes.push_back(std::move(node));
  return output;
}

TensorId GraphBuilder::conv(TensorId x, std::int64_t in_c, std::int64_t out_c, std::int64_t kernel,
                            std::int64_t stride, std::int64_t padding, float scale, bool with_bias,
                            std::int64_t groups) {
  std::vector<TensorId> inputs = {
      x, parameter({out_c, in_c / groups, kernel, kernel}, scale, 0, Storage::kConvWeights)};
  if (with_bias) inputs.push_back(parameter({out_c}, 0.1F));
  return node("Conv", std::move(inputs),
              {{"strides", {std::vector<std::int64_t>{stride, stride}}},
               {"pads", {std::vector<std::int64_t>(4, padding)}},
               {"group", {groups}}});
}

TensorId GraphBuilder::batch_norm(TensorId x, std::int64_t channels) {
  const TensorId scale = parameter({channels}, 0.25F, 1);
  const TensorId bias = parameter({channels}, 0.25F);
  return node("BatchNormalization", {x, scale, bias, filled({channels}, 0, TensorKind::kStatistic),
                                     filled({channels}, 1, TensorKind::kStatistic)});
}

TensorId GraphBuilder::gemm(TensorId x, std::int64_t n, std::int64_t m, float scale) {
  const TensorId weights = parameter({m, n}, scale);
  const TensorId bias = parameter({m}, 0.1F);
  return node("Gemm", {x, weights, bias}, {{"transB", {std::int64_t{1}}}});
}

std::size_t GraphBuilder::rank(TensorId id, std::int64_t batch) const {
  const Result<Shapes> shapes = infer_shapes(graph_, batch);
  TEMPO_ASSERT(shapes.ok());
  return (*shapes)[static_cast<std::size_t>(id)].size();
}

Graph GraphBuilder::finish(TensorId output) {
  graph_.outputs = {output};
  return std::move(graph_);
}

namespace {

// Uniform in [-sqrt(6 / n), sqrt(6 / n)): He's variance.
float he_scale(std::int64_t inner) {
  return std::sqrt(6.0F / static_cast<float>(inner));
}

TensorId conv_norm(GraphBuilder& b, TensorId x, std::int64_t in_c, std::int64_t out_c,
                   std::int64_t kernel, std::int64_t stride) {
  const TensorId z =
      b.conv(x, in_c, out_c, kernel, stride, kernel / 2, he_scale(in_c * kernel * kernel));
  return b.batch_norm(z, out_c);
}

TensorId classify(GraphBuilder& b, TensorId x, std::int64_t channels, std::int64_t classes) {
  x = b.node("GlobalAveragePool", {x});
  x = b.node("Flatten", {x});
  return b.gemm(x, channels, classes, he_scale(channels));
}

}  // namespace

Graph resnet20(std::int64_t classes) {
  GraphBuilder b;
  TensorId x = b.relu(conv_norm(b, b.input({3, 32, 32}), 3, 16, 3, 1));
  std::int64_t channels = 16;
  for (const std::int64_t width : {16, 32, 64}) {
    for (int block = 0; block < 3; ++block) {
      const std::int64_t stride = width != channels ? 2 : 1;
      TensorId y = b.relu(conv_norm(b, x, channels, width, 3, stride));
      y = conv_norm(b, y, width, width, 3, 1);
      if (stride != 1) x = conv_norm(b, x, channels, width, 1, stride);
      x = b.relu(b.add(y, x));
      channels = width;
    }
  }
  return b.finish(classify(b, x, channels, classes));
}

Graph resnet50(std::int64_t classes) {
  GraphBuilder b;
  TensorId x = b.relu(conv_norm(b, b.input({3, 32, 32}), 3, 64, 3, 1));
  std::int64_t channels = 64;
  const std::vector<std::pair<std::int64_t, int>> stages = {{64, 3}, {128, 4}, {256, 6}, {512, 3}};
  for (const auto& [width, blocks] : stages) {
    for (int block = 0; block < blocks; ++block) {
      const std::int64_t stride = block == 0 && width != 64 ? 2 : 1;
      TensorId y = b.relu(conv_norm(b, x, channels, width, 1, 1));
      y = b.relu(conv_norm(b, y, width, width, 3, stride));
      y = conv_norm(b, y, width, 4 * width, 1, 1);
      if (block == 0) x = conv_norm(b, x, channels, 4 * width, 1, stride);
      x = b.relu(b.add(y, x));
      channels = 4 * width;
    }
  }
  return b.finish(classify(b, x, channels, classes));
}

}  // namespace tempo
