// File: enclave/graph/storage.h
// Parameters between ONNX's layout and the enclave's (graph.h, Storage).
// Thread safety: free functions without state.
#pragma once

#include <span>
#include <vector>

#include "enclave/graph/graph.h"

namespace tempo {

// `dims` is the ONNX shape; its product is values.size(). Ranks: kConvWeights 4, kTransposed 2.
std::vector<float> to_storage(std::vector<float> values, const Shape& dims, Storage storage);
// The inverse. out.size() == values.size().
void from_storage(std::span<const float> values, const Shape& dims, Storage storage,
                  std::span<float> out);

}  // namespace tempo
