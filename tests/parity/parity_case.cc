#include "tests/parity/parity_case.h"

#include <zlib.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "enclave/graph/storage.h"
#include "enclave/train/npy.h"

namespace tempo {
namespace {

std::vector<std::byte> read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<std::byte> bytes(file ? static_cast<std::size_t>(file.tellg()) : 0);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file) die(path.string() + ": cannot be read");
  return bytes;
}

struct Array {
  Shape shape;
  std::vector<float> floats;  // of a float32 array
  std::vector<std::int64_t> ints;
};

Array load(const std::filesystem::path& path) {
  const auto bytes = read(path);
  const auto header = parse_npy(path.string(), bytes);
  if (!header) die(header.error().one_line());
  Array array{header->shape, {}, {}};
  const auto count = static_cast<std::size_t>(element_count(header->shape));
  const std::byte* values = bytes.data() + header->offset;
  if (header->type == NpyType::kFloat32) {
    array.floats.resize(count);
    std::memcpy(array.floats.data(), values, count * sizeof(float));
  } else if (header->type == NpyType::kInt64) {
    array.ints.resize(count);
    std::memcpy(array.ints.data(), values, count * sizeof(std::int64_t));
  } else {
    die(path.string() + ": neither float32 nor int64");
  }
  return array;
}

std::vector<float> channels_last(const Array& images) {
  const std::int64_t n = images.shape[0];
  const std::int64_t channels = images.shape[1];
  const std::int64_t pixels = images.shape[2] * images.shape[3];
  std::vector<float> out;
  out.reserve(images.floats.size());
  for (std::int64_t s = 0; s < n; ++s) {
    for (std::int64_t p = 0; p < pixels; ++p) {
      for (std::int64_t c = 0; c < channels; ++c) {
        out.push_back(images.floats[(s * channels + c) * pixels + p]);
      }
    }
  }
  return out;
}

std::uint32_t checksum(std::span<const float> values) {
  return static_cast<std::uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(values.data()), values.size_bytes()));
}

std::vector<float> transposed(std::span<const float> values, std::int64_t rows,
                              std::int64_t columns) {
  std::vector<float> out(values.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) out[c * rows + r] = values[r * columns + c];
  }
  return out;
}

}  // namespace

void die(const std::string& why) {
  std::fprintf(stderr, "parity: %s\n", why.c_str());
  std::exit(1);
}

ParityCase load_parity_case(const std::filesystem::path& directory) {
  ParityCase out;
  const auto text = read(directory / "case.json");
  out.settings = nlohmann::json::parse(reinterpret_cast<const char*>(text.data()),
                                       reinterpret_cast<const char*>(text.data()) + text.size());
  std::size_t begin = 0;
  for (const auto& entry : out.settings.at("parameters")) {
    ParityParameter parameter;
    parameter.name = entry.at("name");
    parameter.begin = begin;
    parameter.size = static_cast<std::size_t>(element_count(entry.at("shape").get<Shape>()));
    parameter.checksum = entry.at("crc");
    parameter.transposed_checksum = entry.at("crc_transposed");
    parameter.spread = entry.at("spread");
    begin += parameter.size;
    out.parameters.push_back(parameter);
  }
  out.losses = out.settings.at("losses").get<std::vector<double>>();
  out.loss_spread = out.settings.at("loss_spread");

  const Array x = load(directory / "x.npy");
  out.samples = x.shape[0];
  if (x.shape.size() == 4) {
    out.images = channels_last(x);
  } else {
    out.tokens = x.ints;
  }
  const Array labels = load(directory / "labels.npy");
  out.labels.assign(labels.ints.begin(), labels.ints.end());
  const Array logits = load(directory / "logits.npy");
  out.classes = logits.shape.back();
  out.logits = logits.floats;
  out.gradients = load(directory / "gradients.npy").floats;
  for (const char* optimizer : {"sgd", "adamw"}) {
    out.after[optimizer] = load(directory / (std::string(optimizer) + ".npy")).floats;
  }
  if (out.logits.size() != out.labels.size() * out.classes || out.gradients.size() != begin ||
      out.after["sgd"].size() != begin || out.after["adamw"].size() != begin) {
    die(directory.string() + ": the arrays do not fit together");
  }
  return out;
}

OnnxModel load_parity_model(const std::filesystem::path& file) {
  auto model = OnnxModel::import(read(file), {});
  if (!model) die(file.string() + ": " + model.error().one_line());
  return std::move(model).value();
}

std::vector<ParityMatch> match_parameters(const Graph& graph, const ParityCase& parity) {
  std::vector<ParityMatch> matches;
  std::vector<bool> taken(parity.parameters.size());
  for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
    const Tensor& tensor = graph.tensors[id];
    if (tensor.kind != TensorKind::kParameter) continue;
    std::vector<float> values(tensor.floats.size());
    from_storage(tensor.floats, tensor.declared, tensor.storage, values);
    const std::uint32_t sum = checksum(values);
    std::size_t k = 0;
    while (k < taken.size() && (taken[k] || parity.parameters[k].size != values.size() ||
                                (parity.parameters[k].checksum != sum &&
                                 parity.parameters[k].transposed_checksum != sum))) {
      ++k;
    }
    if (k == taken.size()) die("PyTorch has no parameter like the graph's " + tensor.name);
    taken[k] = true;
    const ParityParameter& parameter = parity.parameters[k];
    matches.push_back({static_cast<TensorId>(id), &parameter, parameter.checksum != sum});
  }
  for (std::size_t k = 0; k < taken.size(); ++k) {
    if (!taken[k]) die("the graph does not train PyTorch's " + parity.parameters[k].name);
  }
  return matches;
}

std::vector<float> to_pytorch(const Graph& graph, const ParityMatch& match,
                              std::span<const float> values) {
  const Tensor& tensor = graph.tensors[match.tensor];
  std::vector<float> out(values.size());
  from_storage(values, tensor.declared, tensor.storage, out);
  return match.transposed ? transposed(out, tensor.declared[0], tensor.declared[1]) : out;
}

std::vector<float> from_pytorch(const Graph& graph, const ParityMatch& match,
                                std::span<const float> values) {
  const Tensor& tensor = graph.tensors[match.tensor];
  std::vector<float> onnx = match.transposed
                                ? transposed(values, tensor.declared[1], tensor.declared[0])
                                : std::vector<float>(values.begin(), values.end());
  return to_storage(std::move(onnx), tensor.declared, tensor.storage);
}

}  // namespace tempo
