#include "enclave/offload/conv_by_gemm.h"

#include <algorithm>
#include <cstring>

#include "base/buffer.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/parallel.h"
#include "enclave/offload/im2col.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

constexpr std::int64_t kBlockFloats = std::int64_t{1} << 20;  // of X at a time: 4 MB

std::size_t bytes_of(std::int64_t floats) {
  return static_cast<std::size_t>(floats) * sizeof(float);
}

// X of positions [begin, begin + count).
void gather_rows(ThreadPool& pool, const ConvGeometry& g, const float* input, std::int64_t begin,
                 std::int64_t count, float* rows) {
  const Im2colRows im2col{&g};
  pool.parallel_for(count, grain_for(g.n()), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      float* to = rows + r * g.n();
      const float* row = im2col.gather(input, begin + r, to);
      if (row != to) std::memcpy(to, row, bytes_of(g.n()));
    }
  });
}

// Calls body(first position, count, space for that many rows of X).
template <class Body>
void for_blocks(const ConvGeometry& g, const Body& body) {
  const std::int64_t most = std::clamp<std::int64_t>(kBlockFloats / g.n(), 1, g.p());
  AlignedBuffer<float> rows(static_cast<std::size_t>(most * g.n()));
  for (std::int64_t begin = 0; begin < g.p(); begin += most) {
    body(begin, std::min(most, g.p() - begin), rows.data());
  }
}

// The channels of one group, channels last, as a tensor of their own.
class GroupChannels {
 public:
  GroupChannels(ThreadPool& pool, std::int64_t rows, std::int64_t channels, std::int64_t groups)
      : pool_(pool),
        rows_(rows),
        channels_(channels),
        width_(channels / groups),
        own_(static_cast<std::size_t>(rows * width_)) {}

  float* data() { return own_.data(); }
  const float* copy_from(const float* tensor, std::int64_t group) {
    for_rows([&](std::int64_t r) {
      std::memcpy(own_.data() + r * width_, tensor + r * channels_ + group * width_,
                  bytes_of(width_));
    });
    return own_.data();
  }
  void copy_to(float* tensor, std::int64_t group) const {
    for_rows([&](std::int64_t r) {
      std::memcpy(tensor + r * channels_ + group * width_, own_.data() + r * width_,
                  bytes_of(width_));
    });
  }

 private:
  template <class Body>
  void for_rows(const Body& body) const {
    pool_.parallel_for(rows_, grain_for(width_), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) body(r);
    });
  }

  ThreadPool& pool_;
  std::int64_t rows_, channels_, width_;
  AlignedBuffer<float> own_;
};

// Calls body(geometry of one group, its number, its offset in the weights, space for its channels
// of the input, of the output).
template <class Body>
void for_groups(ThreadPool& pool, const ConvGeometry& g, const Body& body) {
  ConvGeometry one = g;
  one.groups = 1;
  one.in_c = g.in_c / g.groups;
  one.out_c = g.out_c / g.groups;
  GroupChannels input(pool, g.batch * g.in_h * g.in_w, g.in_c, g.groups);
  GroupChannels output(pool, g.p(), g.out_c, g.groups);
  for (std::int64_t group = 0; group < g.groups; ++group) {
    body(one, group, group * one.m() * one.n(), input, output);
  }
}

}  // namespace

void conv_forward_by_gemm(ThreadPool& pool, const ConvGeometry& g, const float* input,
                          const float* weights, const float* bias, float* output) {
  if (g.groups > 1) {
    for_groups(pool, g,
               [&](const ConvGeometry& one, std::int64_t group, std::int64_t first_weight,
                   GroupChannels& x, GroupChannels& z) {
                 conv_forward_by_gemm(pool, one, x.copy_from(input, group), weights + first_weight,
                                      bias == nullptr ? nullptr : bias + group * one.m(), z.data());
                 z.copy_to(output, group);
               });
    return;
  }
  for_blocks(g, [&](std::int64_t begin, std::int64_t count, float* rows) {
    gather_rows(pool, g, input, begin, count, rows);
    gemm(Transpose::kNo, Transpose::kYes, count, g.m(), g.n(), 1, rows, g.n(), weights, g.n(), 0,
         output + begin * g.m(), g.m());
  });
  if (bias == nullptr) return;
  pool.parallel_for(g.p(), grain_for(g.m()), [&](std::int64_t first, std::int64_t last) {
    float* at = output + first * g.m();
    kernels::add_row(at, bias, last - first, g.m(), at, false);
  });
}

void conv_backward_weights_by_gemm(ThreadPool& pool, const ConvGeometry& g, const float* input,
                                   const float* d_output, float* d_weights) {
  if (g.groups > 1) {
    for_groups(pool, g,
               [&](const ConvGeometry& one, std::int64_t group, std::int64_t first_weight,
                   GroupChannels& x, GroupChannels& z) {
                 conv_backward_weights_by_gemm(pool, one, x.copy_from(input, group),
                                               z.copy_from(d_output, group),
                                               d_weights + first_weight);
               });
    return;
  }
  for_blocks(g, [&](std::int64_t begin, std::int64_t count, float* rows) {
    gather_rows(pool, g, input, begin, count, rows);
    gemm(Transpose::kYes, Transpose::kNo, g.m(), g.n(), count, 1, d_output + begin * g.m(), g.m(),
         rows, g.n(), begin == 0 ? 0.0F : 1.0F, d_weights, g.n());
  });
}

void conv_backward_input_by_gemm(ThreadPool& pool, const ConvGeometry& g, const float* weights,
                                 const float* d_output, float* d_input) {
  if (g.groups > 1) {
    for_groups(pool, g,
               [&](const ConvGeometry& one, std::int64_t group, std::int64_t first_weight,
                   GroupChannels& x, GroupChannels& z) {
                 conv_backward_input_by_gemm(pool, one, weights + first_weight,
                                             z.copy_from(d_output, group), x.data());
                 x.copy_to(d_input, group);
               });
    return;
  }
  const Im2colRows im2col{&g};
  std::memset(d_input, 0, bytes_of(g.input_elements()));
  for_blocks(g, [&](std::int64_t begin, std::int64_t count, float* rows) {
    gemm(Transpose::kNo, Transpose::kNo, count, g.n(), g.m(), 1, d_output + begin * g.m(), g.m(),
         weights, g.n(), 0, rows, g.n());
    // Positions of one image overlap, and a block may hold parts of images: one thread.
    for (std::int64_t r = 0; r < count; ++r) {
      im2col.scatter_add(rows + r * g.n(), begin + r, d_input);
    }
  });
}

}  // namespace tempo
