#include "enclave/train/batcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "enclave/train/test_files.h"

namespace tempo {
namespace {

// Sample s, position i holds (31 s + i) mod 251.
Dataset byte_images(SampleShape shape, std::int64_t count) {
  test::Bytes bytes;
  for (std::int64_t s = 0; s < count; ++s) {
    for (std::int64_t i = 0; i < shape.elements(); ++i) {
      bytes.push_back(static_cast<std::byte>((31 * s + i) % 251));
    }
  }
  std::vector<Dataset::Part> parts(1);
  parts[0] = {std::move(bytes), 0, static_cast<std::size_t>(shape.elements()), count};
  Dataset data("x", shape, ValueType::kUint8, std::move(parts));
  std::vector<std::int32_t> labels(static_cast<std::size_t>(count));
  std::iota(labels.begin(), labels.end(), 100);
  data.set_labels(std::move(labels), "y");
  return data;
}

Normalisation channels(std::size_t count) {
  Normalisation n;
  for (std::size_t c = 0; c < count; ++c) {
    n.mean.push_back(0.25F + 0.125F * static_cast<float>(c));
    n.deviation.push_back(0.5F + static_cast<float>(c));
  }
  return n;
}

TEST(EpochOrder, IsAPermutationThatDependsOnSeedAndEpochAlone) {
  for (const std::int64_t count : {1, 2, 3, 64, 1001}) {
    auto order = epoch_order(7, 3, count);
    EXPECT_EQ(order, epoch_order(7, 3, count));
    if (count > 3) {
      EXPECT_NE(order, epoch_order(7, 4, count));
      EXPECT_NE(order, epoch_order(8, 3, count));
    }
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < order.size(); ++i) ASSERT_EQ(order[i], i);
  }
}

TEST(EpochOrder, IsUniform) {
  // All 24 orders of 4 over 24000 epochs: chi squared with 23 degrees of freedom, 0.999999
  // quantile.
  std::map<std::vector<std::uint32_t>, int> counts;
  for (std::uint32_t epoch = 0; epoch < 24000; ++epoch) ++counts[epoch_order(1, epoch, 4)];
  ASSERT_EQ(counts.size(), 24U);
  double chi = 0;
  for (const auto& [order, count] : counts) chi += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi, 74.0);
}

TEST(AugmentChoice, CoversItsRangeAndRepeats) {
  const Augmentation both{true, true};
  std::set<int> rows;
  std::set<int> cols;
  int flips = 0;
  constexpr int kSamples = 10000;
  for (std::uint32_t s = 0; s < kSamples; ++s) {
    const AugmentChoice choice = augment_choice(both, 5, 2, s);
    rows.insert(choice.offset_y);
    cols.insert(choice.offset_x);
    flips += choice.flip ? 1 : 0;
    const AugmentChoice again = augment_choice(both, 5, 2, s);
    EXPECT_EQ(choice.offset_y, again.offset_y);
    EXPECT_EQ(choice.offset_x, again.offset_x);
    EXPECT_EQ(choice.flip, again.flip);
  }
  EXPECT_EQ(rows, (std::set<int>{-4, -3, -2, -1, 0, 1, 2, 3, 4}));
  EXPECT_EQ(cols, rows);
  EXPECT_NEAR(flips, kSamples / 2, 5 * std::sqrt(kSamples) / 2);  // five standard deviations
  const AugmentChoice none = augment_choice({}, 5, 2, 1);
  EXPECT_TRUE(none.offset_y == 0 && none.offset_x == 0 && !none.flip);
  EXPECT_FALSE(augment_choice({true, false}, 5, 2, 1).flip);
}

// What fill() must write, value by value from the definition.
std::vector<float> oracle(const Dataset& data, const Normalisation& norm, SampleLayout layout,
                          const Augmentation& augmentation, std::uint64_t seed, std::uint32_t epoch,
                          std::span<const std::uint32_t> samples) {
  const SampleShape& shape = data.shape();
  std::vector<float> out(samples.size() * static_cast<std::size_t>(shape.elements()));
  for (std::size_t k = 0; k < samples.size(); ++k) {
    const AugmentChoice choice = augment_choice(augmentation, seed, epoch, samples[k]);
    for (std::int64_t c = 0; c < shape.channels; ++c) {
      for (std::int64_t y = 0; y < shape.height; ++y) {
        for (std::int64_t x = 0; x < shape.width; ++x) {
          // Pad, cut, mirror: position (y, x) of the mirrored cut.
          const std::int64_t cut_x = choice.flip ? shape.width - 1 - x : x;
          const std::int64_t from_y = y + choice.offset_y;
          const std::int64_t from_x = cut_x + choice.offset_x;
          double v = 0;
          if (from_y >= 0 && from_y < shape.height && from_x >= 0 && from_x < shape.width) {
            v = std::to_integer<int>(
                    data.sample(samples[k])[(c * shape.height + from_y) * shape.width + from_x]) /
                255.0;
          }
          const auto channel = static_cast<std::size_t>(c);
          v = (v - static_cast<double>(norm.mean[channel])) /
              static_cast<double>(norm.deviation[channel]);
          const std::int64_t at = layout == SampleLayout::kChannelsLast
                                      ? (y * shape.width + x) * shape.channels + c
                                      : (c * shape.height + y) * shape.width + x;
          out[k * static_cast<std::size_t>(shape.elements()) + static_cast<std::size_t>(at)] =
              static_cast<float>(v);
        }
      }
    }
  }
  return out;
}

TEST(Batcher, WritesWhatTheDefinitionSays) {
  ThreadPool pool(3);
  const SampleShape shape{3, 6, 5, true};
  const Dataset data = byte_images(shape, 20);
  const Normalisation norm = channels(3);
  std::vector<std::uint32_t> samples(17);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    samples[i] = static_cast<std::uint32_t>(i * 7 % 20);
  }
  for (const SampleLayout layout : {SampleLayout::kChannelsLast, SampleLayout::kRows}) {
    for (const Augmentation augmentation : {Augmentation{}, Augmentation{true, false},
                                            Augmentation{false, true}, Augmentation{true, true}}) {
      const auto batcher = Batcher::create(data, norm, layout, augmentation, 11, pool);
      ASSERT_TRUE(batcher.ok());
      std::vector<float> got(samples.size() * 90 + 8, 77.0F);
      batcher->fill(samples, 4, got);
      const auto expected = oracle(data, norm, layout, augmentation, 11, 4, samples);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        // Three float32 roundings of values up to 1 / deviation.
        ASSERT_NEAR(got[i], expected[i], 4 * 0x1p-24 * 3) << i;
      }
      for (std::size_t i = expected.size(); i < got.size(); ++i) ASSERT_EQ(got[i], 0.0F);
    }
  }
}

TEST(Batcher, FloatRows) {
  ThreadPool pool(1);
  test::Bytes bytes{std::byte{1}};  // values need not be aligned
  test::append_values(bytes, std::vector<float>{1, 2, 3, 10, 20, 30});
  std::vector<Dataset::Part> parts(1);
  parts[0] = {std::move(bytes), 1, 12, 2};
  const Dataset data("x", SampleShape::row(3), ValueType::kFloat32, std::move(parts));
  Normalisation norm;
  norm.mean = {2};
  norm.deviation = {4};
  const auto batcher = Batcher::create(data, norm, SampleLayout::kRows, {}, 0, pool);
  ASSERT_TRUE(batcher.ok());
  const std::array<std::uint32_t, 2> samples{1, 0};
  std::vector<float> out(6);
  batcher->fill(samples, 0, out);
  EXPECT_EQ(out, (std::vector<float>{2, 4.5, 7, -0.25, 0, 0.25}));
}

TEST(Batcher, RowsCannotBeAugmented) {
  ThreadPool pool(1);
  const Dataset data = byte_images(SampleShape::row(4), 1);
  const auto batcher =
      Batcher::create(data, channels(1), SampleLayout::kRows, {true, false}, 0, pool);
  ASSERT_FALSE(batcher.ok());
  EXPECT_EQ(batcher.error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tempo
