#include "enclave/train/dataset.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tempo {

std::string SampleShape::to_string() const {
  if (!image) return "(N," + std::to_string(width) + ")";
  return "(N," + std::to_string(channels) + "," + std::to_string(height) + "," +
         std::to_string(width) + ")";
}

std::string_view value_type_name(ValueType type) {
  if (type == ValueType::kUint8) return "uint8";
  return type == ValueType::kFloat32 ? "float32" : "int32";
}

std::size_t value_bytes(ValueType type) {
  return type == ValueType::kUint8 ? 1 : 4;
}

Dataset::Dataset(std::string source, SampleShape shape, ValueType type, std::vector<Part> parts)
    : source_(std::move(source)), shape_(shape), type_(type), parts_(std::move(parts)) {
  const std::size_t sample_bytes = static_cast<std::size_t>(shape_.elements()) * value_bytes(type_);
  for (const Part& part : parts_) {
    TEMPO_ASSERT(part.count > 0 && part.stride >= sample_bytes);
    TEMPO_ASSERT(part.offset + static_cast<std::size_t>(part.count - 1) * part.stride +
                     sample_bytes <=
                 part.bytes.size());
    size_ += part.count;
  }
}

const std::byte* Dataset::sample(std::int64_t index) const {
  for (const Part& part : parts_) {
    if (index < part.count) {
      return part.bytes.data() + part.offset + static_cast<std::size_t>(index) * part.stride;
    }
    index -= part.count;
  }
  TEMPO_ASSERT(false);
}

void Dataset::add_input(Dataset input) {
  TEMPO_ASSERT(input.size() == size_);
  more_inputs_.push_back(std::move(input));
}

void Dataset::set_labels(std::vector<std::int32_t> labels, std::string source) {
  TEMPO_ASSERT(!labels.empty() && std::ssize(labels) % size_ == 0);
  labels_ = std::move(labels);
  label_source_ = std::move(source);
}

void Dataset::set_target_values(std::vector<std::byte> bytes, std::size_t offset,
                                std::int64_t width, std::string source) {
  TEMPO_ASSERT(width > 0 &&
               bytes.size() - offset == static_cast<std::size_t>(size_ * width) * sizeof(float));
  target_bytes_ = std::move(bytes);
  target_offset_ = offset;
  target_width_ = width;
  label_source_ = std::move(source);
}

void Dataset::copy_target_values(std::int64_t index, float* out) const {
  TEMPO_ASSERT(index >= 0 && index < size_);
  const std::size_t row = static_cast<std::size_t>(target_width_) * sizeof(float);
  std::memcpy(out, target_bytes_.data() + target_offset_ + static_cast<std::size_t>(index) * row,
              row);
}

void Dataset::targets(std::span<const std::uint32_t> samples, Targets& out) const {
  const auto labels = static_cast<std::size_t>(labels_a_sample());
  out.labels.resize(samples.size() * labels);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto from = labels_.begin() + static_cast<std::ptrdiff_t>(samples[i] * labels);
    std::copy_n(from, labels, out.labels.begin() + static_cast<std::ptrdiff_t>(i * labels));
  }
  const auto width = static_cast<std::size_t>(target_width_);
  out.values.resize(samples.size() * width);
  for (std::size_t i = 0; width > 0 && i < samples.size(); ++i) {
    copy_target_values(samples[i], out.values.data() + i * width);
  }
}

Result<SampleShape> model_sample_shape(const Shape& declared_input) {
  const bool has_open_dimension =
      std::any_of(declared_input.begin() + (declared_input.empty() ? 0 : 1), declared_input.end(),
                  [](std::int64_t dim) { return dim < 1; });
  if (declared_input.size() < 2 || has_open_dimension) {
    return Error{ErrorCode::kBadData,
                 "no data format fits the model's input",
                 "the model's input",
                 "two dimensions or more, only the first one open",
                 shape_to_string(declared_input),
                 "export the model with such an input"};
  }
  if (declared_input.size() == 4) {
    return SampleShape{declared_input[1], declared_input[2], declared_input[3], true};
  }
  return SampleShape::row(element_count({declared_input.begin() + 1, declared_input.end()}));
}

Status check_fits(const Dataset& data, const SampleShape& model_input, DataType type) {
  const bool is_integer = type == DataType::kInt64;
  if (is_integer ? data.type() == ValueType::kFloat32 : data.type() == ValueType::kInt32) {
    return Error{
        ErrorCode::kBadData,
        "the samples do not have the type of the model's input",
        data.source(),
        is_integer ? "integers" : "float32 or uint8",
        std::string(value_type_name(data.type())),
        is_integer ? "convert with x.astype(numpy.int32)" : "convert with x.astype(numpy.float32)"};
  }
  const bool flattened = !model_input.image && data.shape().elements() == model_input.elements();
  if (data.shape() != model_input && !flattened) {
    return Error{ErrorCode::kBadData,
                 "the samples do not have the shape of the model's input",
                 data.source(),
                 model_input.to_string(),
                 data.shape().to_string(),
                 "use data of this shape, or a model made for this data"};
  }
  return {};
}

}  // namespace tempo
