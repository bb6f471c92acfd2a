#include <cmath>
#include <cstring>

#include "base/philox.h"
#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// Opset 12 made the ratio an input.
float ratio_of(const Graph& graph, const Node& node) {
  const Tensor* input = input_tensor(graph, node, 1);
  if (input != nullptr && input->floats.size() == 1) return input->floats[0];
  return node.float_or("ratio", 0.5F);
}

std::string unsupported(const Graph& graph, const Node& node) {
  const Tensor* ratio = input_tensor(graph, node, 1);
  if (ratio != nullptr && (!has_fixed_floats(graph, node, 1) || ratio->floats.size() != 1)) {
    return "its ratio is not a constant";
  }
  const float value = ratio_of(graph, node);
  if (!(value >= 0 && value < 1)) return "its ratio must be at least 0 and below 1";
  return "";
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  return std::vector<Shape>{context.inputs[0], context.inputs[0]};
}

std::int64_t saved_bytes(const Node& node, const Shapes& shapes) {
  return element_count(shapes[static_cast<std::size_t>(node.inputs[0])]);
}

// Decides element by element. The number of an element is its place in the channels-last tensor,
// so that a run repeats in any memory layout.
class Mask {
 public:
  Mask(const OpContext& context, float ratio) : context_(context) {
    threshold_ = static_cast<std::uint32_t>(std::lround(static_cast<double>(ratio) * 0x1p24));
  }

  void fill(std::int64_t element, std::int64_t count, std::uint8_t* keep) {
    for (std::int64_t i = 0; i < count; ++i, ++element) {
      if (element / 4 != group_) {
        group_ = element / 4;
        words_ = philox4x32(context_.seed, {static_cast<std::uint32_t>(group_),
                                            static_cast<std::uint32_t>(context_.step),
                                            static_cast<std::uint32_t>(context_.node_index),
                                            static_cast<std::uint32_t>(PhiloxPurpose::kDropout)});
      }
      keep[i] = (words_[static_cast<std::size_t>(element % 4)] >> 8) >= threshold_ ? 1 : 0;
    }
  }

 private:
  const OpContext& context_;
  std::uint32_t threshold_;
  std::int64_t group_ = -1;
  std::array<std::uint32_t, 4> words_{};
};

bool is_inert(const OpContext& context, float ratio) {
  return context.mode == StepMode::kInference || ratio == 0;
}

void pass_through(ThreadPool& pool, const Shape& shape, const float* from, float* to,
                  bool accumulate) {
  if (from == to) return;
  for_elements(pool, element_count(shape), [&](std::int64_t begin, std::int64_t count) {
    kernels::copy(from + begin, to + begin, count, accumulate);
  });
}

void forward(OpContext& context) {
  const float ratio = ratio_of(context.graph, context.node);
  const Shape& shape = context.in_shape(0);
  if (is_inert(context, ratio)) {
    pass_through(context.pool, shape, context.in[0], context.out[0], false);
    return;
  }
  const float scale = 1 / (1 - ratio);
  auto* keep = reinterpret_cast<std::uint8_t*>(context.saved);
  const int block = context.in_block(0);
  const FeatureView view = !is_onnx_order(shape, block)
                               ? feature_view(shape, block)
                               : FeatureView{.positions = 1, .width = element_count(shape)};
  const std::int64_t rows = view.images * view.blocks * view.positions;
  // Whole rows, except where the tensor is one: then pieces of it, four elements at a time.
  const bool is_flat = rows == 1;
  const std::int64_t items = is_flat ? view.width : rows;
  const std::int64_t grain = is_flat ? kGrainElements : grain_for(view.width);
  context.pool.parallel_for(items, grain, [&](std::int64_t begin, std::int64_t end) {
    Mask mask(context, ratio);
    const auto drop = [&](std::int64_t offset, std::int64_t element, std::int64_t count) {
      mask.fill(element, count, keep + offset);
      for (std::int64_t i = offset; i < offset + count; ++i) {
        context.out[0][i] = keep[i] != 0 ? context.in[0][i] * scale : 0.0F;
      }
    };
    if (is_flat) {
      drop(begin, begin, end - begin);
      return;
    }
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t position = row % view.positions;
      const std::int64_t channel = row / view.positions % view.blocks * view.width;
      const std::int64_t image = row / view.positions / view.blocks;
      drop(row * view.width, (image * view.positions + position) * view.channels() + channel,
           view.width);
    }
  });
}

void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const float ratio = ratio_of(context.graph, context.node);
  if (is_inert(context, ratio)) {
    pass_through(context.pool, context.in_shape(0), context.d_out[0], context.d_in[0],
                 context.accumulate[0]);
    return;
  }
  const float scale = 1 / (1 - ratio);
  const auto* keep = reinterpret_cast<const std::uint8_t*>(context.saved);
  const float* d_out = context.d_out[0];
  float* d_in = context.d_in[0];
  for_elements(context.pool, element_count(context.in_shape(0)),
               [&](std::int64_t begin, std::int64_t count) {
                 for (std::int64_t i = begin; i < begin + count; ++i) {
                   const float share = keep[i] != 0 ? d_out[i] * scale : 0.0F;
                   d_in[i] = context.accumulate[0] ? d_in[i] + share : share;
                 }
               });
}

}  // namespace

OpDef dropout_op() {
  return {.type = "Dropout",
          .min_opset = 6,
          .notes = "constant ratio; drops in training, passes through in inference",
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .blocking = Blocking::kSame,
          .in_place_inputs = 1,
          .saved_bytes = saved_bytes,
          .flops_an_element = 2};
}

}  // namespace tempo
