// File: enclave/graph/onnx_import.h
// The way from a ModelProto to a Graph, for onnx.cc.
// Thread safety: free function without state.
#pragma once

#include <cstdint>
#include <vector>

#include "enclave/graph/graph.h"
#include "enclave/graph/onnx.h"

namespace onnx {
class ModelProto;
}

namespace tempo {

inline constexpr std::int64_t kOldestOpset = 6;
inline constexpr std::int64_t kNewestOpset = 28;  // of ONNX 1.23

// The file's initializer (position in its list) that a tensor of the graph came from and goes back
// to.
struct PayloadHome {
  TensorId tensor = kNoTensor;
  int initializer = 0;
};

struct ImportedGraph {
  Graph graph;
  std::vector<PayloadHome> homes;
};

// Changes `model` into what export needs: nodes in topological order, every parameter an
// initializer, without the payloads that the graph now holds. Errors as OnnxModel::import.
Result<ImportedGraph> import_graph(onnx::ModelProto* model, const ImportOptions& options,
                                   std::int64_t file_bytes);

}  // namespace tempo
