// File: client/models/model_zoo.h
// Initialised models as ONNX files, so that nobody needs Python to start. Weights depend on the
// request alone.
// Thread safety: free functions without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace tempo {

struct ModelRequest {
  std::string kind{};  // one of model_kinds()
  std::int64_t channels = 0;
  std::int64_t height = 0;  // pixels
  std::int64_t width = 0;   // pixels
  std::int64_t classes = 0;
  std::uint64_t seed = 0;
};

struct ModelKind {
  std::string_view name;
  std::string_view description;  // one line
};

// mlp       two hidden layers of 512 and 256
// cnn       four convolutions with batch normalisation, 20.3 million multiply-adds for 1x28x28;
//           made so that the work beside the products stays small: images shrink early, layers
//           widen instead
// resnet20  He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with
//           1x1 convolutions as shortcuts where shapes change
// resnet50  section 4.1 there, stride in the 3x3 convolutions, for small images: 3x3 stem without
//           stride or pooling
// vit       Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021: patches of 4, 8 encoder
//           layers of width 512 with 8 heads and an MLP of 512, mean instead of a class token
std::span<const ModelKind> model_kinds();

// The bytes of an ONNX model of opset 17: input "input" (N, channels, height, width), output
// "logits" (N, classes). Convolutions have He's normal initialisation (fan out), fully connected
// layers PyTorch's uniform one, batch normalisations scale 1. Error: kUsage for an unknown kind and
// for sizes that make no sense for it.
Result<std::vector<std::byte>> build_model(const ModelRequest& request);

}  // namespace tempo
