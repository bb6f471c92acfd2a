// Errors and progress as the job API carries them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "wire/error_json.h"
#include "wire/progress.h"

namespace tempo {
namespace {

TEST(ErrorJson, CarriesEveryMember) {
  const Error error = {ErrorCode::kBadData, "a", "b", "c", "d \xff\x01", "e"};
  const auto back = error_from_json(error_to_json(error));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->code, error.code);
  EXPECT_EQ(back->what, "a");
  EXPECT_EQ(back->where, "b");
  EXPECT_EQ(back->expected, "c");
  EXPECT_EQ(back->got.substr(0, 2), "d ");  // invalid UTF-8 is replaced, never refused
  EXPECT_EQ(back->next_step, "e");
}

TEST(ErrorJson, KnowsEveryCode) {
  for (int code = 1; code <= static_cast<int>(ErrorCode::kIo); ++code) {
    const auto value = static_cast<ErrorCode>(code);
    EXPECT_EQ(error_code_from_name(error_code_name(value)), value);
  }
  EXPECT_EQ(error_code_from_name("no such name"), ErrorCode::kInternal);
}

TEST(ErrorJson, RefusesOtherText) {
  for (const char* text : {"", "{", "[]", "{}", R"({"code": "usage"})"}) {
    EXPECT_FALSE(error_from_json(text)) << text;
  }
}

TEST(ProgressJson, CarriesEveryMember) {
  const Progress p = {"training", 2,     3,    41,    90,   0.625, 0.75,       0.875,
                      1.125,      123.5, 0.25, 17.25, 1000, 1,     "3 rounds", "worker 1 lost",
                      {}};
  const auto back = progress_from_json(progress_to_json(p));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->phase, p.phase);
  EXPECT_EQ(back->epoch, p.epoch);
  EXPECT_EQ(back->epochs, p.epochs);
  EXPECT_EQ(back->step, p.step);
  EXPECT_EQ(back->steps, p.steps);
  EXPECT_EQ(back->loss, p.loss);
  EXPECT_EQ(back->accuracy, p.accuracy);
  EXPECT_EQ(back->top5_accuracy, p.top5_accuracy);
  EXPECT_EQ(back->mean_absolute_error, p.mean_absolute_error);
  EXPECT_EQ(back->images_per_second, p.images_per_second);
  EXPECT_EQ(back->eta_s, p.eta_s);
  EXPECT_EQ(back->batch_s, p.batch_s);
  EXPECT_EQ(back->checks_done, p.checks_done);
  EXPECT_EQ(back->checks_failed, p.checks_failed);
  EXPECT_EQ(back->notice, p.notice);
  EXPECT_EQ(back->message, p.message);
}

TEST(ProgressJson, TellsWhatWasRefused) {
  const TamperRecord tamper = {"forward", 2, 64, 128, 0, 16, 64, 3, 4, 0.25, 1e-4};
  Progress p;
  p.refused.push_back({1, "conv1", 17, tamper});
  p.refused.push_back({0, "conv2", 18, tamper});
  p.refused[1].tamper.deviation = std::numeric_limits<double>::infinity();
  const auto json = nlohmann::json::parse(progress_to_json(p)).at("refused");
  EXPECT_EQ(json.at(0), nlohmann::json::parse(R"({"worker": 1, "operator": "conv1", "step": 17,
      "product": "forward", "instance": 2, "positions": [64, 128], "out_features": [0, 16],
      "rows": 64, "refused_rows": 3, "rounds": 4, "deviation": 0.25, "tolerance": 0.0001})"));
  EXPECT_TRUE(json.at(1).at("deviation").is_null());
}

TEST(TamperText, SaysItInALine) {
  const TamperRecord tamper = {"forward", 2, 64, 128, 0, 16, 64, 3, 4, 0.25, 1e-4};
  EXPECT_EQ(tamper_text(tamper),
            "forward product, instance 2, positions 64 to 127 by out-features 0 to 15: 3 of 64 "
            "rows off by up to 0.25 of the rms, where 0.0001 is allowed");
}

TEST(ProgressJson, ToleratesOtherTypes) {
  const auto p = progress_from_json(R"({"phase": 1, "step": -4, "loss": "x", "epoch": 2})");
  ASSERT_TRUE(p);
  EXPECT_EQ(p->phase, "");
  EXPECT_EQ(p->step, 0);
  EXPECT_EQ(p->loss, 0);
  EXPECT_EQ(p->epoch, 2);
  EXPECT_FALSE(progress_from_json("3"));
  EXPECT_FALSE(progress_from_json("{"));
}

TEST(ProgressJson, WritesNoNumberForNotANumber) {
  Progress p;
  p.loss = std::nan("");
  EXPECT_NE(progress_to_json(p).find("\"loss\":null"), std::string::npos);
}

}  // namespace
}  // namespace tempo
