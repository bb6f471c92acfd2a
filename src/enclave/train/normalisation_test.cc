#include "enclave/train/normalisation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "enclave/train/test_files.h"

namespace tempo {
namespace {

// Values as the model would see them without normalisation, by sample and channel.
double value_at(const Dataset& data, std::int64_t sample, std::int64_t index) {
  if (data.type() == ValueType::kUint8) {
    return std::to_integer<int>(data.sample(sample)[index]) / 255.0;
  }
  float v;
  std::memcpy(&v, data.sample(sample) + index * 4, 4);
  return static_cast<double>(v);
}

void expect_matches_oracle(const Dataset& data, const Normalisation& got) {
  const std::int64_t plane = data.shape().height * data.shape().width;
  for (std::int64_t c = 0; c < data.shape().channels; ++c) {
    double sum = 0;
    for (std::int64_t i = 0; i < data.size(); ++i) {
      for (std::int64_t j = 0; j < plane; ++j) sum += value_at(data, i, c * plane + j);
    }
    const double count = static_cast<double>(data.size() * plane);
    const double mean = sum / count;
    double squares = 0;
    for (std::int64_t i = 0; i < data.size(); ++i) {
      for (std::int64_t j = 0; j < plane; ++j) {
        const double d = value_at(data, i, c * plane + j) - mean;
        squares += d * d;
      }
    }
    const double deviation = std::sqrt(squares / count);
    const auto at = static_cast<std::size_t>(c);
    // float64 sums, one rounding to float32: half an ulp, and a little for the sums.
    EXPECT_NEAR(got.mean[at], mean, std::abs(mean) * 1e-7 + 1e-9);
    EXPECT_NEAR(got.deviation[at], deviation, deviation * 1e-7 + 1e-9);
  }
}

Dataset make_data(SampleShape shape, ValueType type, std::int64_t count,
                  const std::function<double(std::int64_t)>& value) {
  test::Bytes bytes;
  for (std::int64_t i = 0; i < count * shape.elements(); ++i) {
    if (type == ValueType::kUint8) {
      bytes.push_back(static_cast<std::byte>(static_cast<int>(value(i))));
    } else {
      test::append_values(bytes, std::vector<float>{static_cast<float>(value(i))});
    }
  }
  std::vector<Dataset::Part> parts(1);
  parts[0] = {std::move(bytes), 0, static_cast<std::size_t>(shape.elements()) * value_bytes(type),
              count};
  return {"x", shape, type, std::move(parts)};
}

TEST(Normalisation, ComputedFromUint8AndFloat32) {
  ThreadPool pool(2);
  const SampleShape shape{3, 4, 5, true};
  const auto bytes = make_data(shape, ValueType::kUint8, 1100,
                               [](std::int64_t i) { return static_cast<double>(i * 7919 % 251); });
  const auto from_bytes = make_normalisation({}, bytes, pool);
  ASSERT_TRUE(from_bytes.ok());
  expect_matches_oracle(bytes, *from_bytes);
  EXPECT_EQ(from_bytes->origin, "x");
  // A mean far above the deviation must not cancel the squares away.
  const auto floats = make_data(shape, ValueType::kFloat32, 600, [](std::int64_t i) {
    return 4096.0 + static_cast<double>(i % 13) / 16.0;
  });
  const auto from_floats = make_normalisation({}, floats, pool);
  ASSERT_TRUE(from_floats.ok());
  expect_matches_oracle(floats, *from_floats);
}

TEST(Normalisation, SameWithAnyNumberOfThreads) {
  const auto data = make_data(SampleShape::row(9), ValueType::kFloat32, 2000,
                              [](std::int64_t i) { return std::sin(static_cast<double>(i)); });
  ThreadPool one(1);
  ThreadPool three(3);
  const auto a = make_normalisation({}, data, one);
  const auto b = make_normalisation({}, data, three);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->mean, b->mean);
  EXPECT_EQ(a->deviation, b->deviation);
}

TEST(Normalisation, ConstantChannelHasDeviationOne) {
  ThreadPool pool(1);
  const auto data =
      make_data(SampleShape::row(3), ValueType::kFloat32, 7, [](std::int64_t) { return 0.1; });
  const auto got = make_normalisation({}, data, pool);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->deviation[0], 1.0F);
  EXPECT_EQ(got->mean[0], 0.1F);
}

TEST(Normalisation, ConstantByteHasDeviationOneWhateverItIs) {
  ThreadPool pool(1);
  for (int byte = 0; byte < 256; ++byte) {
    const auto data =
        make_data({1, 28, 28, true}, ValueType::kUint8, 3, [&](std::int64_t) { return byte; });
    const auto got = make_normalisation({}, data, pool);
    ASSERT_TRUE(got.ok());
    EXPECT_EQ(got->deviation[0], 1.0F) << byte;
    EXPECT_FLOAT_EQ(got->mean[0], static_cast<float>(byte) / 255) << byte;
  }
}

TEST(Normalisation, NumbersSurviveTheirText) {
  const std::vector<float> values{0.1F, -3.0e-30F, 16777216.0F};
  const auto parsed = parse_numbers(numbers_text(values), "key");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*parsed, values);
  for (const char* damaged : {"", ",", "1,", ",1", "1;2", "1,two", "1 "}) {
    const auto refused = parse_numbers(damaged, "key");
    ASSERT_FALSE(refused.ok()) << damaged;
    EXPECT_EQ(refused.error().code, ErrorCode::kBadModel);
  }
}

TEST(Normalisation, GivenValues) {
  ThreadPool pool(1);
  const auto data =
      make_data({3, 1, 1, true}, ValueType::kUint8, 1, [](std::int64_t) { return 1; });
  DataSpec spec;
  spec.mean = {0.5F};
  spec.deviation = {1, 2, 3};
  const auto got = make_normalisation(spec, data, pool);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->mean, (std::vector<float>{0.5F, 0.5F, 0.5F}));
  EXPECT_EQ(got->deviation, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(got->origin, "given");

  const auto refused = [&](std::vector<float> mean, std::vector<float> deviation) {
    DataSpec bad;
    bad.mean = std::move(mean);
    bad.deviation = std::move(deviation);
    const auto result = make_normalisation(bad, data, pool);
    return !result.ok() && result.error().code == ErrorCode::kUsage;
  };
  EXPECT_TRUE(refused({0, 0}, {1}));
  EXPECT_TRUE(refused({0}, {}));
  EXPECT_TRUE(refused({}, {1}));
  EXPECT_TRUE(refused({0}, {0}));
  EXPECT_TRUE(refused({0}, {-1}));
  EXPECT_TRUE(refused({std::nanf("")}, {1}));
  EXPECT_TRUE(refused({0}, {INFINITY}));
}

}  // namespace
}  // namespace tempo
