#include "enclave/graph/onnx.h"

#include <onnx/onnx_pb.h>

#include "enclave/graph/onnx_import.h"
#include "enclave/graph/onnx_norms.h"
#include "enclave/graph/onnx_parse.h"
#include "enclave/graph/onnx_rewrite.h"
#include "enclave/graph/storage.h"

namespace tempo {

struct OnnxModel::Proto {
  onnx::ModelProto model;
  std::vector<PayloadHome> homes;
};

namespace {

// "only the first output, logits, is trained on: not aux, hidden"; nothing where there is one
// alone.
std::vector<std::string> output_notes(const onnx::GraphProto& graph, const std::string& what) {
  if (graph.output_size() < 2) return {};
  std::string others;
  for (int i = 1; i < graph.output_size(); ++i) {
    others += (i > 1 ? ", " : "") + graph.output(i).name();
  }
  return {"only the first output, " + graph.output(0).name() + ", is " + what + ": not " + others};
}

}  // namespace

OnnxModel::OnnxModel() = default;
OnnxModel::~OnnxModel() = default;
OnnxModel::OnnxModel(OnnxModel&&) noexcept = default;
OnnxModel& OnnxModel::operator=(OnnxModel&&) noexcept = default;

Result<OnnxModel> OnnxModel::import(std::span<const std::byte> file, const ImportOptions& options) {
  OnnxModel model;
  model.proto_ = std::make_unique<Proto>();
  TEMPO_RETURN_IF_ERROR(parse_model(file, &model.proto_->model));
  Result<ImportedGraph> imported =
      import_graph(&model.proto_->model, options, static_cast<std::int64_t>(file.size()));
  if (!imported) return imported.error();
  model.graph = std::move(imported->graph);
  model.proto_->homes = std::move(imported->homes);
  model.fused = fuse_patterns(&model.graph);
  return model;
}

std::string OnnxModel::metadata(const std::string& key) const {
  TEMPO_ASSERT(proto_ != nullptr);
  for (const onnx::StringStringEntryProto& entry : proto_->model.metadata_props()) {
    if (entry.key() == key) return entry.value();
  }
  return "";
}

void OnnxModel::set_metadata(const std::string& key, const std::string& value) {
  TEMPO_ASSERT(proto_ != nullptr);
  for (onnx::StringStringEntryProto& entry : *proto_->model.mutable_metadata_props()) {
    if (entry.key() != key) continue;
    entry.set_value(value);
    return;
  }
  onnx::StringStringEntryProto* entry = proto_->model.add_metadata_props();
  entry->set_key(key);
  entry->set_value(value);
}

std::vector<std::string> OnnxModel::training_notes() const {
  TEMPO_ASSERT(proto_ != nullptr);
  std::vector<std::string> notes = norm_notes(norm_forms(proto_->model, graph));
  for (std::string& note : output_notes(proto_->model.graph(), "trained on")) {
    notes.push_back(std::move(note));
  }
  return notes;
}

std::vector<std::string> OnnxModel::prediction_notes() const {
  TEMPO_ASSERT(proto_ != nullptr);
  return output_notes(proto_->model.graph(), "predicted");
}

Result<std::vector<std::byte>> OnnxModel::export_file(const ExportOptions& options) const {
  TEMPO_ASSERT(proto_ != nullptr);
  onnx::ModelProto model = proto_->model;
  for (const PayloadHome& home : proto_->homes) {
    const Tensor& tensor = graph.tensors[static_cast<std::size_t>(home.tensor)];
    // Most lie as they do in the file. set_raw_data() would make two more copies on the way.
    std::vector<float> turned;
    if (tensor.storage != Storage::kOnnx) {
      turned.resize(tensor.floats.size());
      from_storage(tensor.floats, tensor.declared, tensor.storage, turned);
    }
    const std::vector<float>& values = turned.empty() ? tensor.floats : turned;
    model.mutable_graph()
        ->mutable_initializer(home.initializer)
        ->mutable_raw_data()
        ->assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  if (!options.training_form) to_inference_form(&model);
  const std::size_t bytes = model.ByteSizeLong();
  std::vector<std::byte> file(bytes);
  if (bytes > kMaxModelBytes || !model.SerializeToArray(file.data(), static_cast<int>(bytes))) {
    return Error{.code = ErrorCode::kUnsupportedModel,
                 .what = "the model is too large for one ONNX file",
                 .expected = "at most " + std::to_string(kMaxModelBytes) + " bytes",
                 .got = std::to_string(bytes)};
  }
  return file;
}

}  // namespace tempo
