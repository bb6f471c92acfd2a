#include "enclave/nn/parallel.h"

#include <gtest/gtest.h>

#include <cmath>

#include "enclave/nn/column_moments.h"
#include "enclave/nn/graph_builder.h"
#include "enclave/nn/kernels.h"

namespace tempo {
namespace {

class RowRuns : public testing::TestWithParam<FeatureView> {};

std::vector<float> hashed(std::int64_t count, float offset) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = hashed_value(5, static_cast<std::uint32_t>(i)) + offset;
  }
  return values;
}

std::int64_t channel_of(const FeatureView& view, std::int64_t element) {
  return element / view.width / view.positions % view.blocks * view.width + element % view.width;
}

TEST_P(RowRuns, CoverEveryElementOnceWithItsChannel) {
  const FeatureView view = GetParam();
  ThreadPool pool(3);
  std::vector<int> channels(static_cast<std::size_t>(view.elements()), -1);
  for_row_runs(pool, view, [&](const RowRun& run) {
    for (std::int64_t i = 0; i < run.rows * run.width; ++i) {
      auto& channel = channels[static_cast<std::size_t>(run.offset + i)];
      ASSERT_EQ(channel, -1);
      channel = static_cast<int>(run.channel + i % run.width);
    }
  });
  for (std::int64_t i = 0; i < view.elements(); ++i) {
    ASSERT_EQ(channels[static_cast<std::size_t>(i)], channel_of(view, i));
  }
}

TEST_P(RowRuns, SumsAreRightAndTheSameWithAnyNumberOfThreads) {
  const FeatureView view = GetParam();
  const std::vector<float> x = hashed(view.elements(), 0);
  std::vector<double> want(static_cast<std::size_t>(view.channels()), 0);
  for (std::int64_t i = 0; i < view.elements(); ++i) {
    want[static_cast<std::size_t>(channel_of(view, i))] += double{x[static_cast<std::size_t>(i)]};
  }
  std::vector<std::vector<double>> sums;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    sums.push_back(reduce_rows(pool, view, 1, [&](const RowRun& run, double* to) {
      kernels::column_sums(x.data() + run.offset, run.rows, run.width, to);
    }));
    EXPECT_EQ(sums.back(), sums.front());
  }
  for (std::size_t c = 0; c < want.size(); ++c) {
    EXPECT_NEAR(sums[0][c], want[c], 1e-15 * static_cast<double>(view.rows()));
  }
}

// A mean a thousand deviations from zero costs no digits of the variance.
TEST_P(RowRuns, MomentsAreFloat64Accurate) {
  const FeatureView view = GetParam();
  ThreadPool pool(2);
  const std::vector<float> x = hashed(view.elements(), 1000);
  std::vector<double> mean(static_cast<std::size_t>(view.channels()), 0), m2(mean);
  const auto rows = static_cast<double>(view.rows());
  for (std::int64_t i = 0; i < view.elements(); ++i) {
    mean[static_cast<std::size_t>(channel_of(view, i))] +=
        double{x[static_cast<std::size_t>(i)]} / rows;
  }
  for (std::int64_t i = 0; i < view.elements(); ++i) {
    const auto c = static_cast<std::size_t>(channel_of(view, i));
    m2[c] += std::pow(double{x[static_cast<std::size_t>(i)]} - mean[c], 2);
  }
  const ColumnMoments got = column_moments(pool, view, x.data());
  EXPECT_EQ(got.count, view.rows());
  for (std::size_t c = 0; c < mean.size(); ++c) {
    EXPECT_NEAR(got.mean[c], mean[c], 1e-9);
    EXPECT_NEAR(got.m2[c], m2[c], 1e-9 * m2[c] + 1e-9);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Views, RowRuns,
    testing::Values(FeatureView{.positions = 40000, .width = 5},  // many rows
                    FeatureView{.positions = 3, .width = 40001},  // long rows
                    FeatureView{.images = 7, .blocks = 3, .positions = 5000, .width = 8},
                    FeatureView{.images = 501, .blocks = 2, .positions = 49, .width = 16},
                    FeatureView{.images = 2, .blocks = 7, .positions = 9000, .width = 1},
                    FeatureView{}));

TEST(FeatureView, FollowsTheLayouts) {
  EXPECT_EQ(feature_view({4, 6}, 0), (FeatureView{.positions = 4, .width = 6}));
  EXPECT_EQ(feature_view({2, 16, 3, 5}, 0), (FeatureView{.positions = 30, .width = 16}));
  EXPECT_EQ(feature_view({2, 16, 3, 5}, 8),
            (FeatureView{.images = 2, .blocks = 2, .positions = 15, .width = 8}));
  EXPECT_EQ(feature_view({2, 6, 5}, 0),
            (FeatureView{.images = 2, .blocks = 6, .positions = 5, .width = 1}));
}

TEST(FeatureView, ReordersBothWays) {
  const Shape shape = {2, 16, 3, 5};
  ThreadPool pool(2);
  const std::vector<float> ordered = hashed(480, 0);
  for (const int block : {0, 8}) {
    std::vector<float> stored(ordered.size()), back(ordered.size());
    from_onnx_order(pool, shape, block, ordered.data(), stored.data());
    const std::size_t width = block == 0 ? 16 : 8;
    for (std::size_t n = 0; n < 2; ++n) {
      for (std::size_t c = 0; c < 16; ++c) {
        for (std::size_t p = 0; p < 15; ++p) {
          const std::size_t at = ((n * (16 / width) + c / width) * 15 + p) * width + c % width;
          ASSERT_EQ(stored[at], ordered[(n * 16 + c) * 15 + p]);
        }
      }
    }
    to_onnx_order(pool, shape, block, stored.data(), back.data());
    EXPECT_EQ(back, ordered);
    to_onnx_order(pool, shape, block, stored.data(), back.data(), true);
    EXPECT_EQ(back[7], ordered[7] + ordered[7]);
  }
}

}  // namespace
}  // namespace tempo
