// File: enclave/graph/onnx_norms.h
// What an export did to the batch normalisations of a network, for onnx.cc.
// Thread safety: free functions without state.
#pragma once

#include <string>
#include <vector>

#include "enclave/graph/graph.h"

namespace onnx {
class ModelProto;
}

namespace tempo {

struct NormForms {
  int in_inference_form = 0;  // BatchNormalization nodes that train nevertheless
  int folded = 0;             // Conv and Gemm nodes that look as if one was folded into them
};

// `graph`: what was made of the file. A file does not say what was folded; the names that PyTorch's
// two exporters leave behind do, and those of others are not looked at.
NormForms norm_forms(const onnx::ModelProto& model, const Graph& graph);

// For the user; nothing where there is nothing to say.
std::vector<std::string> norm_notes(const NormForms& forms);

}  // namespace tempo
