#include "enclave/offload/local_engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "enclave/offload/conv_primitives.h"
#include "enclave/offload/im2col.h"

namespace tempo {
namespace {

ConvGeometry conv(int batch, int hw, int in_c, int out_c, int kernel, int stride, int pad,
                  int dilation = 1, int groups = 1) {
  ConvGeometry g;
  g.batch = batch;
  g.in_h = g.in_w = hw;
  g.in_c = in_c;
  g.out_c = out_c;
  g.kernel_h = g.kernel_w = kernel;
  g.stride_h = g.stride_w = stride;
  g.dilation_h = g.dilation_w = dilation;
  g.groups = groups;
  g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = pad;
  g.out_h = g.out_w = (hw + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  return g;
}

std::vector<ConvGeometry> geometries() {
  ConvGeometry dense;
  dense.batch = 7;
  dense.in_c = 33;
  dense.out_c = 10;
  return {conv(2, 9, 1, 16, 3, 1, 1), conv(2, 9, 3, 16, 3, 1, 1), conv(3, 8, 16, 8, 3, 2, 1),
          conv(2, 7, 5, 7, 3, 1, 0), conv(2, 8, 16, 32, 1, 1, 0), conv(2, 8, 16, 32, 1, 2, 0),
          conv(1, 11, 8, 8, 3, 1, 2, 2), dense,
          // Groups: depthwise, dilated, two features a channel, few channels a group.
          conv(2, 9, 32, 32, 3, 1, 1, 1, 32), conv(2, 9, 16, 16, 3, 2, 2, 2, 16),
          conv(2, 7, 16, 32, 5, 1, 2, 1, 16), conv(2, 9, 32, 32, 3, 2, 1, 1, 8),
          conv(2, 9, 6, 9, 3, 2, 1, 2, 3), conv(2, 1, 16, 32, 1, 1, 0, 1, 2)};
}

// (N, H, W, C) <-> (N, C/b, H, W, b)
std::vector<float> to_blocked(const std::vector<float>& data, std::int64_t pixels,
                              std::int64_t channels, std::int64_t images, int block, bool back) {
  if (block == 0) return data;
  std::vector<float> out(data.size());
  for (std::int64_t n = 0; n < images; ++n) {
    for (std::int64_t p = 0; p < pixels; ++p) {
      for (std::int64_t c = 0; c < channels; ++c) {
        const std::int64_t last = (n * pixels + p) * channels + c;
        const std::int64_t blocked =
            ((n * (channels / block) + c / block) * pixels + p) * block + c % block;
        (back ? out[last] : out[blocked]) = back ? data[blocked] : data[last];
      }
    }
  }
  return out;
}

struct Oracle {
  std::vector<double> output, d_weights, d_input;
};

Oracle oracle(const ConvGeometry& g, const std::vector<float>& input,
              const std::vector<float>& weights, const std::vector<float>& bias,
              const std::vector<float>& d_output) {
  Oracle o{std::vector<double>(g.p() * g.m()), std::vector<double>(g.m() * g.n()),
           std::vector<double>(g.input_elements())};
  for (std::int64_t p = 0; p < g.p(); ++p) {
    const std::int64_t ox = p % g.out_w, oy = p / g.out_w % g.out_h,
                       image = p / (g.out_w * g.out_h);
    for (std::int64_t a = 0; a < g.m(); ++a) {
      double sum = bias[a];
      for (std::int64_t j = 0; j < g.n(); ++j) {
        const std::int64_t width = g.in_c / g.groups;
        const std::int64_t c = a / (g.out_c / g.groups) * width + j % width,
                           kx = j / width % g.kernel_w, ky = j / (width * g.kernel_w);
        const std::int64_t y = oy * g.stride_h - g.pad_top + ky * g.dilation_h;
        const std::int64_t x = ox * g.stride_w - g.pad_left + kx * g.dilation_w;
        if (y < 0 || y >= g.in_h || x < 0 || x >= g.in_w) continue;
        const std::int64_t at = ((image * g.in_h + y) * g.in_w + x) * g.in_c + c;
        sum += double{input[at]} * weights[a * g.n() + j];
        o.d_weights[a * g.n() + j] += double{input[at]} * d_output[p * g.m() + a];
        o.d_input[at] += double{weights[a * g.n() + j]} * d_output[p * g.m() + a];
      }
      o.output[p * g.m() + a] = sum;
    }
  }
  return o;
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want,
                 const std::string& what) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  EXPECT_LE(std::sqrt(error), 1e-6 * std::sqrt(norm)) << what;
}

class LocalEngineTest : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(LocalEngineTest, MatchesFloat64Oracle) {
  const auto [block, threads] = GetParam();
  ThreadPool pool(threads);
  TimeLedger ledger;
  LocalEngine engine(pool, ledger);
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  int index = 0;
  for (const ConvGeometry& g : geometries()) {
    LinearOp op;
    op.index = index++;
    op.geometry = g;
    if (!g.is_fully_connected()) {
      op.input_block = block != 0 && g.in_c % block == 0 ? block : 0;
      op.output_block = block != 0 && g.out_c % block == 0 ? block : 0;
    }
    const std::string what =
        "geometry " + std::to_string(op.index) + ", block " + std::to_string(block);
    std::vector<float> input(g.input_elements()), weights(g.m() * g.n()), bias(g.m()),
        d_output(g.p() * g.m());
    for (auto* values : {&input, &weights, &bias, &d_output}) {
      for (float& v : *values) v = normal(rng);
    }
    const Oracle want = oracle(g, input, weights, bias, d_output);
    const auto blocked_input =
        to_blocked(input, g.in_h * g.in_w, g.in_c, g.batch, op.input_block, false);
    const auto blocked_d =
        to_blocked(d_output, g.out_h * g.out_w, g.out_c, g.batch, op.output_block, false);
    std::vector<float> output(g.p() * g.m()), d_weights(weights.size()), d_input(input.size());
    ColumnMoments moments;
    ASSERT_TRUE(engine
                    .forward(op, blocked_input.data(),
                             {{weights.data(), bias.data(), output.data(), &moments}})
                    .ok());
    ASSERT_TRUE(engine
                    .backward(op, blocked_input.data(),
                              {{weights.data(), blocked_d.data(), d_weights.data()}},
                              d_input.data(), false, false)
                    .ok());
    expect_near(to_blocked(output, g.out_h * g.out_w, g.out_c, g.batch, op.output_block, true),
                want.output, what + " output");
    expect_near(d_weights, want.d_weights, what + " d_weights");
    expect_near(to_blocked(d_input, g.in_h * g.in_w, g.in_c, g.batch, op.input_block, true),
                want.d_input, what + " d_input");

    ASSERT_EQ(moments.count, g.p());
    for (std::int64_t a = 0; a < g.m(); ++a) {
      double mean = 0, m2 = 0;
      for (std::int64_t p = 0; p < g.p(); ++p) mean += want.output[p * g.m() + a];
      mean /= static_cast<double>(g.p());
      for (std::int64_t p = 0; p < g.p(); ++p) {
        m2 += (want.output[p * g.m() + a] - mean) * (want.output[p * g.m() + a] - mean);
      }
      EXPECT_NEAR(moments.mean[a], mean, 1e-5) << what;
      EXPECT_NEAR(moments.m2[a], m2, 1e-5 * m2) << what;
    }

    // Adding to what is there; no bias; no input gradient.
    std::vector<float> sum = d_input;
    ASSERT_TRUE(engine
                    .backward(op, blocked_input.data(),
                              {{weights.data(), blocked_d.data(), nullptr}}, sum.data(), true,
                              false)
                    .ok());
    for (std::size_t i = 0; i < sum.size(); ++i)
      ASSERT_NEAR(sum[i], 2 * d_input[i], 1e-5 + 1e-5 * std::fabs(d_input[i])) << what;
    std::vector<float> unbiased(output.size());
    ASSERT_TRUE(
        engine.forward(op, blocked_input.data(), {{weights.data(), nullptr, unbiased.data()}})
            .ok());
    const auto plain =
        to_blocked(unbiased, g.out_h * g.out_w, g.out_c, g.batch, op.output_block, true);
    for (std::int64_t i = 0; i < g.p() * g.m(); ++i) {
      ASSERT_NEAR(plain[i] + bias[i % g.m()], want.output[i], 1e-4) << what;
    }
  }
}

TEST_P(LocalEngineTest, TakesTheWorkspaceThatItSays) {
  const auto [block, threads] = GetParam();
  ThreadPool pool(threads);
  TimeLedger ledger;
  const LocalEngine sets_the_number_of_threads(pool, ledger);
  int fast = 0;
  for (const ConvGeometry& g : geometries()) {
    if (g.is_fully_connected()) continue;
    LinearOp op;
    op.geometry = g;
    op.input_block = block != 0 && g.in_c % block == 0 ? block : 0;
    op.output_block = block != 0 && g.out_c % block == 0 ? block : 0;
    const std::vector<float> input(g.input_elements()), weights(g.m() * g.n()),
        d_output(g.p() * g.m());
    std::vector<float> output(d_output.size()), d_weights(weights.size()), d_input(input.size());
    ConvWorkspace workspace;
    ConvPrimitives primitives(op, workspace);
    const bool forward = primitives.forward(input.data(), weights.data(), nullptr, output.data());
    const bool backward_weights =
        primitives.backward_weights(input.data(), d_output.data(), d_weights.data());
    const bool backward_input =
        primitives.backward_input(weights.data(), d_output.data(), d_input.data());
    const auto sizes = ConvPrimitives::workspace_sizes(op);
    ASSERT_EQ(sizes.has_value(), forward && backward_weights && backward_input);
    if (!sizes) continue;
    ++fast;
    for (std::size_t use = 0; use < sizes->size(); ++use) {
      EXPECT_EQ((*sizes)[use], workspace.size(ConvWorkspace::Use(use)))
          << "channels " << g.in_c << " to " << g.out_c << ", use " << use;
    }
  }
  EXPECT_GT(fast, 0);
}

INSTANTIATE_TEST_SUITE_P(Layouts, LocalEngineTest,
                         testing::Combine(testing::Values(0, 8, 16), testing::Values(1, 2)));

}  // namespace
}  // namespace tempo
