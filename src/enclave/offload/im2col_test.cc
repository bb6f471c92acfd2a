#include "enclave/offload/im2col.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace tempo {
namespace {

class Im2colTest : public testing::TestWithParam<ConvGeometry> {};

// Index of the input element under a tap, or -1.
std::int64_t tap(const ConvGeometry& g, std::int64_t position, std::int64_t ky, std::int64_t kx,
                 std::int64_t c) {
  const std::int64_t image = position / (g.out_h * g.out_w);
  const std::int64_t y = position / g.out_w % g.out_h * g.stride_h + ky * g.dilation_h - g.pad_top;
  const std::int64_t x = position % g.out_w * g.stride_w + kx * g.dilation_w - g.pad_left;
  if (y < 0 || x < 0 || y >= g.in_h || x >= g.in_w) return -1;
  return ((image * g.in_h + y) * g.in_w + x) * g.in_c + c;
}

TEST_P(Im2colTest, GathersAndScattersEveryTap) {
  const ConvGeometry g = GetParam();
  std::vector<float> input(static_cast<std::size_t>(g.input_elements()));
  std::iota(input.begin(), input.end(), 1.0F);
  std::vector<float> d_input(input.size(), 0.5F), want(input.size(), 0.5F);
  std::vector<float> scratch(static_cast<std::size_t>(g.n()), -1.0F), row(scratch);
  const Im2colRows rows{&g};
  for (std::int64_t position = 0; position < g.p(); ++position) {
    std::fill(scratch.begin(), scratch.end(), -1.0F);
    const float* got = rows.gather(input.data(), position, scratch.data());
    std::size_t j = 0;
    for (std::int64_t ky = 0; ky < g.kernel_h; ++ky) {
      for (std::int64_t kx = 0; kx < g.kernel_w; ++kx) {
        for (std::int64_t c = 0; c < g.in_c; ++c, ++j) {
          const std::int64_t from = tap(g, position, ky, kx, c);
          ASSERT_EQ(got[j], from < 0 ? 0.0F : input[static_cast<std::size_t>(from)]);
          row[j] = static_cast<float>(position + 2 * static_cast<std::int64_t>(j));
          if (from >= 0) want[static_cast<std::size_t>(from)] += row[j];
        }
      }
    }
    rows.scatter_add(row.data(), position, d_input.data());
  }
  EXPECT_EQ(d_input, want);
}

INSTANTIATE_TEST_SUITE_P(Geometries, Im2colTest,
                         testing::Values(ConvGeometry{.batch = 3, .in_c = 4, .out_c = 2},
                                         ConvGeometry{.batch = 2,
                                                      .in_h = 5,
                                                      .in_w = 4,
                                                      .in_c = 3,
                                                      .out_h = 5,
                                                      .out_w = 4,
                                                      .kernel_h = 3,
                                                      .kernel_w = 3,
                                                      .pad_top = 1,
                                                      .pad_left = 1,
                                                      .pad_bottom = 1,
                                                      .pad_right = 1},
                                         ConvGeometry{.batch = 2,
                                                      .in_h = 7,
                                                      .in_w = 6,
                                                      .in_c = 2,
                                                      .out_h = 3,
                                                      .out_w = 3,
                                                      .kernel_h = 3,
                                                      .kernel_w = 2,
                                                      .stride_h = 2,
                                                      .stride_w = 2},
                                         ConvGeometry{.batch = 1,
                                                      .in_h = 9,
                                                      .in_w = 9,
                                                      .in_c = 2,
                                                      .out_h = 5,
                                                      .out_w = 3,
                                                      .kernel_h = 3,
                                                      .kernel_w = 3,
                                                      .stride_w = 2,
                                                      .pad_left = 1,
                                                      .dilation_h = 2,
                                                      .dilation_w = 2},
                                         // A window wider than the image, padded on one side only.
                                         ConvGeometry{.batch = 2,
                                                      .in_h = 2,
                                                      .in_w = 2,
                                                      .in_c = 3,
                                                      .out_h = 2,
                                                      .out_w = 3,
                                                      .kernel_h = 3,
                                                      .kernel_w = 4,
                                                      .pad_top = 2,
                                                      .pad_left = 3,
                                                      .pad_right = 1},
                                         // 1x1 kernels over padding.
                                         ConvGeometry{.batch = 2,
                                                      .in_h = 3,
                                                      .in_w = 3,
                                                      .in_c = 2,
                                                      .out_h = 2,
                                                      .out_w = 3,
                                                      .stride_h = 2,
                                                      .stride_w = 2,
                                                      .pad_left = 1,
                                                      .pad_right = 1}));

}  // namespace
}  // namespace tempo
