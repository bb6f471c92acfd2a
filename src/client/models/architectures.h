// File: client/models/architectures.h
// The networks of model_zoo.h. Each adds the input, all layers and the output to the builder.
// Thread safety: free functions without state.
#pragma once

#include "client/models/model_zoo.h"
#include "client/models/onnx_builder.h"

namespace tempo {

inline constexpr std::int64_t kVitPatch = 4;  // pixels; divides height and width

void add_mlp(const ModelRequest& request, OnnxBuilder* b);
void add_cnn(const ModelRequest& request, OnnxBuilder* b);
void add_resnet20(const ModelRequest& request, OnnxBuilder* b);
void add_resnet50(const ModelRequest& request, OnnxBuilder* b);
void add_vit(const ModelRequest& request, OnnxBuilder* b);

}  // namespace tempo
