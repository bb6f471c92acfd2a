// mlp, cnn and the residual networks.
#include <array>

#include "client/models/architectures.h"

namespace tempo {
namespace {

void set_image_input(const ModelRequest& request, OnnxBuilder* b) {
  b->set_input("input", {0, request.channels, request.height, request.width});
}

void set_logits(const ModelRequest& request, const std::string& value, OnnxBuilder* b) {
  b->set_output(value, "logits", {0, request.classes});
}

// Convolution with batch normalisation, and Relu unless it comes later. Padded so that the image
// keeps its size but for the stride.
std::string conv_norm(const std::string& name, const std::string& x, std::int64_t in,
                      std::int64_t out, std::int64_t kernel, std::int64_t stride, bool relu,
                      OnnxBuilder* b) {
  std::string y =
      b->conv(name + ".conv", x,
              {.in = in, .out = out, .kernel = kernel, .stride = stride, .pad = kernel / 2});
  y = b->batch_norm(name + ".bn", y, out);
  return relu ? b->relu(name + ".relu", y) : y;
}

std::string classify(const std::string& x, std::int64_t features, std::int64_t classes,
                     OnnxBuilder* b) {
  const std::string pooled = b->op("GlobalAveragePool", "pool", {x});
  const std::string flat = b->op_with_int("Flatten", "flatten", {pooled}, "axis", 1);
  return b->linear("fc", flat, features, classes);
}

std::string add_shortcut(const std::string& name, const std::string& x, const std::string& branch,
                         std::int64_t in, std::int64_t out, std::int64_t stride, OnnxBuilder* b) {
  std::string shortcut = x;
  if (in != out || stride != 1) {
    shortcut = conv_norm(name + ".shortcut", x, in, out, 1, stride, false, b);
  }
  return b->relu(name + ".relu", b->op("Add", name + ".add", {branch, shortcut}));
}

std::string block_name(std::size_t stage, int block) {
  std::string name("stage");
  name.append(std::to_string(stage + 1)).append(".").append(std::to_string(block));
  return name;
}

}  // namespace

void add_mlp(const ModelRequest& request, OnnxBuilder* b) {
  set_image_input(request, b);
  std::string x = b->op_with_int("Flatten", "flatten", {"input"}, "axis", 1);
  x = b->linear("fc1", x, request.channels * request.height * request.width, 512);
  x = b->relu("relu1", x);
  x = b->relu("relu2", b->linear("fc2", x, 512, 256));
  set_logits(request, b->linear("fc3", x, 256, request.classes), b);
}

// Multiply-adds for 1x28x28 (images of 14, 7, 4 and 4 pixels): 0.06 + 1.35 + 3.54 + 15.33 million,
// for 21,000 activations an image: nine tenths are in the last two layers, whose products have the
// most multiply-adds for each value that has to be encoded or decoded.
void add_cnn(const ModelRequest& request, OnnxBuilder* b) {
  set_image_input(request, b);
  std::string x = conv_norm("layer1", "input", request.channels, 32, 3, 2, true, b);
  x = conv_norm("layer2", x, 32, 96, 3, 2, true, b);
  x = conv_norm("layer3", x, 96, 256, 3, 2, true, b);
  x = conv_norm("layer4", x, 256, 416, 3, 1, true, b);
  set_logits(request, classify(x, 416, request.classes, b), b);
}

void add_resnet20(const ModelRequest& request, OnnxBuilder* b) {
  constexpr std::array<std::int64_t, 3> kWidths = {16, 32, 64};
  constexpr int kBlocks = 3;
  set_image_input(request, b);
  std::string x = conv_norm("stem", "input", request.channels, 16, 3, 1, true, b);
  std::int64_t in = 16;
  for (std::size_t stage = 0; stage < kWidths.size(); ++stage) {
    const std::int64_t out = kWidths[stage];
    for (int block = 0; block < kBlocks; ++block) {
      const std::int64_t stride = stage > 0 && block == 0 ? 2 : 1;
      const std::string name = block_name(stage, block);
      std::string y = conv_norm(name + ".1", x, in, out, 3, stride, true, b);
      y = conv_norm(name + ".2", y, out, out, 3, 1, false, b);
      x = add_shortcut(name, x, y, in, out, stride, b);
      in = out;
    }
  }
  set_logits(request, classify(x, in, request.classes, b), b);
}

void add_resnet50(const ModelRequest& request, OnnxBuilder* b) {
  constexpr std::array<std::int64_t, 4> kWidths = {64, 128, 256, 512};
  constexpr std::array<int, 4> kBlocks = {3, 4, 6, 3};
  constexpr std::int64_t kExpansion = 4;
  set_image_input(request, b);
  std::string x = conv_norm("stem", "input", request.channels, 64, 3, 1, true, b);
  std::int64_t in = 64;
  for (std::size_t stage = 0; stage < kWidths.size(); ++stage) {
    const std::int64_t width = kWidths[stage];
    const std::int64_t out = width * kExpansion;
    for (int block = 0; block < kBlocks[stage]; ++block) {
      const std::int64_t stride = stage > 0 && block == 0 ? 2 : 1;
      const std::string name = block_name(stage, block);
      std::string y = conv_norm(name + ".1", x, in, width, 1, 1, true, b);
      y = conv_norm(name + ".2", y, width, width, 3, stride, true, b);
      y = b->conv(name + ".3.conv", y, {.in = width, .out = out});
      // Branches that begin at nothing (Goyal et al. 2017, section 5.1). With ones, a network this
      // deep is so unstable at first that rounding decides its losses from the second step on.
      y = b->batch_norm(name + ".3.bn", y, out, 0);
      x = add_shortcut(name, x, y, in, out, stride, b);
      in = out;
    }
  }
  set_logits(request, classify(x, in, request.classes, b), b);
}

}  // namespace tempo
