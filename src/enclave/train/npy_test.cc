#include "enclave/train/npy.h"

#include <gtest/gtest.h>

#include <limits>

#include "enclave/train/test_files.h"

namespace tempo {
namespace {

using test::Bytes;
using test::bytes_of;
using test::npy_dict;
using test::npy_file;

TEST(Npy, ReadsBothVersionsAndEveryType) {
  for (const int version : {1, 2}) {
    const auto f4 = npy_file(npy_dict("<f4", "(2, 3)"), std::vector<float>(6), version);
    const auto array = parse_npy("x.npy", f4);
    ASSERT_TRUE(array.ok()) << array.error().one_line();
    EXPECT_EQ(array->type, NpyType::kFloat32);
    EXPECT_EQ(array->shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(array->offset + 24, f4.size());
  }
  const auto u1 = parse_npy("x", npy_file(npy_dict("|u1", "(2,)"), std::vector<std::uint8_t>(2)));
  ASSERT_TRUE(u1.ok());
  EXPECT_EQ(u1->type, NpyType::kUint8);
  const auto i1 = parse_npy("x", npy_file(npy_dict("|i1", "(2,)"), std::vector<std::int8_t>(2)));
  ASSERT_TRUE(i1.ok());
  EXPECT_EQ(i1->type, NpyType::kInt8);
  const auto i4 = parse_npy("x", npy_file(npy_dict("<i4", "(2,)"), std::vector<std::int32_t>(2)));
  ASSERT_TRUE(i4.ok());
  EXPECT_EQ(i4->type, NpyType::kInt32);
  const auto i8 = parse_npy("x", npy_file(npy_dict("<i8", "(2,)"), std::vector<std::int64_t>(2)));
  ASSERT_TRUE(i8.ok());
  EXPECT_EQ(i8->type, NpyType::kInt64);
}

TEST(Npy, AcceptsTheDictInOtherSpellings) {
  for (const std::string_view dict :
       {"{\"shape\":(3,),\"descr\":\"|u1\",\"fortran_order\":False}",
        "  { 'fortran_order' : False , 'shape' : ( 3 , ) , 'descr' : '|u1' }  \n"}) {
    const auto array = parse_npy("x", npy_file(dict, std::vector<std::uint8_t>(3)));
    ASSERT_TRUE(array.ok()) << dict << ": " << array.error().one_line();
    EXPECT_EQ(array->shape, (std::vector<std::int64_t>{3}));
  }
}

TEST(Npy, WritesWhatItReads) {
  const std::vector<float> values{1, -2, 3.5F, 4, 5, 6};
  const Bytes file = write_npy(values, std::vector<std::int64_t>{2, 3});
  const auto array = parse_npy("p.npy", file);
  ASSERT_TRUE(array.ok()) << array.error().one_line();
  EXPECT_EQ(array->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(array->offset % 64, 0U);
  EXPECT_EQ(std::memcmp(file.data() + array->offset, values.data(), 24), 0);
}

struct BadCase {
  const char* title;
  Bytes bytes;
  const char* what;  // must stand in the message
};

TEST(Npy, RefusesBadFiles) {
  const std::vector<std::uint8_t> three(3);
  Bytes no_header = bytes_of("\x93NUMPY");
  Bytes short_header = bytes_of(std::string_view("\x93NUMPY\x01\x00\x80\x00{", 11));
  Bytes long_header = npy_file(npy_dict("|u1", "(3,)") + std::string(5000, ' '), three);
  Bytes huge_header = bytes_of(std::string_view("\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'", 20));
  const BadCase cases[] = {
      {"empty", {}, "not a .npy file"},
      {"text", bytes_of("hello, world"), "not a .npy file"},
      {"magic only", no_header, "truncated"},
      {"version 3", npy_file(npy_dict("|u1", "(3,)"), three, 3), "version"},
      {"header cut off", short_header, "truncated"},
      {"header too long", long_header, "oversized"},
      {"header of 4 GiB", huge_header, "oversized"},
      {"no dict", npy_file("[]", three), "malformed"},
      {"key missing", npy_file("{'descr': '|u1', 'shape': (3,)}", three), "malformed"},
      {"key twice",
       npy_file("{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", three),
       "malformed"},
      {"unknown key",
       npy_file("{'descr': '|u1', 'fortran_order': False, 'shape': (3,), 'x': 1}", three),
       "malformed"},
      {"text after the dict", npy_file(npy_dict("|u1", "(3,)") + "x", three), "malformed"},
      {"string without end", npy_file("{'descr", three), "malformed"},
      {"not a tuple", npy_file(npy_dict("|u1", "(3)"), three), "malformed"},
      {"negative dimension", npy_file(npy_dict("|u1", "(-3,)"), three), "malformed"},
      {"dimension beyond 64 bits", npy_file(npy_dict("|u1", "(99999999999999999999,)"), three),
       "malformed"},
      {"nine dimensions", npy_file(npy_dict("|u1", "(3,1,1,1,1,1,1,1,1)"), three), "malformed"},
      {"Fortran order", npy_file("{'descr': '|u1', 'fortran_order': True, 'shape': (3,)}", three),
       "order"},
      {"big-endian", npy_file(npy_dict(">f4", "(1,)"), std::vector<float>(1)), "type"},
      {"float64", npy_file(npy_dict("<f8", "(1,)"), std::vector<double>(1)), "type"},
      {"objects", npy_file(npy_dict("|O", "(1,)"), std::vector<double>(1)), "type"},
      {"empty dimension", npy_file(npy_dict("|u1", "(3, 0)"), three), "empty dimension 1"},
      {"truncated", npy_file(npy_dict("|u1", "(2, 2)"), three), "truncated"},
      {"partial value", npy_file(npy_dict("<f4", "(1,)"), three), "truncated"},
      {"left over", npy_file(npy_dict("|u1", "(2,)"), three), "left over"},
      {"left over, less than a value",
       npy_file(npy_dict("<i4", "(1,)"), std::vector<std::uint8_t>(5)), "left over"},
      {"product beyond 64 bits", npy_file(npy_dict("|u1", "(4294967296, 4294967296, 3)"), three),
       "truncated"},
  };
  for (const BadCase& bad : cases) {
    const auto array = parse_npy("x.npy", bad.bytes);
    ASSERT_FALSE(array.ok()) << bad.title;
    EXPECT_EQ(array.error().code, ErrorCode::kBadData) << bad.title;
    EXPECT_NE(array.error().what.find(bad.what), std::string::npos)
        << bad.title << ": " << array.error().one_line();
    EXPECT_EQ(array.error().where, "x.npy") << bad.title;
    EXPECT_FALSE(array.error().next_step.empty()) << bad.title;
  }
}

template <class T>
Result<std::vector<std::int32_t>> labels_of(const char* descr, const std::vector<T>& values) {
  std::string shape = "(";
  shape.append(std::to_string(values.size())).append(",)");
  const auto file = npy_file(npy_dict(descr, shape), values);
  const auto array = parse_npy("y.npy", file);
  EXPECT_TRUE(array.ok());
  return npy_integers("y.npy", *array, file, "label");
}

TEST(Npy, ReadsLabelsOfEveryIntegerType) {
  const std::vector<std::int32_t> expected{3, 0, 127};
  EXPECT_EQ(labels_of<std::int64_t>("<i8", {3, 0, 127}).value(), expected);
  EXPECT_EQ(labels_of<std::int32_t>("<i4", {3, 0, 127}).value(), expected);
  EXPECT_EQ(labels_of<std::int8_t>("|i1", {3, 0, 127}).value(), expected);
  EXPECT_EQ(labels_of<std::uint8_t>("|u1", {3, 0, 127}).value(), expected);
}

TEST(Npy, RefusesBadLabels) {
  const auto negative = labels_of<std::int64_t>("<i8", {3, 1, -1});
  ASSERT_FALSE(negative.ok());
  EXPECT_EQ(negative.error().where, "y.npy, sample 2");
  EXPECT_EQ(negative.error().got, "-1");
  EXPECT_FALSE(labels_of<std::int64_t>("<i8", {std::int64_t{1} << 32}).ok());
  EXPECT_FALSE(labels_of<std::int64_t>("<i8", {std::numeric_limits<std::int64_t>::min()}).ok());
  EXPECT_FALSE(labels_of<float>("<f4", {1}).ok());
  const auto matrix = npy_file(npy_dict("|i1", "(2, 2)"), std::vector<std::int8_t>{0, 1, 2, -3});
  const auto second = npy_integers("y", parse_npy("y", matrix).value(), matrix, "token");
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().what, "token out of range");
  EXPECT_EQ(second.error().where, "y, sample 1");
}

}  // namespace
}  // namespace tempo
