#include "client/progress_display.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>

namespace tempo {
namespace {

constexpr std::chrono::seconds kLineInterval{5};
constexpr std::chrono::milliseconds kTerminalInterval{100};

std::string duration_text(double seconds) {
  const auto s = std::llround(std::min(seconds, 1e9));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

std::size_t columns_of(std::FILE* file) {
  winsize size = {};
  if (::ioctl(::fileno(file), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

std::string progress_line(const Progress& p) {
  std::string line;
  const auto add = [&](const std::string& text) { line += (line.empty() ? "" : "  ") + text; };
  if (p.phase != "training") add(printable(p.phase));
  if (p.epochs > 0) add(fmt::format("epoch {}/{}", p.epoch, p.epochs));
  if (p.steps > 0) {
    add(fmt::format("{} {}/{}", p.phase == "predicting" ? "sample" : "step", p.step, p.steps));
  }
  if (p.phase == "training" && p.step > 0 && std::isfinite(p.loss)) {
    add(fmt::format("loss {:.4f}", p.loss));
  }
  if (p.accuracy >= 0) add(fmt::format("accuracy {:.2f} %", 100 * p.accuracy));
  if (p.top5_accuracy >= 0) add(fmt::format("top-5 {:.2f} %", 100 * p.top5_accuracy));
  if (p.mean_absolute_error >= 0) {
    add(fmt::format("mean absolute error {:.4g}", p.mean_absolute_error));
  }
  if (p.images_per_second > 0) add(fmt::format("{:.0f} images/s", p.images_per_second));
  if (p.batch_s > 0) add(fmt::format("{:.1f} ms a batch", 1e3 * p.batch_s));
  if (p.checks_done > 0) {
    add(fmt::format("checks {} ({} failed)", p.checks_done, p.checks_failed));
  }
  if (p.eta_s >= 0 && p.step < p.steps) add("ETA " + duration_text(p.eta_s));
  return line;
}

ProgressDisplay::Style ProgressDisplay::style_of(std::FILE* file) {
  return ::isatty(::fileno(file)) != 0 ? Style::kTerminal : Style::kLines;
}

bool ProgressDisplay::is_due(const Progress& p) const {
  if (!shown_any_ || p.phase != last_.phase || p.epoch != last_.epoch ||
      p.accuracy != last_.accuracy || p.mean_absolute_error != last_.mean_absolute_error ||
      (p.steps > 0 && p.step == p.steps && last_.step != p.step)) {
    return true;
  }
  const auto since = std::chrono::steady_clock::now() - last_time_;
  return style_ == Style::kTerminal ? since >= kTerminalInterval : since >= kLineInterval;
}

void ProgressDisplay::show(const Progress& progress) {
  if (!progress.notice.empty()) print_line(printable(progress.notice));
  if (!progress.message.empty()) note("warning: " + progress.message);
  if (!is_due(progress)) return;
  last_ = progress;
  last_time_ = std::chrono::steady_clock::now();
  shown_any_ = true;
  last_line_ = progress_line(progress);
  if (style_ == Style::kLines) {
    std::fprintf(file_, "%s\n", last_line_.c_str());
  } else {
    // Cut to the width: a line that wraps could not be renewed.
    std::fprintf(file_, "\r\033[K%s", last_line_.substr(0, columns_of(file_) - 1).c_str());
    line_open_ = true;
  }
  std::fflush(file_);
}

void ProgressDisplay::note(const std::string& text) {
  print_line("tempo: " + printable(text));
}

void ProgressDisplay::print_line(const std::string& text) {
  if (line_open_) std::fprintf(file_, "\r\033[K");
  std::fprintf(file_, "%s\n", text.c_str());
  if (line_open_) {
    std::fprintf(file_, "%s", last_line_.substr(0, columns_of(file_) - 1).c_str());
  }
  std::fflush(file_);
}

void ProgressDisplay::finish() {
  if (line_open_) std::fprintf(file_, "\n");
  line_open_ = false;
  std::fflush(file_);
}

}  // namespace tempo
