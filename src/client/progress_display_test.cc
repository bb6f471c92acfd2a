#include "client/progress_display.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace tempo {
namespace {

Progress at_step(std::int64_t step) {
  Progress p;
  p.phase = "training";
  p.epoch = 1;
  p.epochs = 2;
  p.step = step;
  p.steps = 900;
  p.loss = 0.41237;
  p.images_per_second = 311.6;
  p.checks_done = 54;
  p.eta_s = 65.2;
  return p;
}

// What a display writes.
std::string written(ProgressDisplay::Style style,
                    const std::function<void(ProgressDisplay&)>& body) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), std::fclose);
  {
    ProgressDisplay display(file.get(), style);
    body(display);
  }
  std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
  std::rewind(file.get());
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), file.get()), text.size());
  return text;
}

TEST(ProgressLine, SaysWhatIsKnown) {
  EXPECT_EQ(progress_line(at_step(120)),
            "epoch 1/2  step 120/900  loss 0.4124  312 images/s  checks 54 (0 failed)  ETA 1:05");
  Progress p = at_step(900);
  p.accuracy = 0.8612;
  p.phase = "evaluating";
  p.eta_s = 3725;
  EXPECT_EQ(progress_line(p),
            "evaluating  epoch 1/2  step 900/900  accuracy 86.12 %  312 images/s  "
            "checks 54 (0 failed)");
  p.top5_accuracy = 0.99;
  EXPECT_NE(progress_line(p).find("accuracy 86.12 %  top-5 99.00 %  312"), std::string::npos);
  Progress regression = at_step(120);
  regression.mean_absolute_error = 0.0123456;
  EXPECT_NE(progress_line(regression).find("loss 0.4124  mean absolute error 0.01235  312"),
            std::string::npos);
  EXPECT_EQ(progress_line({}), "");
}

TEST(ProgressDisplay, WritesFewLinesWhereThereIsNoTerminal) {
  const std::string text = written(ProgressDisplay::Style::kLines, [](ProgressDisplay& display) {
    for (int step = 1; step <= 900; ++step) display.show(at_step(step));
  });
  // The first and the last step; one more for every five seconds that the loop might take.
  EXPECT_TRUE(text.starts_with("epoch 1/2  step 1/900"));
  EXPECT_NE(text.find("step 900/900"), std::string::npos);
  EXPECT_LT(text.size(), 40 * 100U);
  EXPECT_EQ(text.find('\r'), std::string::npos);
}

TEST(ProgressDisplay, RenewsOneLineOnATerminal) {
  const std::string text = written(ProgressDisplay::Style::kTerminal, [](ProgressDisplay& display) {
    display.show(at_step(1));
    display.show(at_step(900));
  });
  EXPECT_TRUE(text.starts_with("\r\033[K"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(ProgressDisplay, ANoticeIsALineOfItsOwn) {
  const std::string text = written(ProgressDisplay::Style::kTerminal, [](ProgressDisplay& display) {
    display.show(at_step(1));
    Progress p = at_step(2);  // not due
    p.notice = "integrity: 3 rounds\033[2J";
    display.show(p);
  });
  EXPECT_NE(text.find("\r\033[Kintegrity: 3 rounds [2J\n"), std::string::npos) << text;
}

TEST(ProgressDisplay, WarningsAreNeverLostAndCarryNoControlCharacters) {
  const std::string text = written(ProgressDisplay::Style::kLines, [](ProgressDisplay& display) {
    display.show(at_step(1));
    Progress p = at_step(2);  // not due
    p.message = "worker 1 is lost\033[2J";
    display.show(p);
  });
  EXPECT_NE(text.find("tempo: warning: worker 1 is lost [2J\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace tempo
