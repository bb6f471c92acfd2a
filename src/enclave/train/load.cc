#include "enclave/train/load.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "enclave/train/cifar.h"
#include "enclave/train/idx.h"
#include "enclave/train/npy.h"

namespace tempo {
namespace {

// Sample numbers are 32-bit words in shuffles and counters.
constexpr std::int64_t kMaxSamples = std::int64_t{1} << 31;
constexpr std::int32_t kFashionClasses = 10;

// The uploaded files; each can be taken once.
class Files {
 public:
  static Result<Files> create(std::vector<NamedFile> files,
                              const std::vector<std::string_view>& known) {
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (std::find(known.begin(), known.end(), files[i].name) == known.end()) {
        std::string expected;
        for (const auto name : known)
          expected += (expected.empty() ? "" : ", ") + std::string(name);
        return Error{ErrorCode::kBadData,
                     "unknown data file",
                     files[i].name,
                     expected,
                     "",
                     "send the files of this format under these names"};
      }
      for (std::size_t j = 0; j < i; ++j) {
        if (files[j].name == files[i].name) {
          return Error{
              ErrorCode::kBadData,   "data file given twice", files[i].name, "once", "twice",
              "send every file once"};
        }
      }
    }
    return Files(std::move(files));
  }

  std::optional<NamedFile> take(std::string_view name) {
    for (auto it = files_.begin(); it != files_.end(); ++it) {
      if (it->name == name) {
        NamedFile file = std::move(*it);
        files_.erase(it);
        return file;
      }
    }
    return std::nullopt;
  }

 private:
  explicit Files(std::vector<NamedFile> files) : files_(std::move(files)) {}
  std::vector<NamedFile> files_;
};

Error missing(std::string_view name, std::string_view because_of) {
  return {ErrorCode::kBadData,
          "data file missing",
          std::string(name),
          "samples, and their labels beside them",
          "only " + std::string(because_of),
          "send this file too"};
}

Status check_label_count(const std::string& name, std::int64_t labels, std::int64_t samples) {
  if (labels == samples) return {};
  return Error{ErrorCode::kBadData,
               "as many labels as samples are needed",
               name,
               std::to_string(samples) + " labels",
               std::to_string(labels),
               "send the two files that belong together"};
}

Status check_labels(const std::string& name, std::span<const std::int32_t> labels,
                    std::int64_t samples, std::int32_t classes) {
  TEMPO_RETURN_IF_ERROR(check_label_count(name, static_cast<std::int64_t>(labels.size()), samples));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] >= classes) {
      return Error{ErrorCode::kBadData,
                   "label out of range",
                   name + ", sample " + std::to_string(i),
                   "0.." + std::to_string(classes - 1),
                   std::to_string(labels[i]),
                   "correct the label"};
    }
  }
  return {};
}

Status check_count(const std::string& name, std::int64_t samples) {
  if (samples < kMaxSamples) return {};
  return Error{ErrorCode::kBadData,
               "too many samples in one file",
               name,
               "fewer than " + std::to_string(kMaxSamples),
               std::to_string(samples),
               "use fewer"};
}

Dataset one_file(NamedFile file, SampleShape shape, ValueType type, std::size_t offset,
                 std::int64_t count) {
  std::vector<Dataset::Part> parts(1);
  parts[0].bytes = std::move(file.bytes);
  parts[0].offset = offset;
  parts[0].stride = static_cast<std::size_t>(shape.elements()) * value_bytes(type);
  parts[0].count = count;
  return {std::move(file.name), shape, type, std::move(parts)};
}

Result<Dataset> load_idx(Files& files, std::string_view images_name, std::string_view labels_name) {
  auto images = files.take(images_name);
  const auto labels = files.take(labels_name);
  if (!images) {
    if (labels) return missing(images_name, labels_name);
    return Dataset();
  }
  const auto array = parse_idx(images->name, images->bytes, 3);
  if (!array.ok()) return array.error();
  const std::int64_t count = array->shape[0];
  TEMPO_RETURN_IF_ERROR(check_count(images->name, count));
  Dataset data = one_file(std::move(*images), {1, array->shape[1], array->shape[2], true},
                          ValueType::kUint8, array->offset, count);
  if (labels) {
    const auto parsed = parse_idx(labels->name, labels->bytes, 1);
    if (!parsed.ok()) return parsed.error();
    std::vector<std::int32_t> values;
    values.reserve(labels->bytes.size() - parsed->offset);
    for (std::size_t i = parsed->offset; i < labels->bytes.size(); ++i) {
      values.push_back(std::to_integer<std::int32_t>(labels->bytes[i]));
    }
    TEMPO_RETURN_IF_ERROR(check_labels(labels->name, values, count, kFashionClasses));
    data.set_labels(std::move(values), labels->name);
  }
  return data;
}

Result<Dataset> load_cifar(Files& files, const std::vector<std::string_view>& names) {
  std::vector<Dataset::Part> parts;
  std::vector<std::int32_t> labels;
  std::string source;
  for (const auto name : names) {
    auto file = files.take(name);
    if (!file) continue;
    const auto count = parse_cifar(file->name, file->bytes);
    if (!count.ok()) return count.error();
    TEMPO_RETURN_IF_ERROR(
        check_count(file->name, static_cast<std::int64_t>(labels.size()) + *count));
    for (std::size_t i = 0; i < static_cast<std::size_t>(*count); ++i) {
      labels.push_back(std::to_integer<std::int32_t>(file->bytes[i * kCifarRecordBytes]));
    }
    parts.push_back({std::move(file->bytes), 1, kCifarRecordBytes, *count});
    source += (source.empty() ? "" : "+") + file->name;
  }
  if (parts.empty()) return Dataset();
  Dataset data(source, {kCifarChannels, kCifarSide, kCifarSide, true}, ValueType::kUint8,
               std::move(parts));
  data.set_labels(std::move(labels), source);
  return data;
}

// A NaN or infinity in the samples would only show as a diverged loss much later.
Status check_finite(const std::string& name, const std::byte* values, std::size_t count,
                    std::size_t sample_elements) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t word;
    std::memcpy(&word, values + i * sizeof(word), sizeof(word));
    constexpr std::uint32_t kExponent = 0x7F800000U;
    if ((word & kExponent) == kExponent) {
      return Error{ErrorCode::kBadData,
                   "value is not a finite number",
                   name + ", sample " + std::to_string(i / sample_elements),
                   "finite values",
                   "NaN or infinity at position " + std::to_string(i % sample_elements),
                   "clean the data"};
    }
  }
  return {};
}

Status add_npy_labels(NamedFile file, Dataset& data) {
  const auto array = parse_npy(file.name, file.bytes);
  if (!array.ok()) return array.error();
  if (array->type != NpyType::kFloat32) {
    auto labels = npy_integers(file.name, *array, file.bytes, "label");
    if (!labels.ok()) return labels.error();
    TEMPO_RETURN_IF_ERROR(check_label_count(file.name, array->shape[0], data.size()));
    data.set_labels(std::move(*labels), file.name);
    return {};
  }
  const auto& dims = array->shape;
  TEMPO_RETURN_IF_ERROR(check_label_count(file.name, dims[0], data.size()));
  const std::int64_t width = element_count({dims.begin() + 1, dims.end()});
  TEMPO_RETURN_IF_ERROR(check_finite(file.name, file.bytes.data() + array->offset,
                                     static_cast<std::size_t>(dims[0] * width),
                                     static_cast<std::size_t>(width)));
  data.set_target_values(std::move(file.bytes), array->offset, width, file.name);
  return {};
}

Result<Dataset> load_npy_samples(NamedFile file) {
  const auto array = parse_npy(file.name, file.bytes);
  if (!array.ok()) return array.error();
  const auto& dims = array->shape;
  const bool is_float = array->type == NpyType::kFloat32;
  if (dims.size() < 2) {
    return Error{ErrorCode::kBadData,  "unsupported shape of samples", file.name,
                 "(N,C,H,W) or (N,F)", shape_to_string(dims),          "reshape the array"};
  }
  const std::int64_t count = dims[0];
  TEMPO_RETURN_IF_ERROR(check_count(file.name, count));
  const SampleShape shape = dims.size() == 4
                                ? SampleShape{dims[1], dims[2], dims[3], true}
                                : SampleShape::row(element_count({dims.begin() + 1, dims.end()}));
  const auto elements = static_cast<std::size_t>(shape.elements());
  if (is_float) {
    TEMPO_RETURN_IF_ERROR(check_finite(file.name, file.bytes.data() + array->offset,
                                       elements * static_cast<std::size_t>(count), elements));
  }
  ValueType type = is_float ? ValueType::kFloat32 : ValueType::kUint8;
  std::size_t offset = array->offset;
  if (!is_float && array->type != NpyType::kUint8) {
    const auto tokens = npy_integers(file.name, *array, file.bytes, "token");
    if (!tokens.ok()) return tokens.error();
    const auto bytes = std::as_bytes(std::span(*tokens));
    file.bytes.assign(bytes.begin(), bytes.end());
    type = ValueType::kInt32;
    offset = 0;
  }
  return one_file(std::move(file), shape, type, offset, count);
}

// "x" of the first input, "x2" of the second, and so on.
std::string input_name(std::size_t input, const std::string& suffix) {
  std::string name("x");
  if (input > 1) name += std::to_string(input);
  return name += suffix;
}

// suffix: of the file names of this set.
Result<Dataset> load_npy(Files& files, const std::string& suffix) {
  const std::string x_name = input_name(1, suffix);
  std::string y_name("y");
  y_name += suffix;
  auto x = files.take(x_name);
  auto y = files.take(y_name);
  if (!x) {
    if (y) return missing(x_name, y_name);
    return Dataset();
  }
  auto data = load_npy_samples(std::move(*x));
  if (!data.ok()) return data;
  for (std::size_t input = 2; input <= kMaxModelInputs; ++input) {
    auto more = files.take(input_name(input, suffix));
    if (!more) break;
    auto loaded = load_npy_samples(std::move(*more));
    if (!loaded.ok()) return loaded;
    if (loaded->size() != data->size()) {
      return Error{ErrorCode::kBadData,
                   "the model's inputs have different numbers of samples",
                   loaded->source(),
                   std::to_string(data->size()),
                   std::to_string(loaded->size()),
                   "send files that belong together"};
    }
    data->add_input(std::move(*loaded));
  }
  if (y) TEMPO_RETURN_IF_ERROR(add_npy_labels(std::move(*y), *data));
  return data;
}

std::string describe(const Dataset& data) {
  std::string text = data.shape().to_string() + " " + std::string(value_type_name(data.type()));
  for (const Dataset& more : data.more_inputs()) text += " + " + describe(more);
  return text;
}

struct Format {
  std::vector<std::string_view> names;
  Result<Dataset> (*load)(Files& files, bool test);
};

std::optional<Format> find_format(std::string_view format) {
  if (format == "fashion-mnist") {
    return Format{
        {"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
         "t10k-labels-idx1-ubyte"},
        [](Files& files, bool test) {
          return test ? load_idx(files, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
                      : load_idx(files, "train-images-idx3-ubyte", "train-labels-idx1-ubyte");
        }};
  }
  if (format == "cifar10") {
    return Format{{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                   "data_batch_5.bin", "test_batch.bin"},
                  [](Files& files, bool test) {
                    return test ? load_cifar(files, {"test_batch.bin"})
                                : load_cifar(files, {"data_batch_1.bin", "data_batch_2.bin",
                                                     "data_batch_3.bin", "data_batch_4.bin",
                                                     "data_batch_5.bin"});
                  }};
  }
  if (format == "npy") {
    return Format{
        {"x.npy", "y.npy", "x_test.npy", "y_test.npy", "x2.npy", "x2_test.npy", "x3.npy",
         "x3_test.npy", "x4.npy", "x4_test.npy"},
        [](Files& files, bool test) { return load_npy(files, test ? "_test.npy" : ".npy"); }};
  }
  return std::nullopt;
}

}  // namespace

Result<Datasets> load_datasets(const DataSpec& spec, std::vector<NamedFile> files) {
  const auto format = find_format(spec.format);
  if (!format) {
    return Error{ErrorCode::kUsage, "unknown data format", "data", "fashion-mnist, cifar10 or npy",
                 spec.format,       "choose one of these"};
  }
  auto named = Files::create(std::move(files), format->names);
  if (!named.ok()) return named.error();
  auto train = format->load(*named, false);
  if (!train.ok()) return train.error();
  auto test = format->load(*named, true);
  if (!test.ok()) return test.error();
  if (train->empty() && test->empty()) {
    return Error{ErrorCode::kBadData, "no data",
                 spec.format,         "at least " + std::string(format->names.front()),
                 "no samples",        "send the data set's files"};
  }
  if (!train->empty() && !test->empty() && describe(*train) != describe(*test)) {
    return Error{ErrorCode::kBadData, "training and test samples differ in shape or type",
                 test->source(),      describe(*train),
                 describe(*test),     "send two sets of one kind"};
  }
  return Datasets{std::move(*train), std::move(*test)};
}

}  // namespace tempo
