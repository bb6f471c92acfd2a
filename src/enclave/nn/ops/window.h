// File: enclave/nn/ops/window.h
// The sliding window of convolutions and pools, from a node's attributes.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "enclave/nn/op.h"

namespace tempo {

// Index 0 is height, 1 is width.
struct Window {
  std::array<std::int64_t, 2> in{}, out{}, kernel{}, stride{1, 1}, dilation{1, 1}, pad_begin{},
      pad_end{};
};

// Larger kernels, strides, dilations and pads are refused: nothing sensible has them, and products
// of them stay far from overflow.
inline constexpr std::int64_t kMaxWindowExtent = std::int64_t{1} << 20;

// in: rank 4. kernel: from the weights or from kernel_shape. Errors: kBadModel when attributes have
// the wrong length or sign, or the window does not fit into the padded input.
Result<Window> make_window(const Node& node, const Shape& in, std::array<std::int64_t, 2> kernel,
                           bool ceil_mode);

// Why the attributes cannot be done, or empty: windows that are not two-dimensional.
std::string unsupported_window(const Node& node);

}  // namespace tempo
