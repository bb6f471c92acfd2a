// File: enclave/train/dataset.h
// Samples and labels as they came, one byte or one float a value, without a copy: a data set owns
// the bytes of the files that it was read from and knows where in them each sample lies. What a
// sample should give is a label (classes), or a row of values (regression, several yes or no).
// Thread safety: plain data; any number of threads may read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "enclave/graph/graph.h"

namespace tempo {

// A sample is an image of channels x height x width, stored in this order, or a row of features or
// tokens (channels = height = 1), whatever their dimensions.
struct SampleShape {
  std::int64_t channels = 1;
  std::int64_t height = 1;
  std::int64_t width = 1;
  bool image = true;

  static SampleShape row(std::int64_t features) { return {1, 1, features, false}; }
  // Readers guarantee that the product fits.
  std::int64_t elements() const { return channels * height * width; }
  std::string to_string() const;  // "(N,3,32,32)" or "(N,784)"
  bool operator==(const SampleShape&) const = default;
};

enum class ValueType { kUint8, kFloat32, kInt32 };
std::string_view value_type_name(ValueType type);  // "uint8", "float32", "int32"
std::size_t value_bytes(ValueType type);

// What the samples of a batch should give: one or the other, as the data set has it.
struct Targets {
  std::vector<std::int32_t> labels;
  std::vector<float> values;  // rows, one after the other
};

class Dataset {
 public:
  // A run of samples in one file: sample i starts at bytes[offset + i * stride]. float32 values are
  // little-endian and need not be aligned.
  struct Part {
    std::vector<std::byte> bytes;
    std::size_t offset = 0;
    std::size_t stride = 0;
    std::int64_t count = 0;
  };

  Dataset() = default;  // empty
  Dataset(std::string source, SampleShape shape, ValueType type, std::vector<Part> parts);

  std::int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const SampleShape& shape() const { return shape_; }
  ValueType type() const { return type_; }
  // File names, for messages and the report.
  const std::string& source() const { return source_; }
  // The first byte of a sample of shape().elements() values. 0 <= index < size().
  const std::byte* sample(std::int64_t index) const;

  // Empty, or labels_a_sample() for every sample, none of them negative.
  std::span<const std::int32_t> labels() const { return labels_; }
  bool has_labels() const { return !labels_.empty(); }
  std::int64_t labels_a_sample() const { return has_labels() ? std::ssize(labels_) / size_ : 0; }
  // `source`: the file that they are from. Precondition: labels.size() is a multiple of size(), not
  // 0.
  void set_labels(std::vector<std::int32_t> labels, std::string source);
  // Target values: `width` finite float32, little-endian, a sample, in bytes from `offset` on.
  // Precondition: they fit.
  void set_target_values(std::vector<std::byte> bytes, std::size_t offset, std::int64_t width,
                         std::string source);
  bool has_target_values() const { return target_width_ > 0; }
  std::int64_t target_width() const { return target_width_; }
  void copy_target_values(std::int64_t index, float* out) const;
  // Overwrites `out`. Precondition: every number is below size().
  void targets(std::span<const std::uint32_t> samples, Targets& out) const;

  // What else the model takes of the same samples, input by input; without labels.
  const std::vector<Dataset>& more_inputs() const { return more_inputs_; }
  void add_input(Dataset input);  // precondition: as many samples

  // The file that labels or target values are from.
  const std::string& label_source() const { return label_source_; }

 private:
  std::string source_;
  SampleShape shape_;
  ValueType type_ = ValueType::kUint8;
  std::vector<Part> parts_;
  std::int64_t size_ = 0;
  std::vector<std::int32_t> labels_;
  std::vector<std::byte> target_bytes_;
  std::size_t target_offset_ = 0;
  std::int64_t target_width_ = 0;
  std::string label_source_;
  std::vector<Dataset> more_inputs_;
};

// Either may be empty, not both. Both have the same shape and type.
struct Datasets {
  Dataset train;
  Dataset test;
};

// What a model's input of this declared shape wants for a sample: images for (N,C,H,W), else rows.
// A model that takes rows accepts images of as many values, in the order C, H, W. Error kBadData.
Result<SampleShape> model_sample_shape(const Shape& declared_input);

// Whether the samples of a data set have the shape and the type that a model wants: integers for an
// input of integers. Error kBadData.
Status check_fits(const Dataset& data, const SampleShape& model_input, DataType type);

}  // namespace tempo
