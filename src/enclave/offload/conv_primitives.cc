#include "enclave/offload/conv_primitives.h"

#include <dnnl.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

namespace tempo {
namespace {

using Memory = dnnl::memory;
using Tag = Memory::format_tag;
using Desc = Memory::desc;
constexpr auto kF32 = Memory::data_type::f32;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

Tag layout_tag(int block) {
  TEMPO_ASSERT(block == 0 || block == 8 || block == 16);
  if (block == 0) return Tag::nhwc;
  return block == 8 ? Tag::nChw8c : Tag::nChw16c;
}

// The first implementation that is not oneDNN's slow reference; throws dnnl::error without one.
// next_impl() looks at what the description was made from: that must still be there.
template <class PrimitiveDesc>
PrimitiveDesc first_fast(PrimitiveDesc description) {
  while (std::string(description.impl_info_str()).find("ref") != std::string::npos) {
    if (!description.next_impl()) {
      throw dnnl::error(dnnl_unimplemented, "only a reference implementation");
    }
  }
  return description;
}

// A kernel once it has been asked for; without `description` there is no fast one.
template <class P>
struct Kernel {
  bool is_made = false;
  std::optional<typename P::primitive_desc> description;
  P primitive;
};

}  // namespace

struct ConvPrimitives::State {
  ConvGeometry geometry;
  ConvWorkspace& workspace;
  dnnl::stream stream{cpu()};
  Memory::dims source_dims, weight_dims, result_dims;
  Tag source_tag, result_tag;
  Desc source, weights, result;
  Kernel<dnnl::convolution_forward> forward, forward_bias;
  Kernel<dnnl::convolution_backward_weights> backward_weights;
  Kernel<dnnl::convolution_backward_data> backward_data;

  State(const LinearOp& op, ConvWorkspace& w)
      : geometry(op.geometry),
        workspace(w),
        source_dims{op.geometry.batch, op.geometry.in_c, op.geometry.in_h, op.geometry.in_w},
        weight_dims(weight_dims_of(op.geometry)),
        result_dims{op.geometry.batch, op.geometry.out_c, op.geometry.out_h, op.geometry.out_w},
        source_tag(layout_tag(op.input_block)),
        result_tag(layout_tag(op.output_block)),
        source(source_dims, kF32, source_tag),
        weights(weight_dims, kF32, op.geometry.groups == 1 ? Tag::ohwi : Tag::gohwi),
        result(result_dims, kF32, result_tag) {}

  static Memory::dims weight_dims_of(const ConvGeometry& g) {
    if (g.groups == 1) return {g.out_c, g.in_c, g.kernel_h, g.kernel_w};
    return {g.groups, g.out_c / g.groups, g.in_c / g.groups, g.kernel_h, g.kernel_w};
  }

  // The geometry as oneDNN wants it.
  struct Steps {
    Memory::dims strides, dilations, before, after;
  };
  Steps steps() const {
    const ConvGeometry& g = geometry;
    return {{g.stride_h, g.stride_w},
            {g.dilation_h - 1, g.dilation_w - 1},
            {g.pad_top, g.pad_left},
            {g.pad_bottom, g.pad_right}};
  }

  Desc any_weights() const { return {weight_dims, kF32, Tag::any}; }

  static dnnl::primitive_attr own_scratchpad() {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return attributes;
  }

  dnnl::convolution_forward::desc forward_desc(const Desc& from, const Desc& to,
                                               bool with_bias) const {
    const Steps s = steps();
    const Desc bias = with_bias ? Desc({geometry.out_c}, kF32, Tag::x) : Desc();
    return {dnnl::prop_kind::forward_training,
            dnnl::algorithm::convolution_direct,
            from,
            any_weights(),
            bias,
            to,
            s.strides,
            s.dilations,
            s.before,
            s.after};
  }

  dnnl::convolution_forward::primitive_desc describe_forward(const Desc& from, const Desc& to,
                                                             bool with_bias) const {
    const auto desc = forward_desc(from, to, with_bias);
    return first_fast(dnnl::convolution_forward::primitive_desc(desc, own_scratchpad(), cpu()));
  }

  template <class P>
  typename P::primitive_desc describe_backward(const Desc& from, const Desc& to) const {
    const Steps s = steps();
    const auto forward_of_it = forward_desc(from, to, false);
    const dnnl::convolution_forward::primitive_desc hint(forward_of_it, cpu());
    const typename P::desc desc(dnnl::algorithm::convolution_direct, from, any_weights(), to,
                                s.strides, s.dilations, s.before, s.after);
    return first_fast(typename P::primitive_desc(desc, own_scratchpad(), cpu(), hint));
  }

  // Compiles at first use. With few channels oneDNN has fast code for a source in planes or in a
  // layout of its choice only; copying a source of few channels costs little. Some convolutions of
  // several groups it can do channels last only.
  template <class P, class Describe>
  bool make(Kernel<P>& kernel, const Describe& describe) {
    if (kernel.is_made) return kernel.description.has_value();
    kernel.is_made = true;
    const std::pair<Tag, Tag> layouts[] = {{source_tag, result_tag},
                                           {Tag::nchw, result_tag},
                                           {Tag::any, result_tag},
                                           {Tag::nhwc, Tag::nhwc}};
    for (const auto& [from, to] : layouts) {
      if (from == Tag::nchw && geometry.in_c > 4) continue;
      try {
        auto description = describe(Desc(source_dims, kF32, from), Desc(result_dims, kF32, to));
        kernel.primitive = P(description);
        kernel.description = std::move(description);
        return true;
      } catch (const dnnl::error&) {
        continue;
      }
    }
    return false;
  }

  // The data where it lies, or copied into the layout `wanted`.
  Memory in(const Desc& own, const Desc& wanted, const float* data, ConvWorkspace::Use use) {
    Memory given(own, cpu(), const_cast<float*>(data));
    if (own == wanted) return given;
    Memory copy(wanted, cpu(), workspace.get(use, wanted.get_size()));
    dnnl::reorder(given, copy).execute(stream, given, copy);
    return copy;
  }

  Memory out(const Desc& own, const Desc& wanted, float* data, ConvWorkspace::Use use) {
    if (own == wanted) return {own, cpu(), data};
    return {wanted, cpu(), workspace.get(use, wanted.get_size())};
  }

  // After a kernel wrote `made`, which out() gave.
  void finish(const Desc& own, Memory& made, float* data) {
    if (made.get_data_handle() == data) return;
    Memory target(own, cpu(), data);
    dnnl::reorder(made, target).execute(stream, made, target);
  }

  template <class P>
  void run(const Kernel<P>& kernel, std::unordered_map<int, Memory> arguments) {
    const Desc scratchpad = kernel.description->scratchpad_desc();
    arguments.insert({DNNL_ARG_SCRATCHPAD,
                      Memory(scratchpad, cpu(),
                             workspace.get(ConvWorkspace::kScratchpad, scratchpad.get_size()))});
    kernel.primitive.execute(stream, arguments);
  }
};

ConvPrimitives::ConvPrimitives(const LinearOp& op, ConvWorkspace& workspace)
    : state_(std::make_unique<State>(op, workspace)) {}
ConvPrimitives::~ConvPrimitives() = default;

bool ConvPrimitives::forward(const float* input, const float* weights, const float* bias,
                             float* output) {
  State& s = *state_;
  auto& kernel = bias != nullptr ? s.forward_bias : s.forward;
  const auto describe = [&](const Desc& from, const Desc& to) {
    return s.describe_forward(from, to, bias != nullptr);
  };
  if (!s.make(kernel, describe)) return false;
  Memory result = s.out(s.result, kernel.description->dst_desc(), output, ConvWorkspace::kResult);
  std::unordered_map<int, Memory> arguments = {
      {DNNL_ARG_SRC, s.in(s.source, kernel.description->src_desc(), input, ConvWorkspace::kSource)},
      {DNNL_ARG_WEIGHTS,
       s.in(s.weights, kernel.description->weights_desc(), weights, ConvWorkspace::kWeights)},
      {DNNL_ARG_DST, result}};
  if (bias != nullptr) {
    arguments.insert(
        {DNNL_ARG_BIAS, Memory(kernel.description->bias_desc(), cpu(), const_cast<float*>(bias))});
  }
  s.run(kernel, std::move(arguments));
  s.finish(s.result, result, output);
  s.stream.wait();
  return true;
}

bool ConvPrimitives::backward_weights(const float* input, const float* d_output, float* d_weights) {
  State& s = *state_;
  auto& kernel = s.backward_weights;
  const auto describe = [&](const Desc& from, const Desc& to) {
    return s.describe_backward<dnnl::convolution_backward_weights>(from, to);
  };
  if (!s.make(kernel, describe)) return false;
  Memory made =
      s.out(s.weights, kernel.description->diff_weights_desc(), d_weights, ConvWorkspace::kWeights);
  s.run(kernel, {{DNNL_ARG_SRC,
                  s.in(s.source, kernel.description->src_desc(), input, ConvWorkspace::kSource)},
                 {DNNL_ARG_DIFF_DST, s.in(s.result, kernel.description->diff_dst_desc(), d_output,
                                          ConvWorkspace::kResult)},
                 {DNNL_ARG_DIFF_WEIGHTS, made}});
  s.finish(s.weights, made, d_weights);
  s.stream.wait();
  return true;
}

bool ConvPrimitives::backward_input(const float* weights, const float* d_output, float* d_input) {
  State& s = *state_;
  auto& kernel = s.backward_data;
  const auto describe = [&](const Desc& from, const Desc& to) {
    return s.describe_backward<dnnl::convolution_backward_data>(from, to);
  };
  if (!s.make(kernel, describe)) return false;
  Memory made =
      s.out(s.source, kernel.description->diff_src_desc(), d_input, ConvWorkspace::kSource);
  s.run(kernel, {{DNNL_ARG_DIFF_DST, s.in(s.result, kernel.description->diff_dst_desc(), d_output,
                                          ConvWorkspace::kResult)},
                 {DNNL_ARG_WEIGHTS, s.in(s.weights, kernel.description->weights_desc(), weights,
                                         ConvWorkspace::kWeights)},
                 {DNNL_ARG_DIFF_SRC, made}});
  s.finish(s.source, made, d_input);
  s.stream.wait();
  return true;
}

void ConvPrimitives::reorder(const ConvGeometry& g, bool is_input, int from_block,
                             const float* from, int to_block, float* to) {
  const Memory::dims dims = is_input ? Memory::dims{g.batch, g.in_c, g.in_h, g.in_w}
                                     : Memory::dims{g.batch, g.out_c, g.out_h, g.out_w};
  dnnl::stream stream(cpu());
  Memory source(Desc(dims, kF32, layout_tag(from_block)), cpu(), const_cast<float*>(from));
  Memory target(Desc(dims, kF32, layout_tag(to_block)), cpu(), to);
  dnnl::reorder(source, target).execute(stream, source, target);
  stream.wait();
}

}  // namespace tempo
