// tempo-worker-lab: a worker that cheats, dies, stalls, records or replays, for experiments and
// tests.
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lab/replay_device.h"
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
                   "would (bench/devices/*.toml): a measuring instrument that protects nothing; "
                   "for enclaves that repeat a step, and unix: addresses alone");
    app.add_option("--replay-limit", replay_limit_, "--device replay: remember no more than this")
        ->capture_default_str();
    app.add_option("--replay-steps", replay_.step_log,
                   "--device replay: a line for every replayed step goes to this file");
  }

  std::vector<std::string> devices() const override { return {"replay"}; }

  tempo::Result<std::unique_ptr<tempo::Device>> make_device(
      const std::string& /*name*/, int threads,
      const std::vector<tempo::WorkerAddress>& listen) override {
    for (const tempo::WorkerAddress& address : listen) {
      if (!address.is_tcp()) continue;
      return tempo::Error{tempo::ErrorCode::kUsage,
                          "--device replay models its link: it cannot have another one",
                          "--listen",
                          "unix:PATH",
                          address.text,
                          ""};
    }
    auto limit = tempo::parse_bytes(replay_limit_);
    if (!limit) return limit.error();
    replay_.limit_bytes = *limit;
    replay_.threads = threads;
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
};

}  // namespace

int main(int argc, char** argv) {
  LabExtension extension;
  return tempo::worker_main(argc, argv, "tempo-worker-lab", &extension);
}
