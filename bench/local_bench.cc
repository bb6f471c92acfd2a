// Milliseconds an image of training inside the enclave alone (the scheme `local`): ResNet-20 and
// ResNet-50 on 32x32 images, by number of threads and memory layout. A step is forward and
// backward, without loss and update.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>

#include "enclave/nn/executor.h"
#include "enclave/nn/graph_builder.h"
#include "enclave/offload/local_engine.h"

namespace {

using tempo::TimeKind;

struct Measured {
  double image_ms = std::numeric_limits<double>::max();
  double linear_ms = 0;
  double other_ms = 0;
};

// The quickest of `steps` steps, after one that does not count.
Measured measure(tempo::Graph& graph, std::int64_t batch, int block, int threads, int steps) {
  tempo::ThreadPool pool(threads);
  tempo::TimeLedger ledger;
  tempo::LocalEngine engine(pool, ledger);
  auto executor = tempo::Executor::create(graph, {.batch = batch, .channel_block = block}, engine,
                                          pool, ledger);
  if (!executor.ok()) {
    std::fprintf(stderr, "%s\n", executor.error().one_line().c_str());
    std::exit(1);
  }
  Measured best;
  for (int step = 0; step <= steps; ++step) {
    const auto input = (*executor)->input();
    for (std::size_t i = 0; i < input.size(); ++i) {
      input[i] = tempo::hashed_value(1, static_cast<std::uint32_t>(i));
    }
    const double linear = ledger.seconds(TimeKind::kLinearTee);
    const double other = ledger.seconds(TimeKind::kNonLinear);
    const auto start = std::chrono::steady_clock::now();
    bool good = (*executor)->forward(static_cast<std::uint64_t>(step)).ok();
    std::ranges::fill((*executor)->d_output(), 1e-3F);
    good = good && (*executor)->backward().ok();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (!good) std::exit(1);
    const double scale = 1e3 / static_cast<double>(batch);
    if (step == 0 || elapsed.count() * scale >= best.image_ms) continue;
    best = {elapsed.count() * scale, (ledger.seconds(TimeKind::kLinearTee) - linear) * scale,
            (ledger.seconds(TimeKind::kNonLinear) - other) * scale};
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures training inside the enclave");
  std::vector<std::string> models = {"resnet20", "resnet50"};
  std::vector<int> threads = {1, 2};
  std::int64_t batch = 32;
  int steps = 3;
  app.add_option("--model", models, "resnet20, resnet50");
  app.add_option("--threads", threads, "Numbers of threads");
  app.add_option("--batch", batch, "Images a step");
  app.add_option("--steps", steps, "Steps; the quickest counts");
  CLI11_PARSE(app, argc, argv);

  std::printf("%-10s %8s %14s %10s %12s %12s\n", "model", "threads", "layout", "ms/image", "linear",
              "non-linear");
  for (const std::string& model : models) {
    tempo::Graph graph = model == "resnet50" ? tempo::resnet50(10) : tempo::resnet20(10);
    for (const int count : threads) {
      for (const int block : {0, tempo::preferred_channel_block()}) {
        const Measured m = measure(graph, batch, block, count, steps);
        const std::string layout = block == 0 ? "channels last" : "nChw" + std::to_string(block);
        std::printf("%-10s %8d %14s %10.2f %12.2f %12.2f\n", model.c_str(), count, layout.c_str(),
                    m.image_ms, m.linear_ms, m.other_ms);
        std::fflush(stdout);
        if (tempo::preferred_channel_block() == 0) break;
      }
    }
  }
  return 0;
}
