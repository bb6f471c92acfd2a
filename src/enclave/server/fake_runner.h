// File: enclave/server/fake_runner.h
// A JobRunner for tests of server and client: no model, no data, only what the API moves about.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "enclave/server/job_runner.h"

namespace tempo {

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// Answers the model it was given, with "trained:" before it; predictions are the first data file.
// spec.steps progress lines (1 when there is no limit), step_ms apart. spec.seed chooses the end:
// kFailingSeed fails with kBadData, kTamperedSeed with kTampered and a report, kThrowingSeed
// throws bad_alloc.
class FakeRunner final : public JobRunner {
 public:
  static constexpr std::uint64_t kFailingSeed = 1001;
  static constexpr std::uint64_t kTamperedSeed = 1002;
  static constexpr std::uint64_t kThrowingSeed = 1003;

  explicit FakeRunner(int step_ms = 0) : step_ms_(step_ms) {}

  Status run(JobInputs inputs, std::atomic<bool>& stop,
             const std::function<void(const Progress&)>& on_progress,
             JobOutputs& outputs) override {
    const std::uint64_t seed = inputs.spec.seed;
    if (seed == kFailingSeed) {
      return Error{ErrorCode::kBadData, "label out of range", "y.npy", "0 to 9", "12", ""};
    }
    if (seed == kThrowingSeed) throw std::bad_alloc();
    outputs.report_json = R"({"scheme": "tempo", "checks": {"done": 7, "failed": 0, "rounds": 2}})";
    if (seed == kTamperedSeed) {
      return Error{ErrorCode::kTampered, "worker 1 returned a wrong result", "", "", "", ""};
    }
    const std::int64_t steps = std::max<std::int64_t>(inputs.spec.steps, 1);
    bool stopped = false;
    for (std::int64_t step = 1; step <= steps && !stopped; ++step) {
      Progress progress;
      progress.phase = "training";
      progress.step = step;
      progress.steps = steps;
      on_progress(progress);
      std::this_thread::sleep_for(std::chrono::milliseconds(step_ms_));
      stopped = stop;
    }
    outputs.plan_text = "conv1 worker\n";
    outputs.plan_json = R"({"ops": []})";
    outputs.model = to_bytes("trained:");
    outputs.model.insert(outputs.model.end(), inputs.model.begin(), inputs.model.end());
    if (!inputs.data.empty()) outputs.predictions_npy = std::move(inputs.data.front().bytes);
    if (stopped) return Error{ErrorCode::kInterrupted, "stopped", "", "", "", ""};
    return {};
  }

 private:
  const int step_ms_;
};

}  // namespace tempo
