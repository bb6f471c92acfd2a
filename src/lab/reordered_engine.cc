#include "lab/reordered_engine.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "enclave/offload/im2col.h"
#include "matrix/gemm.h"

namespace tempo::lab {
namespace {

// Each row back to front.
std::vector<float> reversed_rows(std::vector<float> matrix, std::int64_t cols) {
  for (auto row = matrix.begin(); row != matrix.end(); row += cols) std::reverse(row, row + cols);
  return matrix;
}

// The last row first.
std::vector<float> reversed_order(const std::vector<float>& matrix, std::int64_t cols) {
  std::vector<float> out(matrix.size());
  for (std::size_t r = 0; r < matrix.size(); r += cols) {
    std::copy(matrix.begin() + r, matrix.begin() + r + cols, out.end() - r - cols);
  }
  return out;
}

std::vector<float> lowered(const ConvGeometry& g, const float* input) {
  std::vector<float> x(g.p() * g.n());
  const Im2colRows rows{&g};
  for (std::int64_t p = 0; p < g.p(); ++p) {
    float* to = x.data() + p * g.n();
    const float* row = rows.gather(input, p, to);
    if (row != to) std::copy(row, row + g.n(), to);
  }
  return x;
}

ConvGeometry part_of(const LinearOp& op, std::size_t part) {
  ConvGeometry g = op.geometry;
  if (!op.parts.empty()) g.out_c = op.parts[part].features;
  return g;
}

void forward_part(const ConvGeometry& g, const float* input, const ForwardPart& part) {
  const auto x = reversed_rows(lowered(g, input), g.n());
  const auto w = reversed_rows({part.weights, part.weights + g.m() * g.n()}, g.n());
  float* output = part.output;
  gemm(Transpose::kNo, Transpose::kYes, g.p(), g.m(), g.n(), 1.0F, x.data(), g.n(), w.data(), g.n(),
       0.0F, output, g.m());
  for (std::int64_t i = 0; part.bias != nullptr && i < g.p() * g.m(); ++i)
    output[i] += part.bias[i % g.m()];
  if (part.moments == nullptr) return;
  std::vector<double> mean(g.m());
  std::vector<double> m2(g.m());
  for (std::int64_t i = 0; i < g.p() * g.m(); ++i) mean[i % g.m()] += output[i];
  for (double& value : mean) value /= static_cast<double>(g.p());
  for (std::int64_t i = 0; i < g.p() * g.m(); ++i) {
    m2[i % g.m()] += (output[i] - mean[i % g.m()]) * (output[i] - mean[i % g.m()]);
  }
  part.moments->reset(g.m());
  part.moments->merge(g.p(), mean.data(), m2.data());
}

void backward_part(const ConvGeometry& g, const float* input, const BackwardPart& part,
                   float* d_input, bool accumulate_input) {
  const std::vector<float> d(part.d_output, part.d_output + g.p() * g.m());
  if (part.d_weights != nullptr) {
    const auto x = reversed_order(lowered(g, input), g.n());
    const auto r = reversed_order(d, g.m());
    gemm(Transpose::kYes, Transpose::kNo, g.m(), g.n(), g.p(), 1.0F, r.data(), g.m(), x.data(),
         g.n(), 0.0F, part.d_weights, g.n());
  }
  if (d_input == nullptr) return;
  if (!accumulate_input) std::fill(d_input, d_input + g.input_elements(), 0.0F);
  const auto r = reversed_rows(d, g.m());
  const auto w = reversed_order({part.weights, part.weights + g.m() * g.n()}, g.n());
  std::vector<float> x(g.p() * g.n());
  gemm(Transpose::kNo, Transpose::kNo, g.p(), g.n(), g.m(), 1.0F, r.data(), g.m(), w.data(), g.n(),
       0.0F, x.data(), g.n());
  const Im2colRows rows{&g};
  for (std::int64_t p = g.p(); p-- > 0;) rows.scatter_add(x.data() + p * g.n(), p, d_input);
}

}  // namespace

Status ReorderedEngine::forward(const LinearOp& op, const float* input,
                                const std::vector<ForwardPart>& parts) {
  for (std::size_t k = 0; k < parts.size(); ++k) forward_part(part_of(op, k), input, parts[k]);
  return {};
}

Status ReorderedEngine::backward(const LinearOp& op, const float* input,
                                 const std::vector<BackwardPart>& parts, float* d_input,
                                 bool accumulate_input, bool /*may_defer*/) {
  for (std::size_t k = 0; k < parts.size(); ++k) {
    backward_part(part_of(op, k), input, parts[k], d_input, accumulate_input || k > 0);
  }
  return {};
}

}  // namespace tempo::lab
