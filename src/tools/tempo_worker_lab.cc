// tempo-worker-lab: a worker that cheats, dies, stalls or records, for experiments and tests.
#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <string>

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
    app.add_option("--cheat-log", options_.cheat_log, "a line for every cheat goes to this file");
    app.add_option("--die-after", options_.die_after,
                   "SIGKILL itself in the middle of this product; 0: never");
    app.add_option("--stall-after", options_.stall_after,
                   "never finish this product; 0: finish all");
    app.add_option("--record", options_.record_directory,
                   "append all that is received to tasks.jsonl and payloads.f32 in this directory");
    app.add_option("--record-limit", record_limit_, "stop recording payloads at this size")
        ->capture_default_str();
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
};

}  // namespace

int main(int argc, char** argv) {
  LabExtension extension;
  return tempo::worker_main(argc, argv, "tempo-worker-lab", &extension);
}
