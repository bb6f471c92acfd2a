#include "lab/worker_hooks.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/random.h"
#include "enclave/integrity/soundness.h"

namespace tempo::lab {
namespace {

// Root mean square of each column.
std::vector<double> column_rms(const float* result, std::uint32_t rows, std::uint32_t cols) {
  std::vector<double> squares(cols, 0.0);
  for (std::uint32_t r = 0; r < rows; ++r) {
    const float* row = result + std::size_t{r} * cols;
    for (std::uint32_t c = 0; c < cols; ++c) squares[c] += double{row[c]} * row[c];
  }
  for (double& s : squares) s = std::sqrt(s / rows);
  return squares;
}

class LabHooks final : public WorkerHooks {
 public:
  explicit LabHooks(const LabHookOptions& options) : options_(options) {}

  Status open_files() {
    if (!options_.cheat_log.empty()) {
      TEMPO_RETURN_IF_ERROR(open(options_.cheat_log, cheat_log_));
    }
    if (options_.record_directory.empty()) return {};
    const std::filesystem::path directory = options_.record_directory;
    std::error_code failure;
    std::filesystem::create_directories(directory, failure);
    const std::filesystem::path payloads = directory / "payloads.f32";
    TEMPO_RETURN_IF_ERROR(open(directory / "tasks.jsonl", tasks_));
    TEMPO_RETURN_IF_ERROR(open(payloads, payloads_));
    recorded_bytes_ = std::filesystem::file_size(payloads, failure);
    return {};
  }

  void received(const Task& task, std::span<const float> payload) override {
    if (!tasks_.is_open()) return;
    std::string offset = "null";
    if (!payload.empty() && recorded_bytes_ + payload.size_bytes() <= options_.record_limit_bytes) {
      offset = std::to_string(recorded_bytes_);
      payloads_.write(reinterpret_cast<const char*>(payload.data()),
                      static_cast<std::streamsize>(payload.size_bytes()));
      payloads_.flush();
      recorded_bytes_ += payload.size_bytes();
    }
    constexpr const char* kVerbs[] = {"put", "multiply", "drop"};
    tasks_ << fmt::format(
                  R"({{"request": {}, "verb": "{}", "a": {}, "b": {}, "result": {}, "flags": {}, )"
                  R"("rows": {}, "cols": {}, "offset": {}}})",
                  task.request, kVerbs[static_cast<std::uint32_t>(task.verb) - 1], task.a, task.b,
                  task.result, task.flags, task.rows, task.cols, offset)
           << std::endl;
  }

  void after_multiply(const Task& task, float* result, std::uint32_t rows, std::uint32_t cols,
                      std::uint32_t inner) override {
    ++products_;
    if (products_ == options_.die_after) ::kill(::getpid(), SIGKILL);
    if (options_.stall_after != 0 && products_ >= options_.stall_after) stall();
    if (options_.drift > 0) drift(task, result, rows, cols, inner);
    if (result == nullptr || options_.cheat_every == 0) return;
    if (++returned_ % options_.cheat_every == 0) cheat(task, result, rows, cols);
  }

 private:
  static Status open(const std::filesystem::path& path, std::ofstream& file) {
    file.open(path, std::ios::binary | std::ios::app);
    if (file) return {};
    return Error{ErrorCode::kIo, "cannot write", path.string(), "", "", ""};
  }

  void cheat(const Task& task, float* result, std::uint32_t rows, std::uint32_t cols) {
    const std::vector<double> rms = column_rms(result, rows, cols);
    const auto column = choose(rms);
    if (!column) return;
    const std::uint32_t row = random_below(random_, rows);
    float& element = result[std::size_t{row} * cols + *column];
    const float before = element;
    const double change = options_.cheat_size * rms[*column];
    element = static_cast<float>(before + (random_below(random_, 2) == 0 ? change : -change));
    ++cheats_;
    if (!cheat_log_.is_open()) return;
    cheat_log_ << fmt::format(R"({{"cheat": {}, "request": {}, "row": {}, "column": {}, )"
                              R"("from": {}, "to": {}}})",
                              cheats_, task.request, row, *column, before, element)
               << std::endl;
  }

  void drift(const Task& task, float* result, std::uint32_t rows, std::uint32_t cols,
             std::uint32_t inner) {
    std::uint64_t& summed = inner_of_sum_[task.result];
    summed = (task.flags & kAccumulate) != 0 ? summed + inner : inner;
    if (result == nullptr) return;
    const std::vector<double> rms = column_rms(result, rows, cols);
    std::vector<double> change(cols);
    const double norm =
        options_.drift *
        expected_tolerance_over_rms({static_cast<std::int64_t>(summed), std::int64_t{cols}});
    for (std::uint32_t c = 0; c < cols; ++c) {
      change[c] = (random_below(random_, 2) == 0 ? 1 : -1) * norm * rms[c] / std::sqrt(cols);
    }
    for (std::uint32_t r = 0; r < rows; ++r) {
      float* const row = result + std::size_t{r} * cols;
      // Of the row against what its columns are elsewhere: the row's coefficient, and its size.
      double squares = 0;
      for (std::uint32_t c = 0; c < cols; ++c) {
        if (rms[c] > 0) squares += (row[c] / rms[c]) * (row[c] / rms[c]);
      }
      const double size = std::sqrt(squares / cols);
      for (std::uint32_t c = 0; c < cols; ++c) row[c] += static_cast<float>(change[c] * size);
    }
  }

  std::optional<std::uint32_t> choose(const std::vector<double>& rms) {
    std::vector<std::uint32_t> columns;
    for (std::uint32_t c = 0; c < rms.size(); ++c) {
      if (rms[c] > 0 && std::isfinite(rms[c])) columns.push_back(c);
    }
    if (columns.empty()) return std::nullopt;
    const auto smaller = [&](std::uint32_t x, std::uint32_t y) { return rms[x] < rms[y]; };
    switch (options_.cheat_column) {
      case CheatColumn::kLargest:
        return *std::max_element(columns.begin(), columns.end(), smaller);
      case CheatColumn::kSmallest:
        return *std::min_element(columns.begin(), columns.end(), smaller);
      case CheatColumn::kRandom:
        break;
    }
    return columns[random_below(random_, static_cast<std::uint32_t>(columns.size()))];
  }

  // The program's signals are blocked while it computes: look for them here.
  static void stall() {
    spdlog::warn("stalling, as asked");
    for (;;) {
      sigset_t pending;
      sigemptyset(&pending);
      ::sigpending(&pending);
      if (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }

  const LabHookOptions options_;
  SystemRandom random_;
  std::uint64_t products_ = 0;
  std::uint64_t returned_ = 0;
  std::uint64_t cheats_ = 0;
  std::unordered_map<std::uint64_t, std::uint64_t> inner_of_sum_;  // by id: for drift
  std::ofstream cheat_log_;
  std::ofstream tasks_;
  std::ofstream payloads_;
  std::uint64_t recorded_bytes_ = 0;
};

}  // namespace

Result<std::unique_ptr<WorkerHooks>> make_lab_hooks(const LabHookOptions& options) {
  std::fprintf(stderr, "TEMPO LAB PROGRAM: this worker does what it is told to do wrong\n");
  auto hooks = std::make_unique<LabHooks>(options);
  TEMPO_RETURN_IF_ERROR(hooks->open_files());
  return std::unique_ptr<WorkerHooks>(std::move(hooks));
}

}  // namespace tempo::lab
