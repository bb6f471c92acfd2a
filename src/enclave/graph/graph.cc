#include "enclave/graph/graph.h"

#include <limits>

namespace tempo {
namespace {

template <class T>
const T* attribute_or_null(const Node& node, const std::string& key) {
  const auto found = node.attributes.find(key);
  return found == node.attributes.end() ? nullptr : std::get_if<T>(&found->second.value);
}

}  // namespace

std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) {
    TEMPO_ASSERT(dim >= 0);
    TEMPO_ASSERT(dim == 0 || count <= std::numeric_limits<std::int64_t>::max() / dim);
    count *= dim;
  }
  return count;
}

std::vector<std::int64_t> ints_at(const Tensor& tensor, std::int64_t batch) {
  std::vector<std::int64_t> ints = tensor.ints;
  for (std::size_t i = 0; i < tensor.ints_per_sample.size(); ++i) {
    ints[i] += batch * tensor.ints_per_sample[i];
  }
  return ints;
}

std::int64_t element_bytes(DataType type) {
  return type == DataType::kFloat32 ? 4 : 8;
}

std::string shape_to_string(const Shape& shape) {
  std::string text("(");
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text.push_back(',');
    if (shape[i] == kBatchDim) {
      text.push_back('N');
    } else {
      text.append(std::to_string(shape[i]));
    }
  }
  text.push_back(')');
  return text;
}

std::int64_t Node::int_or(const std::string& key, std::int64_t fallback) const {
  const auto* value = attribute_or_null<std::int64_t>(*this, key);
  return value ? *value : fallback;
}

float Node::float_or(const std::string& key, float fallback) const {
  const auto* value = attribute_or_null<float>(*this, key);
  return value ? *value : fallback;
}

std::string Node::string_or(const std::string& key, const std::string& fallback) const {
  const auto* value = attribute_or_null<std::string>(*this, key);
  return value ? *value : fallback;
}

std::vector<std::int64_t> Node::ints_or(const std::string& key,
                                        const std::vector<std::int64_t>& fallback) const {
  const auto* value = attribute_or_null<std::vector<std::int64_t>>(*this, key);
  return value ? *value : fallback;
}

TensorId Graph::find(const std::string& tensor_name) const {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name == tensor_name) return static_cast<TensorId>(i);
  }
  return kNoTensor;
}

}  // namespace tempo
