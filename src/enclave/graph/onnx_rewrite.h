// File: enclave/graph/onnx_rewrite.h
// Makes of an imported file the one that export fills with payloads.
// Thread safety: free function without state.
#pragma once

#include <string>
#include <vector>

#include "enclave/graph/graph.h"
#include "enclave/graph/onnx_import.h"

namespace onnx {
class ModelProto;
}

namespace tempo {

// A tensor of the graph that export writes back.
struct PendingHome {
  TensorId tensor = kNoTensor;
  int initializer = -1;  // in the file; -1: none yet, it takes the place of `node`
  int node = -1;
  std::string name;
  Shape dims;  // ONNX's
};

// Puts nodes into `order` without those that became initializers, and takes the payloads of
// `pending` out of the file.
std::vector<PayloadHome> rewrite_for_export(onnx::ModelProto* model, const std::vector<int>& order,
                                            std::vector<PendingHome> pending);

// BatchNormalization in inference mode, Dropout inert.
void to_inference_form(onnx::ModelProto* model);

}  // namespace tempo
