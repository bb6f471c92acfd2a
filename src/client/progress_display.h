// File: client/progress_display.h
// The progress of a job on stderr: one line that renews itself on a terminal, otherwise a line when
// something begins or ends and every few seconds. Warnings get lines of their own.
// Thread safety: one thread.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>

#include "wire/progress.h"

namespace tempo {

// "epoch 1/2  step 120/469  loss 0.4121  accuracy 86.12 %  top-5 99.20 %  312 images/s
// checks 5400 (0 failed)  ETA 1:05", without what is not known yet or not of this loss.
std::string progress_line(const Progress& progress);

class ProgressDisplay {
 public:
  enum class Style { kTerminal, kLines };
  // kTerminal when `file` is one.
  static Style style_of(std::FILE* file);

  ProgressDisplay(std::FILE* file, Style style) : file_(file), style_(style) {}
  ~ProgressDisplay() { finish(); }
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  void show(const Progress& progress);
  // A line of its own; control characters are taken out.
  void note(const std::string& text);
  // Leaves the last line standing.
  void finish();

 private:
  bool is_due(const Progress& progress) const;
  void print_line(const std::string& text);

  std::FILE* file_;
  Style style_;
  bool line_open_ = false;
  std::string last_line_;
  Progress last_;
  bool shown_any_ = false;
  std::chrono::steady_clock::time_point last_time_;
};

}  // namespace tempo
