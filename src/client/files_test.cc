// Input, output and data files.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>

#include "client/data_files.h"
#include "client/input_file.h"
#include "client/output_file.h"
#include "client/temporary_directory.h"

namespace tempo {
namespace {

std::string gzip(const std::string& text) {
  const TemporaryDirectory directory;
  const gzFile file = ::gzopen(directory.file("x").c_str(), "wb");
  ::gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  ::gzclose(file);
  return directory.read("x");
}

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(OutputFile, ReplacesAFileAndLeavesNothingElse) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("m.onnx", "old");
  ASSERT_TRUE(check_writable(path).ok());
  EXPECT_EQ(directory.read("m.onnx"), "old");
  ASSERT_TRUE(write_file(path, "new").ok());
  EXPECT_EQ(directory.read("m.onnx"), "new");
  EXPECT_EQ(directory.entries(), 1U);
}

TEST(OutputFile, RefusesPathsThatCannotBeWritten) {
  const TemporaryDirectory directory;
  for (const std::string& path : {directory.path(), directory.file("missing/m.onnx"), std::string(),
                                  std::string("/proc/nothing/m.onnx")}) {
    const Status status = check_writable(path);
    ASSERT_FALSE(status.ok()) << path;
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    EXPECT_FALSE(write_file(path, "x").ok());
  }
  EXPECT_EQ(directory.entries(), 0U);
}

TEST(OutputFile, WritesIntoADeviceInsteadOfReplacingIt) {
  ASSERT_TRUE(check_writable("/dev/null").ok());
  ASSERT_TRUE(write_file("/dev/null", "x").ok());
  struct stat info = {};
  ASSERT_EQ(::stat("/dev/null", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
}

TEST(InputFile, ReadsWithinTheLimit) {
  const TemporaryDirectory directory;
  const std::string content(3'000'000, 'x');
  const std::string path = directory.write("f", content);
  EXPECT_EQ(text_of(*read_file(path, content.size())), content);
  const auto too_long = read_file(path, content.size() - 1);
  ASSERT_FALSE(too_long.ok());
  EXPECT_EQ(too_long.error().code, ErrorCode::kBadData);
}

TEST(InputFile, RefusesWhatIsNoFile) {
  const TemporaryDirectory directory;
  const std::string pipe = directory.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path : {directory.path(), directory.file("missing"), pipe}) {
    EXPECT_EQ(check_readable(path).error().code, ErrorCode::kNotFound) << path;
    EXPECT_FALSE(read_file(path, 100).ok());
    EXPECT_FALSE(read_gzip_file(path, 100).ok());
  }
}

TEST(InputFile, UnpacksGzipWithinTheLimit) {
  const TemporaryDirectory directory;
  const std::string content(5'000'000, '\0');  // packs to about 5 kB
  const std::string path = directory.write("f.gz", gzip(content));
  EXPECT_EQ(text_of(*read_gzip_file(path, content.size())), content);
  EXPECT_FALSE(read_gzip_file(path, 1'000'000).ok());
}

TEST(InputFile, RefusesDamagedGzip) {
  const TemporaryDirectory directory;
  std::string packed = gzip("some text that is long enough to be cut and bent");
  const auto expect_bad = [&](const std::string& bytes) {
    const auto read = read_gzip_file(directory.write("f.gz", bytes), 1000);
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(read.error().code, ErrorCode::kBadData);
  };
  expect_bad(packed.substr(0, packed.size() - 6));
  packed[packed.size() - 7] = static_cast<char>(packed[packed.size() - 7] ^ 1);  // of the check sum
  expect_bad(packed);
}

TEST(DataFiles, FindsFashionMnistPackedOrNot) {
  const TemporaryDirectory directory;
  directory.write("train-images-idx3-ubyte.gz", gzip("a"));
  const auto half = find_data("fashion-mnist:" + directory.path(), JobKind::kTrain);
  ASSERT_FALSE(half.ok());
  EXPECT_EQ(half.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(half.error().where, directory.file("train-labels-idx1-ubyte.gz"));
  directory.write("train-labels-idx1-ubyte", "b");
  const auto source = find_data("fashion-mnist:" + directory.path(), JobKind::kTrain);
  ASSERT_TRUE(source.ok()) << source.error().one_line();
  EXPECT_EQ(source->format, "fashion-mnist");
  ASSERT_EQ(source->files.size(), 2U);
  EXPECT_EQ(text_of(load_data_file(source->files[0])->bytes), "a");
  EXPECT_EQ(text_of(load_data_file(source->files[1])->bytes), "b");
}

TEST(DataFiles, FindsCifarAlsoInItsOwnDirectory) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory.file("cifar-10-batches-bin"));
  directory.write("cifar-10-batches-bin/data_batch_2.bin", "x");
  const auto source = find_data("cifar10:" + directory.path(), JobKind::kTrain);
  ASSERT_TRUE(source.ok());
  ASSERT_EQ(source->files.size(), 1U);
  EXPECT_EQ(source->files[0].name, "data_batch_2.bin");
}

TEST(DataFiles, NamesNpyFilesByTheirPlace) {
  const TemporaryDirectory directory;
  const std::string a = directory.write("a.npy", "");
  const auto count = [&](const std::string& spec, JobKind kind) {
    const auto source = find_data(spec, kind);
    return source.ok() ? source->files.size() : 0;
  };
  EXPECT_EQ(count("npy:" + a + "," + a, JobKind::kTrain), 2U);
  EXPECT_EQ(count("npy:" + a + "," + a + "," + a + "," + a, JobKind::kTrain), 4U);
  EXPECT_EQ(count("npy:" + a, JobKind::kInfer), 1U);
  EXPECT_EQ(count("npy:" + a, JobKind::kTrain), 0U);
  EXPECT_EQ(count("npy:" + a + "," + a + "," + a, JobKind::kTrain), 0U);
  EXPECT_EQ(count("npy:" + a + "," + a + "," + a + "," + a + "," + a, JobKind::kTrain), 0U);
  EXPECT_EQ(count("npy:" + a + ",," + a, JobKind::kTrain), 0U);
  EXPECT_EQ(find_data("npy:" + a + "," + a, JobKind::kTrain)->files[1].name, "y.npy");
  // Several inputs.
  std::vector<std::string> names;
  const std::string both = a + "+" + a;
  const auto source = find_data("npy:" + both + "," + a + "," + both + "," + a, JobKind::kTrain);
  ASSERT_TRUE(source.ok());
  for (const DataFile& file : source->files) {
    names.push_back(file.name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"x.npy", "x2.npy", "y.npy", "x_test.npy",
                                             "x2_test.npy", "y_test.npy"}));
  EXPECT_EQ(count("npy:" + both + "+" + both + "+" + a + "," + a, JobKind::kTrain), 0U);
  EXPECT_EQ(count("npy:" + a + "++" + a + "," + a, JobKind::kTrain), 0U);
}

TEST(DataFiles, RefusesOtherSpecs) {
  for (const char* spec : {"", "mnist", "cifar10", "cifar10:", "npy", "npy:", ":"}) {
    const auto source = find_data(spec, JobKind::kTrain);
    ASSERT_FALSE(source.ok()) << spec;
    EXPECT_EQ(source.error().code, ErrorCode::kUsage) << spec;
  }
  EXPECT_EQ(find_data("cifar10:/nonexistent", JobKind::kTrain).error().code, ErrorCode::kNotFound);
}

TEST(DataFiles, EveryNameIsOneOfTheApi) {
  const auto names = data_file_names();
  for (const char* format : {"fashion-mnist", "cifar10"}) {
    const TemporaryDirectory directory;
    for (const std::string_view name : names) directory.write(std::string(name), "x");
    const auto source = find_data(std::string(format) + ":" + directory.path(), JobKind::kTrain);
    ASSERT_TRUE(source.ok());
    EXPECT_EQ(source->files.size(), format[0] == 'f' ? 4U : 6U);
    for (const DataFile& file : source->files) {
      EXPECT_NE(std::find(names.begin(), names.end(), file.name), names.end()) << file.name;
    }
  }
}

}  // namespace
}  // namespace tempo
