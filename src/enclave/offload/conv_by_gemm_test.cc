#include "enclave/offload/conv_by_gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "enclave/offload/im2col.h"

namespace tempo {
namespace {

class ConvByGemm : public testing::TestWithParam<ConvGeometry> {};

std::vector<float> normals(std::int64_t count, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(rng);
  return values;
}

// All three products against float64 ones over X, which im2col_test checks.
TEST_P(ConvByGemm, MatchesFloat64Oracle) {
  const ConvGeometry g = GetParam();
  ThreadPool pool(2);
  const auto input = normals(g.input_elements(), 1), weights = normals(g.m() * g.n(), 2);
  const auto bias = normals(g.m(), 3), d_output = normals(g.p() * g.m(), 4);
  std::vector<float> output(d_output.size()), d_weights(weights.size()), d_input(input.size(), 9);
  conv_forward_by_gemm(pool, g, input.data(), weights.data(), bias.data(), output.data());
  conv_backward_weights_by_gemm(pool, g, input.data(), d_output.data(), d_weights.data());
  conv_backward_input_by_gemm(pool, g, weights.data(), d_output.data(), d_input.data());

  std::vector<double> want_weights(weights.size(), 0);
  std::vector<float> want_input(input.size(), 0), scratch(static_cast<std::size_t>(g.n()));
  const Im2colRows im2col{&g};
  const double forward_error = 1e-6 * std::sqrt(static_cast<double>(g.n())) * 8;
  for (std::int64_t p = 0; p < g.p(); ++p) {
    const float* row = im2col.gather(input.data(), p, scratch.data());
    std::vector<float> d_row(scratch.size());
    for (std::int64_t j = 0; j < g.n(); ++j) {
      double sum = 0;
      for (std::int64_t a = 0; a < g.m(); ++a) {
        const double d = d_output[static_cast<std::size_t>(p * g.m() + a)];
        sum += d * double{weights[static_cast<std::size_t>(a * g.n() + j)]};
        want_weights[static_cast<std::size_t>(a * g.n() + j)] += d * double{row[j]};
      }
      d_row[static_cast<std::size_t>(j)] = static_cast<float>(sum);
    }
    for (std::int64_t a = 0; a < g.m(); ++a) {
      double sum = bias[static_cast<std::size_t>(a)];
      for (std::int64_t j = 0; j < g.n(); ++j) {
        sum += double{row[j]} * double{weights[static_cast<std::size_t>(a * g.n() + j)]};
      }
      ASSERT_NEAR(output[static_cast<std::size_t>(p * g.m() + a)], sum, forward_error);
    }
    im2col.scatter_add(d_row.data(), p, want_input.data());
  }
  const double weight_error = 1e-6 * std::sqrt(static_cast<double>(g.p())) * 8;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    ASSERT_NEAR(d_weights[i], want_weights[i], weight_error);
  }
  const double input_error = 1e-6 * std::sqrt(static_cast<double>(g.m() * g.n())) * 8;
  for (std::size_t i = 0; i < input.size(); ++i) {
    ASSERT_NEAR(d_input[i], want_input[i], input_error);
  }
}

INSTANTIATE_TEST_SUITE_P(Geometries, ConvByGemm,
                         testing::Values(ConvGeometry{.batch = 2,
                                                      .in_h = 5,
                                                      .in_w = 4,
                                                      .in_c = 3,
                                                      .out_h = 5,
                                                      .out_w = 4,
                                                      .out_c = 7,
                                                      .kernel_h = 3,
                                                      .kernel_w = 3,
                                                      .pad_top = 1,
                                                      .pad_left = 1,
                                                      .pad_bottom = 1,
                                                      .pad_right = 1},
                                         ConvGeometry{.batch = 3,
                                                      .in_h = 7,
                                                      .in_w = 7,
                                                      .in_c = 2,
                                                      .out_h = 2,
                                                      .out_w = 3,
                                                      .out_c = 4,
                                                      .kernel_h = 2,
                                                      .kernel_w = 3,
                                                      .stride_h = 3,
                                                      .stride_w = 1,
                                                      .dilation_h = 3,
                                                      .dilation_w = 2},
                                         // More rows of X than one block holds.
                                         ConvGeometry{.batch = 1,
                                                      .in_h = 24,
                                                      .in_w = 24,
                                                      .in_c = 240,
                                                      .out_h = 22,
                                                      .out_w = 22,
                                                      .out_c = 2,
                                                      .kernel_h = 3,
                                                      .kernel_w = 3}));

// Groups are the convolution whose weights are zero between one group's inputs and another's
// outputs.
TEST(ConvByGemmOfGroups, MatchesTheSparseOne) {
  const ConvGeometry grouped{.batch = 2,
                             .in_h = 6,
                             .in_w = 5,
                             .in_c = 6,
                             .out_h = 3,
                             .out_w = 5,
                             .out_c = 9,
                             .kernel_h = 3,
                             .kernel_w = 2,
                             .stride_h = 2,
                             .pad_top = 1,
                             .pad_right = 1,
                             .groups = 3};
  ConvGeometry sparse = grouped;
  sparse.groups = 1;
  const auto count = static_cast<std::size_t>(grouped.m() * grouped.n());
  // Calls body(index in the grouped weights, index of the same one in the sparse weights).
  const auto for_weights = [&](const auto& body) {
    const std::int64_t width = grouped.in_c / grouped.groups;
    for (std::int64_t i = 0; i < grouped.m() * grouped.n(); ++i) {
      const std::int64_t feature = i / grouped.n(), tap = i % grouped.n() / width;
      const std::int64_t group = feature / (grouped.out_c / grouped.groups);
      body(static_cast<std::size_t>(i),
           static_cast<std::size_t>(feature * sparse.n() + tap * sparse.in_c + group * width +
                                    i % width));
    }
  };
  ThreadPool pool(2);
  const auto input = normals(grouped.input_elements(), 1);
  const auto weights = normals(grouped.m() * grouped.n(), 2), bias = normals(grouped.m(), 3);
  const auto d_output = normals(grouped.p() * grouped.m(), 4);
  std::vector<float> sparse_weights(static_cast<std::size_t>(sparse.m() * sparse.n()), 0.0F);
  for_weights([&](std::size_t i, std::size_t at) { sparse_weights[at] = weights[i]; });

  struct Results {
    std::vector<float> output, d_weights, d_input;
  };
  const auto run = [&](const ConvGeometry& g, const std::vector<float>& w) {
    Results r{std::vector<float>(d_output.size(), 9), std::vector<float>(w.size(), 9),
              std::vector<float>(input.size(), 9)};
    conv_forward_by_gemm(pool, g, input.data(), w.data(), bias.data(), r.output.data());
    conv_backward_weights_by_gemm(pool, g, input.data(), d_output.data(), r.d_weights.data());
    conv_backward_input_by_gemm(pool, g, w.data(), d_output.data(), r.d_input.data());
    return r;
  };
  const Results got = run(grouped, weights), want = run(sparse, sparse_weights);
  ASSERT_EQ(got.d_weights.size(), count);
  for (std::size_t i = 0; i < got.output.size(); ++i) {
    ASSERT_NEAR(got.output[i], want.output[i], 1e-5) << i;
  }
  for_weights([&](std::size_t i, std::size_t at) {
    ASSERT_NEAR(got.d_weights[i], want.d_weights[at], 1e-5) << i;
  });
  for (std::size_t i = 0; i < got.d_input.size(); ++i) {
    ASSERT_NEAR(got.d_input[i], want.d_input[i], 1e-5) << i;
  }
}

}  // namespace
}  // namespace tempo
