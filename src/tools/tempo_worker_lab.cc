// tempo-worker-lab: a worker that cheats, dies, stalls, records, replays or takes its time, for
// experiments and tests.
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lab/replay_device.h"
#include "lab/throttled_device.h"
#include "lab/worker_hooks.h"
#include "tools/daemon.h"
#include "tools/worker_main.h"

namespace {

class LabExtension final : public tempo::WorkerExtension {
 public:
  void add_flags(CLI::App& app) override {
    using tempo::lab::CheatColumn;
    app.add_option("--cheat-every", options_.cheat_every,
                   "alter one element of one in so many returned products; 0: never");
    app.add_option("--cheat-size", options_.cheat_size,
                   "by how much, in units of the rms of its column")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--cheat-column", options_.cheat_column, "which column, by its norm")
        ->transform(CLI::CheckedTransformer(
            std::map<std::string, CheatColumn>{{"largest", CheatColumn::kLargest},
                                               {"smallest", CheatColumn::kSmallest},
                                               {"random", CheatColumn::kRandom}}));
    app.add_option("--drift", options_.drift,
                   "put every row of every returned product off by this, in units of what its "
                   "check allows; 0: do not")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    app.add_option("--cheat-log", options_.cheat_log, "a line for every cheat goes to this file");
    app.add_option("--die-after", options_.die_after,
                   "SIGKILL itself in the middle of this product; 0: never");
    app.add_option("--stall-after", options_.stall_after,
                   "never finish this product; 0: finish all");
    app.add_option("--record", options_.record_directory,
                   "append all that is received to tasks.jsonl and payloads.f32 in this directory");
    app.add_option("--record-limit", record_limit_, "stop recording payloads at this size")
        ->capture_default_str();
    app.add_option("--replay-model", replay_.model_path,
                   "--device replay, which remembers results and answers when this modelled device "
                   "would (bench/devices/*.toml; its link only behind unix: addresses): a "
                   "measuring instrument that protects nothing, for enclaves that repeat a step");
    app.add_option("--replay-limit", replay_limit_, "--device replay: remember no more than this")
        ->capture_default_str();
    app.add_option("--replay-steps", replay_.step_log,
                   "--device replay: a line for every replayed step goes to this file");
    app.add_option("--rate", rate_,
                   "--device throttled, a processor of a chosen speed: multiply-adds a second")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
  }

  std::vector<std::string> devices() const override { return {"replay", "throttled"}; }

  tempo::Result<std::unique_ptr<tempo::Device>> make_device(
      const std::string& name, int threads,
      const std::vector<tempo::WorkerAddress>& listen) override {
    if (name == "throttled") {
      return std::unique_ptr<tempo::Device>(
          std::make_unique<tempo::lab::ThrottledDevice>(rate_, threads));
    }
    const auto over_tcp = std::count_if(listen.begin(), listen.end(),
                                        [](const auto& address) { return address.is_tcp(); });
    if (over_tcp != 0 && over_tcp != std::ssize(listen)) {
      return tempo::Error{tempo::ErrorCode::kUsage,
                          "--device replay has one link, a modelled or a real one",
                          "--listen",
                          "either unix: or tcp:// addresses",
                          "both",
                          ""};
    }
    auto limit = tempo::parse_bytes(replay_limit_);
    if (!limit) return limit.error();
    replay_.limit_bytes = *limit;
    replay_.threads = threads;
    replay_.has_real_link = over_tcp != 0;
    ::prctl(PR_SET_TIMERSLACK, 1000UL);  // ns; 50,000 otherwise, longer than many a product
    auto device = tempo::lab::ReplayDevice::open(replay_);
    if (!device) return device.error();
    return std::unique_ptr<tempo::Device>(std::move(*device));
  }

  tempo::Result<std::unique_ptr<tempo::WorkerHooks>> make_hooks() override {
    auto limit = tempo::parse_bytes(record_limit_);
    if (!limit) return limit.error();
    options_.record_limit_bytes = *limit;
    return tempo::lab::make_lab_hooks(options_);
  }

 private:
  tempo::lab::LabHookOptions options_;
  std::string record_limit_ = "1G";
  tempo::lab::ReplayOptions replay_;
  std::string replay_limit_ = "8G";
  double rate_ = 1e9;
};

}  // namespace

int main(int argc, char** argv) {
  LabExtension extension;
  return tempo::worker_main(argc, argv, "tempo-worker-lab", &extension);
}
