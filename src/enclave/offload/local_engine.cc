#include "enclave/offload/local_engine.h"

#include <algorithm>
#include <cstring>
#include <dnnl.hpp>
#include <optional>
#include <string>
#include <utility>

#include "base/buffer.h"
#include "enclave/offload/im2col.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

using Tag = dnnl::memory::format_tag;
using Desc = dnnl::memory::desc;
constexpr auto kF32 = dnnl::memory::data_type::f32;
constexpr std::int64_t kBlockRows = 1024;  // im2col rows of the fallback at a time

dnnl::engine& cpu() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& stream() {
  static dnnl::stream s(cpu());
  return s;
}

Tag layout_tag(int block) {
  switch (block) {
    case 8:
      return Tag::nChw8c;
    case 16:
      return Tag::nChw16c;
    default:
      return Tag::nhwc;
  }
}

// The first implementation that is not oneDNN's slow reference; throws dnnl::error without one.
template <class PrimitiveDesc>
PrimitiveDesc first_fast(PrimitiveDesc description) {
  while (std::string(description.impl_info_str()).find("ref") != std::string::npos) {
    if (!description.next_impl()) {
      throw dnnl::error(dnnl_unimplemented, "only a reference implementation");
    }
  }
  return description;
}

// Memory in the layout that a primitive wants: the caller's own when that fits, else a copy.
class Staged {
 public:
  // `wanted` may equal `own`.
  Staged(const Desc& own, const Desc& wanted) : own_(own), wanted_(wanted) {
    if (own_ == wanted_) return;
    copy_.emplace(wanted_, cpu());
  }

  dnnl::memory in(const float* data) {
    dnnl::memory given(own_, cpu(), const_cast<float*>(data));
    if (!copy_) return given;
    dnnl::reorder(given, *copy_).execute(stream(), given, *copy_);
    return *copy_;
  }
  dnnl::memory out(float* data) { return copy_ ? *copy_ : dnnl::memory(own_, cpu(), data); }
  // After the primitive ran into out(data).
  void finish(float* data) {
    if (!copy_) return;
    dnnl::memory given(own_, cpu(), data);
    dnnl::reorder(*copy_, given).execute(stream(), *copy_, given);
  }

 private:
  Desc own_;
  Desc wanted_;
  std::optional<dnnl::memory> copy_;
};

// Moments of the output, float64, in a fixed order whatever the number of threads.
void output_moments(const LinearOp& op, const float* output, ThreadPool& pool,
                    ColumnMoments& moments) {
  const ConvGeometry& g = op.geometry;
  const std::int64_t block = op.output_block == 0 ? g.m() : op.output_block;
  const std::int64_t blocks = g.m() / block;
  const std::int64_t positions = g.out_h * g.out_w;
  // A chunk is a run of whole images for blocked layouts, of positions else.
  const std::int64_t rows_total = g.p();
  const std::int64_t grain =
      op.output_block == 0 ? 512 : std::max<std::int64_t>(1, 512 / positions) * positions;
  const std::int64_t chunks = (rows_total + grain - 1) / grain;
  std::vector<ColumnMoments> parts(static_cast<std::size_t>(chunks));
  pool.parallel_for(chunks, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t c = first; c < last; ++c) {
      ColumnMoments& part = parts[c];
      part.reset(g.m());
      part.count = std::min(rows_total, (c + 1) * grain) - c * grain;
      std::vector<float> shift(g.m());
      std::vector<float> sum(block);
      std::vector<float> square(block);
      std::vector<double> sums(g.m());
      std::vector<double> squares(g.m());
      for (std::int64_t b = 0; b < blocks; ++b) {
        const auto row_at = [&](std::int64_t r) {
          const std::int64_t image = r / positions;
          return output + ((image * blocks + b) * positions + r % positions) * block;
        };
        const float* first_row = row_at(c * grain);
        std::copy(first_row, first_row + block, shift.begin() + b * block);
        const float* s = shift.data() + b * block;
        for (std::int64_t r = 0; r < part.count; ++r) {
          const float* row = row_at(c * grain + r);
          for (std::int64_t j = 0; j < block; ++j) {
            const float d = row[j] - s[j];
            sum[j] += d;
            square[j] += d * d;
          }
          if (r % 64 == 63 || r + 1 == part.count) {
            for (std::int64_t j = 0; j < block; ++j) {
              sums[b * block + j] += std::exchange(sum[j], 0.0F);
              squares[b * block + j] += std::exchange(square[j], 0.0F);
            }
          }
        }
      }
      const auto n = static_cast<double>(part.count);
      for (std::int64_t j = 0; j < g.m(); ++j) {
        part.mean[j] = shift[j] + sums[j] / n;
        part.m2[j] = std::max(0.0, squares[j] - sums[j] * sums[j] / n);
      }
    }
  });
  moments.reset(g.m());
  for (const ColumnMoments& part : parts)
    moments.merge(part.count, part.mean.data(), part.m2.data());
}

void add_into(ThreadPool& pool, const float* from, std::int64_t count, float* to) {
  pool.parallel_for(count, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) to[i] += from[i];
  });
}

}  // namespace

int preferred_channel_block() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::all:
    case dnnl::cpu_isa::sse41:
    case dnnl::cpu_isa::avx:
      return 0;
    case dnnl::cpu_isa::avx2:
    case dnnl::cpu_isa::avx2_vnni:
      return 8;
    default:
      return 16;
  }
}

class LocalEngine::Convolution {
 public:
  explicit Convolution(const LinearOp& op) : geometry_(op.geometry) {
    const ConvGeometry& g = geometry_;
    const dnnl::memory::dims source_dims{g.batch, g.in_c, g.in_h, g.in_w};
    const dnnl::memory::dims weight_dims{g.out_c, g.in_c, g.kernel_h, g.kernel_w};
    const dnnl::memory::dims result_dims{g.batch, g.out_c, g.out_h, g.out_w};
    source_ = Desc(source_dims, kF32, layout_tag(op.input_block));
    result_ = Desc(result_dims, kF32, layout_tag(op.output_block));
    weights_ = Desc(weight_dims, kF32, Tag::ohwi);
    bias_ = Desc({g.out_c}, kF32, Tag::x);
    // With few channels oneDNN has fast code for the layout of its choice only.
    for (const Tag source_tag : {layout_tag(op.input_block), Tag::any}) {
      try {
        create(Desc(source_dims, kF32, source_tag), Desc(weight_dims, kF32, Tag::any));
        usable_ = true;
        return;
      } catch (const dnnl::error&) {
        usable_ = false;
      }
    }
  }

  void forward(const float* input, const float* weights, const float* bias, float* output) {
    if (!usable_) return forward_by_gemm(input, weights, bias, output);
    Staged source(source_, forward_->src_desc());
    Staged weight(weights_, forward_->weights_desc());
    Staged result(result_, forward_->dst_desc());
    if (bias == nullptr && no_bias_.empty()) no_bias_ = AlignedBuffer<float>(geometry_.m());
    dnnl::memory bias_memory(bias_, cpu(),
                             const_cast<float*>(bias != nullptr ? bias : no_bias_.data()));
    forward_primitive_.execute(stream(), {{DNNL_ARG_SRC, source.in(input)},
                                          {DNNL_ARG_WEIGHTS, weight.in(weights)},
                                          {DNNL_ARG_BIAS, bias_memory},
                                          {DNNL_ARG_DST, result.out(output)}});
    result.finish(output);
    stream().wait();
  }

  void backward_input(const float* weights, const float* d_output, float* d_input) {
    if (!usable_) return backward_input_by_gemm(weights, d_output, d_input);
    Staged source(source_, backward_data_->diff_src_desc());
    Staged weight(weights_, backward_data_->weights_desc());
    Staged result(result_, backward_data_->diff_dst_desc());
    backward_data_primitive_.execute(stream(), {{DNNL_ARG_DIFF_DST, result.in(d_output)},
                                                {DNNL_ARG_WEIGHTS, weight.in(weights)},
                                                {DNNL_ARG_DIFF_SRC, source.out(d_input)}});
    source.finish(d_input);
    stream().wait();
  }

  void backward_weights(const float* input, const float* d_output, float* d_weights) {
    if (!usable_) return backward_weights_by_gemm(input, d_output, d_weights);
    Staged source(source_, backward_weights_->src_desc());
    Staged weight(weights_, backward_weights_->diff_weights_desc());
    Staged result(result_, backward_weights_->diff_dst_desc());
    backward_weights_primitive_.execute(stream(), {{DNNL_ARG_SRC, source.in(input)},
                                                   {DNNL_ARG_DIFF_DST, result.in(d_output)},
                                                   {DNNL_ARG_DIFF_WEIGHTS, weight.out(d_weights)}});
    weight.finish(d_weights);
    stream().wait();
  }

 private:
  void create(const Desc& source, const Desc& weights) {
    const ConvGeometry& g = geometry_;
    const dnnl::memory::dims strides{g.stride_h, g.stride_w};
    const dnnl::memory::dims dilations{g.dilation_h - 1, g.dilation_w - 1};
    const dnnl::memory::dims before{g.pad_top, g.pad_left};
    const dnnl::memory::dims after{g.pad_bottom, g.pad_right};
    const auto direct = dnnl::algorithm::convolution_direct;
    using Forward = dnnl::convolution_forward;
    using BackwardData = dnnl::convolution_backward_data;
    using BackwardWeights = dnnl::convolution_backward_weights;
    forward_ = first_fast(Forward::primitive_desc(
        Forward::desc(dnnl::prop_kind::forward_training, direct, source, weights, bias_, result_,
                      strides, dilations, before, after),
        cpu()));
    backward_data_ = first_fast(BackwardData::primitive_desc(
        BackwardData::desc(direct, source, weights, result_, strides, dilations, before, after),
        cpu(), *forward_));
    backward_weights_ = first_fast(BackwardWeights::primitive_desc(
        BackwardWeights::desc(direct, source, weights, result_, strides, dilations, before, after),
        cpu(), *forward_));
    forward_primitive_ = Forward(*forward_);
    backward_data_primitive_ = BackwardData(*backward_data_);
    backward_weights_primitive_ = BackwardWeights(*backward_weights_);
  }

  // ---- without a fast primitive: im2col by blocks, channels last --------------------------------

  // Runs body(first position, count, rows of X) over all positions.
  template <class Body>
  void for_blocks(const float* input, Body body) {
    const ConvGeometry& g = geometry_;
    const Im2colRows im2col{&g};
    AlignedBuffer<float> rows(static_cast<std::size_t>(std::min(kBlockRows, g.p()) * g.n()));
    for (std::int64_t begin = 0; begin < g.p(); begin += kBlockRows) {
      const std::int64_t count = std::min(kBlockRows, g.p() - begin);
      for (std::int64_t r = 0; input != nullptr && r < count; ++r) {
        float* to = rows.data() + r * g.n();
        const float* row = im2col.gather(input, begin + r, to);
        if (row != to) std::copy(row, row + g.n(), to);
      }
      body(begin, count, rows.data());
    }
  }

  void forward_by_gemm(const float* input, const float* weights, const float* bias, float* output) {
    const ConvGeometry& g = geometry_;
    AlignedBuffer<float> source;
    AlignedBuffer<float> result;
    input = to_channels_last(source_, input, source);
    float* target = channels_last_target(result_, output, result);
    for_blocks(input, [&](std::int64_t begin, std::int64_t count, float* rows) {
      gemm(Transpose::kNo, Transpose::kYes, count, g.m(), g.n(), 1.0F, rows, g.n(), weights, g.n(),
           0.0F, target + begin * g.m(), g.m());
      for (std::int64_t r = 0; bias != nullptr && r < count; ++r) {
        for (std::int64_t a = 0; a < g.m(); ++a) target[(begin + r) * g.m() + a] += bias[a];
      }
    });
    from_channels_last(result_, target, output);
  }

  void backward_input_by_gemm(const float* weights, const float* d_output, float* d_input) {
    const ConvGeometry& g = geometry_;
    const Im2colRows im2col{&g};
    AlignedBuffer<float> source;
    AlignedBuffer<float> result;
    d_output = to_channels_last(result_, d_output, result);
    float* target = channels_last_target(source_, d_input, source);
    std::memset(target, 0, static_cast<std::size_t>(g.input_elements()) * sizeof(float));
    for_blocks(nullptr, [&](std::int64_t begin, std::int64_t count, float* rows) {
      gemm(Transpose::kNo, Transpose::kNo, count, g.n(), g.m(), 1.0F, d_output + begin * g.m(),
           g.m(), weights, g.n(), 0.0F, rows, g.n());
      for (std::int64_t r = 0; r < count; ++r) {
        im2col.scatter_add(rows + r * g.n(), begin + r, target);
      }
    });
    from_channels_last(source_, target, d_input);
  }

  void backward_weights_by_gemm(const float* input, const float* d_output, float* d_weights) {
    const ConvGeometry& g = geometry_;
    AlignedBuffer<float> source;
    AlignedBuffer<float> result;
    input = to_channels_last(source_, input, source);
    d_output = to_channels_last(result_, d_output, result);
    for_blocks(input, [&](std::int64_t begin, std::int64_t count, float* rows) {
      gemm(Transpose::kYes, Transpose::kNo, g.m(), g.n(), count, 1.0F, d_output + begin * g.m(),
           g.m(), rows, g.n(), begin == 0 ? 0.0F : 1.0F, d_weights, g.n());
    });
  }

  static Desc channels_last(const Desc& desc) { return Desc(desc.dims(), kF32, Tag::nhwc); }

  static void convert(const Desc& from_desc, const float* from, const Desc& to_desc, float* to) {
    dnnl::memory source(from_desc, cpu(), const_cast<float*>(from));
    dnnl::memory target(to_desc, cpu(), to);
    dnnl::reorder(source, target).execute(stream(), source, target);
    stream().wait();
  }

  static const float* to_channels_last(const Desc& desc, const float* data,
                                       AlignedBuffer<float>& copy) {
    if (desc == channels_last(desc)) return data;
    copy = AlignedBuffer<float>(desc.get_size() / sizeof(float));
    convert(desc, data, channels_last(desc), copy.data());
    return copy.data();
  }

  static float* channels_last_target(const Desc& desc, float* data, AlignedBuffer<float>& copy) {
    if (desc == channels_last(desc)) return data;
    copy = AlignedBuffer<float>(desc.get_size() / sizeof(float));
    return copy.data();
  }

  static void from_channels_last(const Desc& desc, const float* from, float* data) {
    if (from != data) convert(channels_last(desc), from, desc, data);
  }

  const ConvGeometry geometry_;
  Desc source_, result_, weights_, bias_;
  bool usable_ = false;
  std::optional<dnnl::convolution_forward::primitive_desc> forward_;
  std::optional<dnnl::convolution_backward_data::primitive_desc> backward_data_;
  std::optional<dnnl::convolution_backward_weights::primitive_desc> backward_weights_;
  dnnl::convolution_forward forward_primitive_;
  dnnl::convolution_backward_data backward_data_primitive_;
  dnnl::convolution_backward_weights backward_weights_primitive_;
  AlignedBuffer<float> no_bias_;
};

LocalEngine::LocalEngine(ThreadPool& pool, TimeLedger& ledger) : pool_(pool), ledger_(ledger) {
  set_gemm_threads(pool.threads());
}

LocalEngine::~LocalEngine() = default;

Status LocalEngine::begin_step(StepMode /*mode*/) {
  return {};
}

LocalEngine::Convolution& LocalEngine::convolution(const LinearOp& op) {
  const ConvGeometry& g = op.geometry;
  auto& entry =
      convolutions_[{g.batch, g.in_h, g.in_w, g.in_c, g.out_h, g.out_w, g.out_c, g.kernel_h,
                     g.kernel_w, g.stride_h, g.stride_w, g.pad_top, g.pad_left, g.pad_bottom,
                     g.pad_right, g.dilation_h, g.dilation_w, op.input_block, op.output_block}];
  if (entry == nullptr) entry = std::make_unique<Convolution>(op);
  return *entry;
}

Status LocalEngine::forward(const LinearOp& op, const float* input, const float* weights,
                            const float* bias, float* output, ColumnMoments* moments) {
  const TimeScope scope(ledger_, TimeKind::kLinearTee);
  const ConvGeometry& g = op.geometry;
  if (g.is_fully_connected()) {
    gemm(Transpose::kNo, Transpose::kYes, g.p(), g.m(), g.n(), 1.0F, input, g.n(), weights, g.n(),
         0.0F, output, g.m());
    for (std::int64_t r = 0; bias != nullptr && r < g.p(); ++r) {
      for (std::int64_t a = 0; a < g.m(); ++a) output[r * g.m() + a] += bias[a];
    }
  } else {
    convolution(op).forward(input, weights, bias, output);
  }
  if (moments != nullptr) output_moments(op, output, pool_, *moments);
  return {};
}

Status LocalEngine::backward(const LinearOp& op, const float* input, const float* weights,
                             const float* d_output, float* d_weights, float* d_input,
                             bool accumulate_input) {
  const TimeScope scope(ledger_, TimeKind::kLinearTee);
  const ConvGeometry& g = op.geometry;
  if (g.is_fully_connected()) {
    if (d_weights != nullptr) {
      gemm(Transpose::kYes, Transpose::kNo, g.m(), g.n(), g.p(), 1.0F, d_output, g.m(), input,
           g.n(), 0.0F, d_weights, g.n());
    }
    if (d_input != nullptr) {
      gemm(Transpose::kNo, Transpose::kNo, g.p(), g.n(), g.m(), 1.0F, d_output, g.m(), weights,
           g.n(), accumulate_input ? 1.0F : 0.0F, d_input, g.n());
    }
    return {};
  }
  Convolution& conv = convolution(op);
  if (d_weights != nullptr) conv.backward_weights(input, d_output, d_weights);
  if (d_input == nullptr) return {};
  if (!accumulate_input) {
    conv.backward_input(weights, d_output, d_input);
    return {};
  }
  AlignedBuffer<float> added(static_cast<std::size_t>(g.input_elements()));
  conv.backward_input(weights, d_output, added.data());
  add_into(pool_, added.data(), g.input_elements(), d_input);
  return {};
}

}  // namespace tempo
