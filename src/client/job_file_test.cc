#include "client/job_file.h"

#include <gtest/gtest.h>

#include <map>

namespace tempo {
namespace {

TEST(JobFile, ReadsEveryKindOfValue) {
  const auto entries = parse_job_file(
      "model = \"m.onnx\"\nbatch = 64 # comment\nlr = 0.1\nkey_real = true\n"
      "mean = [0.5, 1]\naugment = ['crop', 'flip']\nempty = []\n",
      "j.toml");
  ASSERT_TRUE(entries.ok()) << entries.error().one_line();
  std::map<std::string, JobFileEntry> by_key;
  for (const JobFileEntry& entry : *entries) by_key[entry.key] = entry;
  ASSERT_EQ(by_key.size(), 6U);
  EXPECT_EQ(by_key["model"].values, std::vector<std::string>{"m.onnx"});
  EXPECT_EQ(by_key["batch"].values, std::vector<std::string>{"64"});
  EXPECT_EQ(by_key["batch"].kind, JobFileEntry::Kind::kNumber);
  EXPECT_EQ(by_key["lr"].values, std::vector<std::string>{"0.1"});
  EXPECT_EQ(by_key["key_real"].kind, JobFileEntry::Kind::kBoolean);
  EXPECT_TRUE(by_key["key_real"].is_true());
  EXPECT_EQ(by_key["mean"].values, (std::vector<std::string>{"0.5", "1"}));
  EXPECT_EQ(by_key["augment"].values, (std::vector<std::string>{"crop", "flip"}));
}

struct BadFile {
  const char* text;
  const char* where;
};

class BadJobFiles : public testing::TestWithParam<BadFile> {};

TEST_P(BadJobFiles, SayWhere) {
  const auto entries = parse_job_file(GetParam().text, "j.toml");
  ASSERT_FALSE(entries.ok());
  EXPECT_EQ(entries.error().code, ErrorCode::kUsage);
  EXPECT_EQ(entries.error().where, GetParam().where);
}

INSTANTIATE_TEST_SUITE_P(All, BadJobFiles,
                         testing::Values(BadFile{"a = 1\nb =\n", "j.toml:2"},
                                         BadFile{"a = 1\na = 2\n", "j.toml:2"},
                                         BadFile{"[data]\nformat = 'npy'\n", "j.toml: data"},
                                         BadFile{"when = 1979-05-27\n", "j.toml: when"},
                                         BadFile{"mean = [[1]]\n", "j.toml: mean"},
                                         BadFile{"mean = [true]\n", "j.toml: mean"}));

TEST(JobFile, TakesAnyCharacterInTextAndRefusesItElsewhere) {
  const auto entries = parse_job_file("model = 'm\u00f6del\u0183.onnx'\n", "j.toml");
  ASSERT_TRUE(entries.ok()) << entries.error().one_line();
  EXPECT_EQ(entries->front().values.front(), "m\u00f6del\u0183.onnx");
  EXPECT_FALSE(parse_job_file("\u0183\n", "j.toml").ok());
  EXPECT_FALSE(parse_job_file("\"\u0183\u0183", "j.toml").ok());
}

TEST(JobFile, RefusesAFileThatIsTooLong) {
  EXPECT_FALSE(parse_job_file(std::string(kMaxJobFileBytes + 1, '#'), "j.toml").ok());
}

}  // namespace
}  // namespace tempo
