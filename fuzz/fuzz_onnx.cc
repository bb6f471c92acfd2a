// Any bytes imported as ONNX: either a clear error, or a graph whose shapes can be inferred and
// that exports to a file which imports again.
#include <cstddef>
#include <cstdint>
#include <span>

#include "enclave/graph/onnx.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tempo;
  const auto bytes = std::as_bytes(std::span(data, size));
  const Result<OnnxModel> model = OnnxModel::import(bytes, {});
  if (!model) {
    TEMPO_ASSERT(!model.error().what.empty());
    return 0;
  }
  if (const Result<Shapes> shapes = infer_shapes(model->graph, 2); shapes.ok()) {
    for (const TensorId output : model->graph.outputs) {
      TEMPO_ASSERT((*shapes)[static_cast<std::size_t>(output)].at(0) == 2);
    }
  }
  const Result<std::vector<std::byte>> file = model->export_file();
  TEMPO_ASSERT(file.ok());
  const Result<OnnxModel> again = OnnxModel::import(*file, {});
  TEMPO_ASSERT(again.ok());
  TEMPO_ASSERT(again->graph.nodes.size() == model->graph.nodes.size());
  return 0;
}
