#include "enclave/offload/local_engine.h"

#include <algorithm>
#include <dnnl.hpp>
#include <numeric>
#include <utility>

#include "base/buffer.h"
#include "enclave/nn/column_moments.h"
#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/parallel.h"
#include "enclave/offload/conv_by_gemm.h"
#include "enclave/offload/conv_primitives.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

std::size_t count_of(std::int64_t floats) {
  return static_cast<std::size_t>(floats);
}

FeatureView output_view(const LinearOp& op) {
  const ConvGeometry& g = op.geometry;
  if (op.output_block == 0) return {.positions = g.p(), .width = g.m()};
  return feature_view({g.batch, g.out_c, g.out_h, g.out_w}, op.output_block);
}

// One layer of a stack as an operator of its own.
LinearOp part_of(const LinearOp& op, std::size_t part) {
  LinearOp layer = op;
  if (op.parts.empty()) return layer;
  layer.name = op.parts[part].name;
  layer.geometry.out_c = op.parts[part].features;
  layer.parts.clear();
  return layer;
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

void LocalScratch::include(const LinearOp& op, bool adds_input) {
  enum : std::size_t { kSum = ConvWorkspace::kUses, kByGemm, kAll };
  most_.resize(kAll);
  const ConvGeometry& g = op.geometry;
  if (g.is_fully_connected()) return;
  const auto note = [&](std::size_t use, std::uint64_t bytes) {
    most_[use] = std::max(most_[use], bytes);
  };
  const auto floats = [](std::int64_t count) {
    return static_cast<std::uint64_t>(count) * sizeof(float);
  };
  if (adds_input) note(kSum, floats(g.input_elements()));
  if (const auto sizes = ConvPrimitives::workspace_sizes(op)) {
    for (std::size_t use = 0; use < sizes->size(); ++use) note(use, (*sizes)[use]);
    return;
  }
  // Both tensors channels last and those of one group, and a block of X.
  const std::int64_t tensors = g.input_elements() + g.p() * g.m();
  const bool is_blocked = op.input_block != 0 || op.output_block != 0;
  note(kByGemm, floats((is_blocked ? tensors : 0) + (g.groups > 1 ? tensors / g.groups : 0) +
                       std::max(kGemmBlockFloats, g.n())));
}

std::uint64_t LocalScratch::bytes() const {
  return std::accumulate(most_.begin(), most_.end(), std::uint64_t{0});
}

// One operator: oneDNN where it has a kernel, else im2col.
class LocalEngine::Convolution {
 public:
  Convolution(const LinearOp& op, ConvWorkspace& workspace) : op_(op), primitives_(op, workspace) {}

  void forward(ThreadPool& pool, const float* input, const float* weights, const float* bias,
               float* output) {
    if (primitives_.forward(input, weights, bias, output)) return;
    const LastChannels x(op_, true, input);
    LastChannels z(op_, false, output);
    conv_forward_by_gemm(pool, op_.geometry, x.data(), weights, bias, z.data());
    z.write_back(output);
  }

  void backward_weights(ThreadPool& pool, const float* input, const float* d_output,
                        float* d_weights) {
    if (primitives_.backward_weights(input, d_output, d_weights)) return;
    const LastChannels x(op_, true, input);
    const LastChannels d(op_, false, d_output);
    conv_backward_weights_by_gemm(pool, op_.geometry, x.data(), d.data(), d_weights);
  }

  void backward_input(ThreadPool& pool, const float* weights, const float* d_output,
                      float* d_input) {
    if (primitives_.backward_input(weights, d_output, d_input)) return;
    const LastChannels d(op_, false, d_output);
    LastChannels x(op_, true, d_input);
    conv_backward_input_by_gemm(pool, op_.geometry, weights, d.data(), x.data());
    x.write_back(d_input);
  }

 private:
  // A tensor channels last: where it lies, or a copy.
  class LastChannels {
   public:
    LastChannels(const LinearOp& op, bool is_input, const float* data)
        : op_(op), is_input_(is_input), block_(is_input ? op.input_block : op.output_block) {
      data_ = const_cast<float*>(data);  // written to only by those who gave a mutable tensor
      if (block_ == 0) return;
      const ConvGeometry& g = op.geometry;
      copy_ = AlignedBuffer<float>(count_of(is_input ? g.input_elements() : g.p() * g.m()));
      ConvPrimitives::reorder(g, is_input, block_, data, 0, copy_.data());
      data_ = copy_.data();
    }
    float* data() { return data_; }
    const float* data() const { return data_; }
    void write_back(float* to) const {
      if (block_ == 0) return;
      ConvPrimitives::reorder(op_.geometry, is_input_, 0, data_, block_, to);
    }

   private:
    const LinearOp& op_;
    bool is_input_;
    int block_;
    float* data_;
    AlignedBuffer<float> copy_;
  };

  const LinearOp op_;
  ConvPrimitives primitives_;
};

LocalEngine::LocalEngine(ThreadPool& pool, TimeLedger& ledger)
    : pool_(pool), ledger_(ledger), workspace_(std::make_unique<ConvWorkspace>()) {
  set_gemm_threads(pool.threads());
}

LocalEngine::~LocalEngine() = default;

// The number of OpenMP threads belongs to the calling thread, which need not be the one that made
// the engine.
Status LocalEngine::begin_step(StepMode /*mode*/) {
  set_gemm_threads(pool_.threads());
  return {};
}

LocalEngine::Convolution& LocalEngine::convolution(const LinearOp& op) {
  const ConvGeometry& g = op.geometry;
  auto& entry =
      convolutions_[{g.batch,      g.in_h,       g.in_w,     g.in_c,         g.out_h,
                     g.out_w,      g.out_c,      g.kernel_h, g.kernel_w,     g.stride_h,
                     g.stride_w,   g.pad_top,    g.pad_left, g.pad_bottom,   g.pad_right,
                     g.dilation_h, g.dilation_w, g.groups,   op.input_block, op.output_block}];
  if (entry == nullptr) entry = std::make_unique<Convolution>(op, *workspace_);
  return *entry;
}

Status LocalEngine::forward(const LinearOp& op, const float* input,
                            const std::vector<ForwardPart>& parts) {
  const TimeScope scope(ledger_, TimeKind::kLinearTee);
  for (std::size_t k = 0; k < parts.size(); ++k) forward_part(part_of(op, k), input, parts[k]);
  return {};
}

Status LocalEngine::backward(const LinearOp& op, const float* input,
                             const std::vector<BackwardPart>& parts, float* d_input,
                             bool accumulate_input, bool /*may_defer*/) {
  const TimeScope scope(ledger_, TimeKind::kLinearTee);
  for (std::size_t k = 0; k < parts.size(); ++k) {
    backward_part(part_of(op, k), input, parts[k], d_input, accumulate_input || k > 0);
  }
  return {};
}

void LocalEngine::forward_part(const LinearOp& op, const float* input, const ForwardPart& part) {
  const ConvGeometry& g = op.geometry;
  if (g.is_fully_connected()) {
    gemm(Transpose::kNo, Transpose::kYes, g.p(), g.m(), g.n(), 1.0F, input, g.n(), part.weights,
         g.n(), 0.0F, part.output, g.m());
    if (part.bias != nullptr) {
      pool_.parallel_for(g.p(), grain_for(g.m()), [&](std::int64_t first, std::int64_t last) {
        float* rows = part.output + first * g.m();
        kernels::add_row(rows, part.bias, last - first, g.m(), rows, false);
      });
    }
  } else {
    convolution(op).forward(pool_, input, part.weights, part.bias, part.output);
  }
  if (part.moments != nullptr) {
    *part.moments = column_moments(pool_, output_view(op), part.output);
  }
}

void LocalEngine::backward_part(const LinearOp& op, const float* input, const BackwardPart& part,
                                float* d_input, bool accumulate_input) {
  const ConvGeometry& g = op.geometry;
  if (g.is_fully_connected()) {
    if (part.d_weights != nullptr) {
      gemm(Transpose::kYes, Transpose::kNo, g.m(), g.n(), g.p(), 1.0F, part.d_output, g.m(), input,
           g.n(), 0.0F, part.d_weights, g.n());
    }
    if (d_input != nullptr) {
      gemm(Transpose::kNo, Transpose::kNo, g.p(), g.n(), g.m(), 1.0F, part.d_output, g.m(),
           part.weights, g.n(), accumulate_input ? 1.0F : 0.0F, d_input, g.n());
    }
    return;
  }
  Convolution& conv = convolution(op);
  if (part.d_weights != nullptr) conv.backward_weights(pool_, input, part.d_output, part.d_weights);
  if (d_input == nullptr) return;
  if (!accumulate_input) {
    conv.backward_input(pool_, part.weights, part.d_output, d_input);
    return;
  }
  if (sum_.size() < count_of(g.input_elements())) {
    sum_ = AlignedBuffer<float>(count_of(g.input_elements()));
  }
  conv.backward_input(pool_, part.weights, part.d_output, sum_.data());
  for_elements(pool_, g.input_elements(), [&](std::int64_t begin, std::int64_t count) {
    kernels::copy(sum_.data() + begin, d_input + begin, count, true);
  });
}

}  // namespace tempo
