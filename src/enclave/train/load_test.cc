#include "enclave/train/load.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <array>
#include <filesystem>
#include <limits>

#include "enclave/train/batcher.h"
#include "enclave/train/normalisation.h"
#include "enclave/train/test_files.h"

namespace tempo {
namespace {

using test::Bytes;
using test::cifar_file;
using test::idx_file;
using test::npy_dict;
using test::npy_file;

Result<Datasets> load(const char* format, std::vector<NamedFile> files) {
  DataSpec spec;
  spec.format = format;
  return load_datasets(spec, std::move(files));
}

// Two 2 x 3 images.
Bytes two_images() {
  return idx_file({2, 2, 3}, {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15});
}

TEST(Load, FashionMnist) {
  const auto data = load("fashion-mnist", {{"train-images-idx3-ubyte", two_images()},
                                           {"train-labels-idx1-ubyte", idx_file({2}, {9, 4})},
                                           {"t10k-images-idx3-ubyte", two_images()},
                                           {"t10k-labels-idx1-ubyte", idx_file({2}, {0, 1})}});
  ASSERT_TRUE(data.ok()) << data.error().one_line();
  EXPECT_EQ(data->train.size(), 2);
  EXPECT_EQ(data->train.shape(), (SampleShape{1, 2, 3, true}));
  EXPECT_EQ(data->train.type(), ValueType::kUint8);
  EXPECT_EQ(std::to_integer<int>(data->train.sample(1)[5]), 15);
  EXPECT_EQ(data->train.labels()[0], 9);
  EXPECT_EQ(data->test.size(), 2);
  EXPECT_EQ(data->test.labels()[1], 1);
}

TEST(Load, CifarBatchesOneAfterTheOther) {
  const auto data = load("cifar10", {{"data_batch_4.bin", cifar_file({5, 6})},
                                     {"data_batch_2.bin", cifar_file({1, 2, 3})},
                                     {"test_batch.bin", cifar_file({9})}});
  ASSERT_TRUE(data.ok()) << data.error().one_line();
  ASSERT_EQ(data->train.size(), 5);
  EXPECT_EQ(data->train.source(), "data_batch_2.bin+data_batch_4.bin");
  const std::vector<std::int32_t> labels(data->train.labels().begin(), data->train.labels().end());
  EXPECT_EQ(labels, (std::vector<std::int32_t>{1, 2, 3, 5, 6}));
  EXPECT_EQ(std::to_integer<int>(data->train.sample(2)[7]), 9);  // record 2 of the first file
  EXPECT_EQ(std::to_integer<int>(data->train.sample(4)[7]), 8);  // record 1 of the second
  EXPECT_EQ(data->test.size(), 1);
}

TEST(Load, NpyImagesAndRows) {
  const auto images = load(
      "npy", {{"x.npy", npy_file(npy_dict("|u1", "(2, 1, 2, 2)"), std::vector<std::uint8_t>(8))},
              {"y.npy", npy_file(npy_dict("<i8", "(2,)"), std::vector<std::int64_t>{70, 0})}});
  ASSERT_TRUE(images.ok()) << images.error().one_line();
  EXPECT_EQ(images->train.shape(), (SampleShape{1, 2, 2, true}));
  EXPECT_EQ(images->train.labels()[0], 70);
  EXPECT_TRUE(images->test.empty());

  const auto rows =
      load("npy", {{"x_test.npy", npy_file(npy_dict("<f4", "(2, 3)"), std::vector<float>(6))}});
  ASSERT_TRUE(rows.ok()) << rows.error().one_line();
  EXPECT_TRUE(rows->train.empty());
  EXPECT_EQ(rows->test.shape(), SampleShape::row(3));
  EXPECT_FALSE(rows->test.has_labels());
}

TEST(Load, NpyTargetValues) {
  const Bytes x = npy_file(npy_dict("|u1", "(2, 3)"), std::vector<std::uint8_t>(6));
  for (const char* shape : {"(2,)", "(2, 1)"}) {
    const auto data = load(
        "npy",
        {{"x.npy", x}, {"y.npy", npy_file(npy_dict("<f4", shape), std::vector<float>{-1.5F, 7})}});
    ASSERT_TRUE(data.ok()) << data.error().one_line();
    EXPECT_FALSE(data->train.has_labels());
    ASSERT_TRUE(data->train.has_target_values());
    EXPECT_EQ(data->train.target_width(), 1);
    EXPECT_EQ(data->train.label_source(), "y.npy");
    float value = 0;
    data->train.copy_target_values(1, &value);
    EXPECT_EQ(value, 7.0F);
  }
  const auto rows = load(
      "npy", {{"x_test.npy", x},
              {"y_test.npy", npy_file(npy_dict("<f4", "(2, 2)"), std::vector<float>{1, 2, 3, 4})}});
  ASSERT_TRUE(rows.ok()) << rows.error().one_line();
  EXPECT_EQ(rows->test.target_width(), 2);
  std::array<float, 2> values{};
  rows->test.copy_target_values(1, values.data());
  EXPECT_EQ(values, (std::array<float, 2>{3, 4}));
}

struct BadCase {
  const char* title;
  const char* format;
  std::vector<NamedFile> files;
  const char* message;  // must stand in the line that the user sees
};

TEST(Load, RefusesBadFiles) {
  const Bytes labels = idx_file({2}, {0, 1});
  Bytes cut = two_images();
  cut.pop_back();
  Bytes longer = two_images();
  longer.push_back(std::byte{0});
  Bytes cut_cifar = cifar_file({1});
  cut_cifar.pop_back();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto x_name = "x.npy";
  const BadCase cases[] = {
      {"no files", "cifar10", {}, "no data"},
      {"unknown file", "cifar10", {{"data_batch_6.bin", {}}}, "data_batch_6.bin"},
      {"file twice",
       "cifar10",
       {{"test_batch.bin", cifar_file({1})}, {"test_batch.bin", cifar_file({1})}},
       "twice"},
      {"labels only", "fashion-mnist", {{"train-labels-idx1-ubyte", labels}}, "train-images"},
      {"empty idx", "fashion-mnist", {{"t10k-images-idx3-ubyte", {}}}, "truncated"},
      {"compressed idx",
       "fashion-mnist",
       {{"t10k-images-idx3-ubyte", test::bytes_of("\x1f\x8b\x08 and so on, and so on")}},
       "decompressed"},
      {"idx of floats",
       "fashion-mnist",
       {{"t10k-images-idx3-ubyte", idx_file({1, 1, 1}, {0, 0, 0, 0}, 0x0D)}},
       "expected 8 (unsigned byte), got 13"},
      {"idx of another rank",
       "fashion-mnist",
       {{"t10k-images-idx3-ubyte", idx_file({1, 2, 2, 1}, {0, 0, 0, 0})}},
       "number of dimensions"},
      {"truncated idx", "fashion-mnist", {{"t10k-images-idx3-ubyte", cut}}, "truncated"},
      {"oversized idx", "fashion-mnist", {{"t10k-images-idx3-ubyte", longer}}, "left over"},
      {"idx without samples",
       "fashion-mnist",
       {{"t10k-images-idx3-ubyte", idx_file({0, 28, 28}, {})}},
       "empty dimension 0"},
      {"idx of 2^96 values",
       "fashion-mnist",
       {{"t10k-images-idx3-ubyte", idx_file({0xFFFFFFFFU, 0xFFFFFFFFU, 0xFFFFFFFFU}, {1})}},
       "truncated"},
      {"more labels than images",
       "fashion-mnist",
       {{"t10k-images-idx3-ubyte", two_images()},
        {"t10k-labels-idx1-ubyte", idx_file({3}, {0, 1, 2})}},
       "expected 2 labels, got 3"},
      {"label above 9",
       "fashion-mnist",
       {{"t10k-images-idx3-ubyte", two_images()},
        {"t10k-labels-idx1-ubyte", idx_file({2}, {0, 10})}},
       "sample 1; expected 0..9, got 10"},
      {"truncated record", "cifar10", {{"test_batch.bin", cut_cifar}}, "whole number"},
      {"empty batch", "cifar10", {{"test_batch.bin", {}}}, "whole number"},
      {"label of CIFAR-100",
       "cifar10",
       {{"test_batch.bin", cifar_file({3, 77})}},
       "record 1; expected 0..9, got 77"},
      {"sets of different shape",
       "fashion-mnist",
       {{"train-images-idx3-ubyte", two_images()},
        {"t10k-images-idx3-ubyte", idx_file({1, 1, 1}, {7})}},
       "differ in shape"},
      {"sets of different type",
       "npy",
       {{x_name, npy_file(npy_dict("|u1", "(1, 2)"), std::vector<std::uint8_t>(2))},
        {"x_test.npy", npy_file(npy_dict("<f4", "(1, 2)"), std::vector<float>(2))}},
       "differ in shape or type"},
      {"samples of rank 1",
       "npy",
       {{x_name, npy_file(npy_dict("|u1", "(2,)"), std::vector<std::uint8_t>(2))}},
       "(N,C,H,W) or (N,F)"},
      {"NaN",
       "npy",
       {{x_name, npy_file(npy_dict("<f4", "(2, 2)"), std::vector<float>{0, 0, 0, nan})}},
       "sample 1"},
      {"infinity",
       "npy",
       {{x_name, npy_file(npy_dict("<f4", "(2, 2)"), std::vector<float>{0, -infinity, 0, 0})}},
       "sample 0"},
      {"negative label",
       "npy",
       {{x_name, npy_file(npy_dict("|u1", "(1, 2)"), std::vector<std::uint8_t>(2))},
        {"y.npy", npy_file(npy_dict("|i1", "(1,)"), std::vector<std::int8_t>{-4})}},
       "got -4"},
      {"target value that is not finite",
       "npy",
       {{x_name, npy_file(npy_dict("|u1", "(2, 2)"), std::vector<std::uint8_t>(4))},
        {"y.npy", npy_file(npy_dict("<f4", "(2, 2)"), std::vector<float>{0, 0, nan, 0})}},
       "y.npy, sample 1"},
      {"target values of another number",
       "npy",
       {{x_name, npy_file(npy_dict("|u1", "(2, 2)"), std::vector<std::uint8_t>(4))},
        {"y.npy", npy_file(npy_dict("<f4", "(4,)"), std::vector<float>(4))}},
       "as many labels as samples"},
      {"labels without samples",
       "npy",
       {{"y_test.npy", npy_file(npy_dict("|i1", "(1,)"), std::vector<std::int8_t>{1})}},
       "x_test.npy"},
  };
  for (const BadCase& bad : cases) {
    const auto data = load(bad.format, bad.files);
    ASSERT_FALSE(data.ok()) << bad.title;
    EXPECT_EQ(data.error().code, ErrorCode::kBadData) << bad.title;
    const std::string line = data.error().one_line();
    EXPECT_NE(line.find(bad.message), std::string::npos) << bad.title << ": " << line;
    EXPECT_NE(line.find("next: "), std::string::npos) << bad.title << ": " << line;
  }
}

TEST(Load, UnknownFormatIsAUsageError) {
  const auto data = load("imagenet", {});
  ASSERT_FALSE(data.ok());
  EXPECT_EQ(data.error().code, ErrorCode::kUsage);
}

TEST(Dataset, FitsAModel) {
  const auto data = load(
      "npy", {{"x.npy", npy_file(npy_dict("|u1", "(2, 1, 2, 2)"), std::vector<std::uint8_t>(8))},
              {"y.npy", npy_file(npy_dict("|i1", "(2,)"), std::vector<std::int8_t>{2, 4})}});
  ASSERT_TRUE(data.ok());
  const Dataset& train = data->train;
  const auto image = model_sample_shape({kBatchDim, 1, 2, 2});
  const auto row = model_sample_shape({kBatchDim, 4});
  ASSERT_TRUE(image.ok() && row.ok());
  EXPECT_TRUE(check_fits(train, *image, DataType::kFloat32).ok());
  EXPECT_TRUE(check_fits(train, *row, DataType::kFloat32).ok());
  const Status shape = check_fits(train, {1, 4, 1, true}, DataType::kFloat32);
  ASSERT_FALSE(shape.ok());
  EXPECT_EQ(shape.error().expected, "(N,1,4,1)");
  EXPECT_EQ(shape.error().got, "(N,1,2,2)");
  EXPECT_FALSE(check_fits(train, SampleShape::row(5), DataType::kFloat32).ok());
  EXPECT_EQ(model_sample_shape({kBatchDim, 3, 2}).value(), SampleShape::row(6));
  EXPECT_FALSE(model_sample_shape({kBatchDim}).ok());
  EXPECT_FALSE(model_sample_shape({kBatchDim, kBatchDim}).ok());
}

// Decompresses what the Debian package dataset-fashion-mnist installs.
Bytes gunzip(const std::filesystem::path& path) {
  Bytes bytes;
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return bytes;
  std::vector<std::byte> chunk(1 << 20);
  for (int got = 1; got > 0;) {
    got = gzread(file, chunk.data(), static_cast<unsigned>(chunk.size()));
    if (got > 0) bytes.insert(bytes.end(), chunk.begin(), chunk.begin() + got);
  }
  gzclose(file);
  return bytes;
}

TEST(Load, TheRealFashionMnist) {
  const std::filesystem::path dir = "/usr/share/datasets/fashion-mnist";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  std::vector<NamedFile> files;
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                           "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}) {
    files.push_back({name, gunzip(dir / (std::string(name) + ".gz"))});
  }
  const auto data = load("fashion-mnist", std::move(files));
  ASSERT_TRUE(data.ok()) << data.error().one_line();
  EXPECT_EQ(data->train.size(), 60000);
  EXPECT_EQ(data->test.size(), 10000);
  EXPECT_EQ(data->train.shape(), (SampleShape{1, 28, 28, true}));
  std::array<int, 10> counts{};
  for (const std::int32_t label : data->train.labels()) ++counts[static_cast<std::size_t>(label)];
  for (const int count : counts) EXPECT_EQ(count, 6000);  // the set is balanced
}

// Sequences: tokens, and a label for each of them.
TEST(LoadNpy, TakesTokens) {
  const auto data = load(
      "npy", {{"x.npy", npy_file(npy_dict("<i8", "(2, 3)"),
                                 std::vector<std::int64_t>{1, 2, 3, 4, 5, 70000})},
              {"y.npy",
               npy_file(npy_dict("<i4", "(2, 3)"), std::vector<std::int32_t>{2, 3, 4, 5, 6, 7})}});
  ASSERT_TRUE(data.ok()) << data.error().one_line();
  const Dataset& train = data->train;
  EXPECT_EQ(train.type(), ValueType::kInt32);
  EXPECT_EQ(train.shape(), SampleShape::row(3));
  EXPECT_EQ(train.labels_a_sample(), 3);
  EXPECT_TRUE(check_fits(train, SampleShape::row(3), DataType::kInt64).ok());
  EXPECT_FALSE(check_fits(train, SampleShape::row(3), DataType::kFloat32).ok());
  Targets targets;
  const std::vector<std::uint32_t> samples{1, 0};
  train.targets(samples, targets);
  EXPECT_EQ(targets.labels, (std::vector<std::int32_t>{5, 6, 7, 2, 3, 4}));

  ThreadPool pool(1);
  const auto normalisation = make_normalisation({}, train, pool);
  ASSERT_TRUE(normalisation.ok());
  const auto batcher = Batcher::create(train, *normalisation, SampleLayout::kRows, {}, 0, pool);
  ASSERT_TRUE(batcher.ok());
  std::vector<std::int64_t> tokens(9, -1);
  batcher->fill_ints(samples, tokens);
  EXPECT_EQ(tokens, (std::vector<std::int64_t>{4, 5, 70000, 1, 2, 3, 0, 0, 0}));

  const auto negative = load(
      "npy", {{"x.npy", npy_file(npy_dict("<i8", "(1, 2)"), std::vector<std::int64_t>{1, -2})}});
  ASSERT_FALSE(negative.ok());
  EXPECT_EQ(negative.error().where, "x.npy, sample 0");
}

}  // namespace
}  // namespace tempo
