// What fusing an operator that an exporter wrote out gives (enclave/graph/fuse.h): the time of
// forward and backward, and the arena, decomposed and fused. The bias before it, which makes
// gradients flow through it, is in both.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>

#include "enclave/graph/fuse.h"
#include "enclave/nn/decomposed.h"
#include "enclave/nn/executor.h"
#include "enclave/offload/local_engine.h"

namespace {

using tempo::Graph;

struct Rig {
  Graph graph;
  tempo::ThreadPool pool;
  tempo::TimeLedger ledger;
  tempo::LocalEngine engine;
  std::unique_ptr<tempo::Executor> executor;
  std::int64_t arena_bytes = 0;
  double best_s = std::numeric_limits<double>::max();

  Rig(Graph made, std::int64_t batch, int threads)
      : graph(std::move(made)), pool(threads), engine(pool, ledger) {
    auto created = tempo::Executor::create(graph, {.batch = batch}, engine, pool, ledger);
    const auto bytes = tempo::Executor::arena_bytes(graph, {.batch = batch});
    if (!created.ok() || !bytes.ok()) std::exit(1);
    executor = std::move(*created);
    arena_bytes = *bytes;
    const auto input = executor->input();
    for (std::size_t i = 0; i < input.size(); ++i) {
      input[i] = 3 * tempo::hashed_value(1, static_cast<std::uint32_t>(i));
    }
  }

  void step(std::uint64_t number) {
    const auto start = std::chrono::steady_clock::now();
    if (!executor->forward(number).ok()) std::exit(1);
    std::ranges::fill(executor->d_output(), 1e-3F);
    if (!executor->backward().ok()) std::exit(1);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best_s = std::min(best_s, elapsed.count());
  }
};

Graph make(const tempo::DecomposedForm& form, std::int64_t width) {
  tempo::GraphBuilder b;
  const tempo::TensorId x = b.add(b.input({width}), b.parameter({width}, 0.1F));
  return b.finish(form.build(b, x, width));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures operators decomposed and fused");
  std::int64_t rows = 8192, width = 384;
  int threads = 1, steps = 10;
  app.add_option("--rows", rows, "Rows of the operand");
  app.add_option("--width", width, "Features");
  app.add_option("--threads", threads, "Threads");
  app.add_option("--steps", steps, "Steps; the quickest counts");
  CLI11_PARSE(app, argc, argv);

  std::printf("%-26s %12s %8s %7s %12s %8s\n", "form", "decomposed", "fused", "ratio", "arena MiB",
              "fused");
  for (const tempo::DecomposedForm& form : tempo::decomposed_forms()) {
    Graph fused_graph = make(form, width);
    if (tempo::fuse_patterns(&fused_graph)[form.op_type] != 1) return 1;
    Rig decomposed(make(form, width), rows, threads);
    Rig fused(std::move(fused_graph), rows, threads);
    for (int i = 0; i <= steps; ++i) {
      decomposed.step(static_cast<std::uint64_t>(i));
      fused.step(static_cast<std::uint64_t>(i));
    }
    const double scale = 1e9 / static_cast<double>(rows * width);
    constexpr double kMib = 1024.0 * 1024.0;
    std::printf("%-26s %9.2f ns %5.2f ns %7.2f %12.1f %8.1f\n", form.name.c_str(),
                decomposed.best_s * scale, fused.best_s * scale, decomposed.best_s / fused.best_s,
                static_cast<double>(decomposed.arena_bytes) / kMib,
                static_cast<double>(fused.arena_bytes) / kMib);
    std::fflush(stdout);
  }
  return 0;
}
