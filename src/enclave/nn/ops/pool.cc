// MaxPool, AveragePool, GlobalAveragePool.
#include <algorithm>
#include <cstring>
#include <limits>

#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/window.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

std::string unsupported(const Graph&, const Node& node) {
  if (!node.attributes.contains("kernel_shape")) return "it lacks kernel_shape";
  return unsupported_window(node);
}

Result<Window> window_of(const Node& node, const Shape& in) {
  const std::vector<std::int64_t> kernel = node.ints_or("kernel_shape", {0, 0});
  if (kernel.size() != 2) return shape_error(node, "kernel_shape makes no sense", "2 values");
  return make_window(node, in, {kernel[0], kernel[1]}, node.int_or("ceil_mode", 0) != 0);
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  if (in.size() != 4) {
    return shape_error(context.node, "a pool needs images", "rank 4", shape_to_string(in));
  }
  Result<Window> window = window_of(context.node, in);
  if (!window) return window.error();
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t extent = (window->kernel[i] - 1) * window->dilation[i] + 1;
    if (window->pad_begin[i] < extent && window->pad_end[i] < extent) continue;
    return shape_error(context.node, "a pool's window can lie in the padding",
                       "pads below " + std::to_string(extent),
                       std::to_string(std::max(window->pad_begin[i], window->pad_end[i])));
  }
  const Shape out = {in[0], in[1], window->out[0], window->out[1]};
  return std::vector<Shape>{out, out};
}

// Images and channel blocks are planes: H x W positions of `width` features.
struct Planes {
  Window window;
  std::int64_t count, width, in_positions, out_positions;

  explicit Planes(const OpContext& context) {
    const Shape& in = context.in_shape(0);
    Result<Window> made = window_of(context.node, in);
    TEMPO_ASSERT(made.ok());  // the shape rule has made it before
    window = *made;
    const int block = context.in_block(0);
    width = block == 0 ? in[1] : block;
    count = in[0] * (in[1] / width);
    in_positions = in[2] * in[3];
    out_positions = window.out[0] * window.out[1];
  }

  std::int64_t in_offset(std::int64_t plane) const { return plane * in_positions * width; }
  std::int64_t out_offset(std::int64_t plane) const { return plane * out_positions * width; }

  template <class Body>
  void for_planes(ThreadPool& pool, const Body& body) const {
    pool.parallel_for(count, grain_for(in_positions * width),
                      [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t plane = begin; plane < end; ++plane) body(plane);
                      });
  }

  // Calls body(tap, position in the input) for the taps of output (oy, ox) inside the input.
  template <class Body>
  void taps(std::int64_t oy, std::int64_t ox, const Body& body) const {
    const Window& w = window;
    for (std::int64_t ky = 0; ky < w.kernel[0]; ++ky) {
      const std::int64_t y = oy * w.stride[0] + ky * w.dilation[0] - w.pad_begin[0];
      if (y < 0 || y >= w.in[0]) continue;
      for (std::int64_t kx = 0; kx < w.kernel[1]; ++kx) {
        const std::int64_t x = ox * w.stride[1] + kx * w.dilation[1] - w.pad_begin[1];
        if (x < 0 || x >= w.in[1]) continue;
        body(ky * w.kernel[1] + kx, y * w.in[1] + x);
      }
    }
  }

  // Taps of output (oy, ox) that an average counts; at least 1.
  float divisor(std::int64_t oy, std::int64_t ox, bool include_pad) const {
    std::int64_t taps_inside = 1;
    for (std::size_t i = 0; i < 2; ++i) {
      const Window& w = window;
      const std::int64_t first = (i == 0 ? oy : ox) * w.stride[i] - w.pad_begin[i];
      const std::int64_t low = include_pad ? -w.pad_begin[i] : 0;
      const std::int64_t high = w.in[i] + (include_pad ? w.pad_end[i] : 0);
      std::int64_t inside = 0;
      for (std::int64_t k = 0; k < w.kernel[i]; ++k) {
        const std::int64_t at = first + k * w.dilation[i];
        inside += at >= low && at < high ? 1 : 0;
      }
      taps_inside *= std::max<std::int64_t>(1, inside);
    }
    return static_cast<float>(taps_inside);
  }

  template <class Body>
  void outputs(const Body& body) const {
    for (std::int64_t oy = 0; oy < window.out[0]; ++oy) {
      for (std::int64_t ox = 0; ox < window.out[1]; ++ox) {
        body(oy, ox, (oy * window.out[1] + ox) * width);
      }
    }
  }
};

void clear_unless(bool accumulate, float* d_in, std::int64_t count) {
  if (!accumulate) std::memset(d_in, 0, static_cast<std::size_t>(count) * sizeof(float));
}

// The tap that won, for every output element.
std::int64_t saved_max_bytes(const Node& node, const Shapes& shapes) {
  return element_count(shapes[static_cast<std::size_t>(node.outputs[0])]) *
         static_cast<std::int64_t>(sizeof(std::int32_t));
}

void forward_max(OpContext& context) {
  const Planes planes(context);
  planes.for_planes(context.pool, [&](std::int64_t plane) {
    const float* in = context.in[0] + planes.in_offset(plane);
    float* out = context.out[0] + planes.out_offset(plane);
    std::vector<std::int32_t> unsaved(
        static_cast<std::size_t>(context.saved == nullptr ? planes.width : 0));
    auto* saved = reinterpret_cast<std::int32_t*>(context.saved);
    planes.outputs([&](std::int64_t oy, std::int64_t ox, std::int64_t to) {
      std::int32_t* index =
          saved == nullptr ? unsaved.data() : saved + planes.out_offset(plane) + to;
      std::fill_n(out + to, planes.width, -std::numeric_limits<float>::infinity());
      std::int32_t first = -1;
      planes.taps(oy, ox, [&](std::int64_t tap, std::int64_t position) {
        if (first < 0) {
          first = static_cast<std::int32_t>(tap);
          std::fill_n(index, planes.width, first);
        }
        kernels::max_tap(in + position * planes.width, static_cast<std::int32_t>(tap), out + to,
                         index, planes.width);
      });
    });
  });
}

void backward_max(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Planes planes(context);
  const auto* saved = reinterpret_cast<const std::int32_t*>(context.saved);
  planes.for_planes(context.pool, [&](std::int64_t plane) {
    float* d_in = context.d_in[0] + planes.in_offset(plane);
    const float* d_out = context.d_out[0] + planes.out_offset(plane);
    const std::int32_t* index = saved + planes.out_offset(plane);
    clear_unless(context.accumulate[0], d_in, planes.in_positions * planes.width);
    planes.outputs([&](std::int64_t oy, std::int64_t ox, std::int64_t from) {
      planes.taps(oy, ox, [&](std::int64_t tap, std::int64_t position) {
        kernels::max_tap_backward(d_out + from, index + from, static_cast<std::int32_t>(tap),
                                  d_in + position * planes.width, planes.width);
      });
    });
  });
}

void forward_average(OpContext& context) {
  const Planes planes(context);
  const bool include_pad = context.node.int_or("count_include_pad", 0) != 0;
  planes.for_planes(context.pool, [&](std::int64_t plane) {
    const float* in = context.in[0] + planes.in_offset(plane);
    float* out = context.out[0] + planes.out_offset(plane);
    planes.outputs([&](std::int64_t oy, std::int64_t ox, std::int64_t to) {
      const float scale = 1 / planes.divisor(oy, ox, include_pad);
      std::fill_n(out + to, planes.width, 0.0F);
      planes.taps(oy, ox, [&](std::int64_t, std::int64_t position) {
        kernels::add_scaled(in + position * planes.width, scale, out + to, planes.width);
      });
    });
  });
}

void backward_average(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Planes planes(context);
  const bool include_pad = context.node.int_or("count_include_pad", 0) != 0;
  planes.for_planes(context.pool, [&](std::int64_t plane) {
    float* d_in = context.d_in[0] + planes.in_offset(plane);
    const float* d_out = context.d_out[0] + planes.out_offset(plane);
    clear_unless(context.accumulate[0], d_in, planes.in_positions * planes.width);
    planes.outputs([&](std::int64_t oy, std::int64_t ox, std::int64_t from) {
      const float scale = 1 / planes.divisor(oy, ox, include_pad);
      planes.taps(oy, ox, [&](std::int64_t, std::int64_t position) {
        kernels::add_scaled(d_out + from, scale, d_in + position * planes.width, planes.width);
      });
    });
  });
}

Result<std::vector<Shape>> infer_global(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  if (in.size() != 4) {
    return shape_error(context.node, "GlobalAveragePool needs images", "rank 4",
                       shape_to_string(in));
  }
  return std::vector<Shape>{{in[0], in[1], 1, 1}};
}

// Images of one channel block: positions x width floats each.
struct GlobalPlanes {
  std::int64_t count, positions, width;

  explicit GlobalPlanes(const OpContext& context) {
    const Shape& in = context.in_shape(0);
    const int block = context.in_block(0);
    width = block == 0 ? in[1] : block;
    count = in[0] * (in[1] / width);
    positions = in[2] * in[3];
  }

  template <class Body>
  void run(ThreadPool& pool, const Body& body) const {
    pool.parallel_for(count, grain_for(positions * width),
                      [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t plane = begin; plane < end; ++plane) body(plane);
                      });
  }
};

void forward_global(OpContext& context) {
  const GlobalPlanes planes(context);
  planes.run(context.pool, [&](std::int64_t plane) {
    std::vector<double> sums(static_cast<std::size_t>(planes.width), 0.0);
    kernels::column_sums(context.in[0] + plane * planes.positions * planes.width, planes.positions,
                         planes.width, sums.data());
    float* out = context.out[0] + plane * planes.width;
    for (std::int64_t c = 0; c < planes.width; ++c) {
      out[c] = static_cast<float>(sums[static_cast<std::size_t>(c)] /
                                  static_cast<double>(planes.positions));
    }
  });
}

void backward_global(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const GlobalPlanes planes(context);
  const float scale = 1 / static_cast<float>(planes.positions);
  planes.run(context.pool, [&](std::int64_t plane) {
    const float* d_out = context.d_out[0] + plane * planes.width;
    float* d_in = context.d_in[0] + plane * planes.positions * planes.width;
    clear_unless(context.accumulate[0], d_in, planes.positions * planes.width);
    for (std::int64_t p = 0; p < planes.positions; ++p) {
      kernels::add_scaled(d_out, scale, d_in + p * planes.width, planes.width);
    }
  });
}

// One an element of every window.
double flops(const Node& node, const Shapes& shapes) {
  const std::vector<std::int64_t> kernel = node.ints_or("kernel_shape", {1, 1});
  const Shape& out = shapes[static_cast<std::size_t>(node.outputs[0])];
  return static_cast<double>(kernel[0] * kernel[1]) * static_cast<double>(element_count(out));
}

}  // namespace

OpDef max_pool_op() {
  return {.type = "MaxPool",
          .notes = "two-dimensional",
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward_max,
          .backward = backward_max,
          .blocking = Blocking::kSame,
          .takes_images = true,
          .saved_bytes = saved_max_bytes,
          .flops = flops};
}

OpDef average_pool_op() {
  return {.type = "AveragePool",
          .notes = "two-dimensional",
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward_average,
          .backward = backward_average,
          .blocking = Blocking::kSame,
          .takes_images = true,
          .flops = flops};
}

OpDef global_average_pool_op() {
  return {.type = "GlobalAveragePool",
          .infer = infer_global,
          .forward = forward_global,
          .backward = backward_global,
          .blocking = Blocking::kFree,
          .takes_images = true};
}

}  // namespace tempo
