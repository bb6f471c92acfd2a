#include "enclave/nn/ops/window.h"

#include <algorithm>

#include "enclave/nn/ops/op_defs.h"

namespace tempo {
namespace {

// Reads a list of `length` values within [lowest, kMaxWindowExtent].
Status read_list(const Node& node, const std::string& key, std::int64_t fallback,
                 std::size_t length, std::int64_t lowest, std::vector<std::int64_t>* out) {
  *out = node.ints_or(key, std::vector<std::int64_t>(length, fallback));
  bool good = out->size() == length;
  for (const std::int64_t v : *out) good = good && v >= lowest && v <= kMaxWindowExtent;
  if (good) return {};
  return shape_error(node, "attribute " + key + " makes no sense",
                     std::to_string(length) + " values from " + std::to_string(lowest) + " to " +
                         std::to_string(kMaxWindowExtent),
                     shape_to_string(*out));
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

std::string unsupported_window(const Node& node) {
  for (const char* key : {"kernel_shape", "strides", "dilations"}) {
    if (node.ints_or(key, {0, 0}).size() != 2) return "only two-dimensional windows";
  }
  if (node.ints_or("pads", {0, 0, 0, 0}).size() != 4) return "only two-dimensional windows";
  return "";
}

Result<Window> make_window(const Node& node, const Shape& in, std::array<std::int64_t, 2> kernel,
                           bool ceil_mode) {
  Window w;
  w.kernel = kernel;
  w.in = {in[2], in[3]};
  std::vector<std::int64_t> strides, dilations, pads;
  TEMPO_RETURN_IF_ERROR(read_list(node, "strides", 1, 2, 1, &strides));
  TEMPO_RETURN_IF_ERROR(read_list(node, "dilations", 1, 2, 1, &dilations));
  TEMPO_RETURN_IF_ERROR(read_list(node, "pads", 0, 4, 0, &pads));
  const std::string auto_pad = node.string_or("auto_pad", "NOTSET");
  const bool is_same = auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER";
  if (!is_same && auto_pad != "NOTSET" && auto_pad != "VALID" && !auto_pad.empty()) {
    return shape_error(node, "attribute auto_pad is unknown",
                       "NOTSET, VALID, SAME_UPPER or SAME_LOWER", auto_pad);
  }
  for (std::size_t i = 0; i < 2; ++i) {
    if (kernel[i] < 1 || kernel[i] > kMaxWindowExtent || w.in[i] > kMaxTensorElements) {
      return shape_error(node, "the window makes no sense",
                         "1 to " + std::to_string(kMaxWindowExtent), std::to_string(kernel[i]));
    }
    w.stride[i] = strides[i];
    w.dilation[i] = dilations[i];
    const std::int64_t extent = (kernel[i] - 1) * w.dilation[i] + 1;
    if (is_same) {
      w.out[i] = ceil_div(w.in[i], w.stride[i]);
      const std::int64_t pad =
          std::max<std::int64_t>(0, (w.out[i] - 1) * w.stride[i] + extent - w.in[i]);
      w.pad_begin[i] = auto_pad == "SAME_UPPER" ? pad / 2 : pad - pad / 2;
      w.pad_end[i] = pad - w.pad_begin[i];
      continue;
    }
    if (auto_pad != "VALID") {
      w.pad_begin[i] = pads[i];
      w.pad_end[i] = pads[i + 2];
    }
    const std::int64_t room = w.in[i] + w.pad_begin[i] + w.pad_end[i] - extent;
    if (room < 0) {
      return shape_error(node, "the window is larger than its padded input",
                         "at most " + std::to_string(room + extent), std::to_string(extent));
    }
    w.out[i] = (ceil_mode ? ceil_div(room, w.stride[i]) : room / w.stride[i]) + 1;
    // A window that starts in the padding behind the input is none.
    if (ceil_mode && (w.out[i] - 1) * w.stride[i] >= w.in[i] + w.pad_begin[i]) --w.out[i];
  }
  return w;
}

}  // namespace tempo
