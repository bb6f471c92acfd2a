// File: enclave/graph/onnx_inputs.h
// The inputs of a file's graph.
// Thread safety: free function without state.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "enclave/graph/graph.h"
#include "enclave/graph/onnx.h"

namespace onnx {
class GraphProto;
}

namespace tempo {

class ValueTable;

// Adds the inputs to `graph` and names them in `values`, which has the initializers already.
// Returns the batch size that the file was exported with, or kBatchDim when it is open. Errors:
// kBadModel, kUnsupportedModel, both with the input's name.
Result<std::int64_t> import_inputs(const onnx::GraphProto& file, const ImportOptions& options,
                                   ValueTable* values, Graph* graph);

}  // namespace tempo
