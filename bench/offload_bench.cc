// CPU time of the enclave for a training step of linear operators: offloaded under `tempo` to real
// workers on this machine, and kept inside. One thread; the CPU time of workers is not in it. What
// is compared takes turns, and the quickest turn counts.
#include <fmt/core.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <random>

#include "bench/worker_processes.h"
#include "enclave/offload/local_engine.h"
#include "enclave/offload/offload_engine.h"

namespace tempo {
namespace {

[[noreturn]] void fail(const std::string& what) {
  fmt::print(stderr, "offload_bench: {}\n", what);
  std::exit(1);
}

double cpu_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

std::vector<float> random_values(std::int64_t count) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(rng);
  return values;
}

// Operators that read the same input, and what they read and write.
class Step {
 public:
  explicit Step(std::vector<LinearOp> ops) : ops_(std::move(ops)) {
    const ConvGeometry& g = ops_[0].geometry;
    input_ = random_values(g.input_elements());
    d_input_.resize(input_.size());
    for (const LinearOp& op : ops_) {
      std::vector<Part>& parts = parts_.emplace_back();
      std::vector<LinearPart> list = op.parts;
      if (list.empty()) list.push_back({op.name, op.geometry.m()});
      for (const LinearPart& part : list) {
        const auto weights = static_cast<std::size_t>(part.features * g.n());
        const auto outputs = static_cast<std::size_t>(part.features * g.p());
        parts.push_back({random_values(part.features * g.n()), random_values(part.features * g.p()),
                         std::vector<float>(weights), std::vector<float>(outputs)});
      }
    }
  }

  const std::vector<LinearOp>& ops() const { return ops_; }

  // Milliseconds of this thread.
  double run(LinearEngine& engine) {
    const double start = cpu_ms();
    must(engine.begin_step(StepMode::kTraining));
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      std::vector<ForwardPart> parts;
      for (Part& part : parts_[i]) {
        parts.push_back({.weights = part.weights.data(), .output = part.output.data()});
      }
      must(engine.forward(ops_[i], input_.data(), parts));
    }
    for (std::size_t i = ops_.size(); i-- > 0;) {
      std::vector<BackwardPart> parts;
      for (Part& part : parts_[i]) {
        parts.push_back({part.weights.data(), part.d_output.data(), part.d_weights.data()});
      }
      must(engine.backward(ops_[i], input_.data(), parts, d_input_.data(), i + 1 < ops_.size()));
    }
    must(engine.end_step());
    return cpu_ms() - start;
  }

 private:
  struct Part {
    std::vector<float> weights, d_output, d_weights, output;
  };
  static void must(const Status& status) {
    if (!status.ok()) fail(status.error().one_line());
  }

  std::vector<LinearOp> ops_;
  std::vector<float> input_, d_input_;
  std::vector<std::vector<Part>> parts_;  // by operator
};

class Bench {
 public:
  Bench(int workers, int repeats)
      : repeats_(repeats), pool_(1), local_(pool_, ledger_), processes_(start(workers)) {
    link_ = processes_.take_link();
    dispatcher_.emplace(*link_, stats_, ledger_, 60000);
  }

  struct Engine {
    std::unique_ptr<OffloadEngine> engine;
    std::uint64_t bytes = 0;
    std::int64_t products = 0;
    double estimate_ms = 0;
  };
  Engine engine_for(const std::vector<LinearOp>& ops) {
    PlanOptions options;
    options.policy = OffloadPolicy::kAll;
    options.workers = link_->workers();
    options.max_slot_bytes = link_->max_slot_bytes() / 4;
    options.products_factor = 1000;
    auto plan = make_plan(ops, options);
    if (!plan.ok()) fail(plan.error().one_line());
    Engine made{nullptr, plan->bytes_to_workers + plan->bytes_from_workers, plan->products};
    for (const OpPlan& op : plan->ops) made.estimate_ms += op.offloaded_cost_ms;
    EngineOptions engine_options;
    engine_options.goal = options.goal;
    made.engine = std::make_unique<OffloadEngine>(
        std::move(*plan), engine_options,
        EngineResources{&*dispatcher_, &local_, &random_, &pool_, &ledger_, &stats_});
    return made;
  }

  // The quickest of each, taking turns after one turn that does not count.
  std::vector<double> measure(const std::vector<std::pair<Step*, LinearEngine*>>& runs) {
    std::vector<double> best(runs.size(), std::numeric_limits<double>::max());
    for (int turn = 0; turn <= repeats_; ++turn) {
      for (std::size_t i = 0; i < runs.size(); ++i) {
        const double ms = runs[i].first->run(*runs[i].second);
        if (turn > 0) best[i] = std::min(best[i], ms);
      }
    }
    if (stats_.checks_failed > 0) fail("an honest result was refused");
    return best;
  }

  LinearEngine& local() { return local_; }

 private:
  static WorkerProcesses start(int workers) {
    auto processes = WorkerProcesses::start(workers);
    if (!processes.ok()) fail(processes.error().one_line());
    return std::move(*processes);
  }

  const int repeats_;
  ThreadPool pool_;
  TimeLedger ledger_;
  EngineStats stats_;
  SystemRandom random_;
  LocalEngine local_;
  WorkerProcesses processes_;
  std::unique_ptr<RingLink> link_;
  std::optional<Dispatcher> dispatcher_;
};

LinearOp dense(int index, std::int64_t p, std::int64_t n, std::int64_t m) {
  return {.index = index,
          .name = fmt::format("layer{}", index),
          .geometry = {.batch = p, .in_c = n, .out_c = m},
          .parts = {}};
}

// Layers with the same input: as operators of their own, and stacked.
void compare_stack(Bench& bench, std::int64_t p, std::int64_t n, std::int64_t m, int layers) {
  std::vector<LinearOp> apart;
  LinearOp stack = dense(0, p, n, layers * m);
  for (int i = 0; i < layers; ++i) {
    apart.push_back(dense(i, p, n, m));
    stack.parts.push_back({apart.back().name, m});
  }
  Step step_apart(apart);
  Step step_stacked({stack});
  const auto engine_apart = bench.engine_for(step_apart.ops());
  const auto engine_stacked = bench.engine_for(step_stacked.ops());
  const std::vector<double> ms = bench.measure({{&step_apart, engine_apart.engine.get()},
                                                {&step_stacked, engine_stacked.engine.get()},
                                                {&step_apart, &bench.local()},
                                                {&step_stacked, &bench.local()}});
  fmt::print("{} layers, p = {}, n = {}, m = {} each\n", layers, p, n, m);
  const auto print = [](const char* name, double cpu, const Bench::Engine& engine) {
    fmt::print("  {:<8} {:>8.1f} ms, {:>6.1f} MiB, {:>3} products\n", name, cpu,
               static_cast<double>(engine.bytes) / (1 << 20), engine.products);
  };
  print("apart", ms[0], engine_apart);
  print("stacked", ms[1], engine_stacked);
  fmt::print("  inside   {:>8.1f} ms apart, {:.1f} stacked\n", ms[2], ms[3]);
  fmt::print("  stacked : apart {:.2f}, stacked : inside {:.2f}\n", ms[1] / ms[0], ms[1] / ms[3]);
}

}  // namespace
}  // namespace tempo

int main(int argc, char** argv) {
  int workers = 1;
  int repeats = 5;
  std::int64_t p = 64 * 65, n = 512, m = 512;
  int layers = 3;
  CLI::App app("CPU time of the enclave, offloaded and inside.", "offload_bench");
  app.add_option("--workers", workers)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--repeats", repeats, "the quickest counts")->capture_default_str();
  CLI::App* stack = app.add_subcommand("stack", "layers with the same input, apart and stacked");
  stack->add_option("-p", p, "positions")->capture_default_str();
  stack->add_option("-n", n, "in-features")->capture_default_str();
  stack->add_option("-m", m, "out-features of each")->capture_default_str();
  stack->add_option("--layers", layers)->check(CLI::Range(2, 64))->capture_default_str();
  app.require_subcommand(1);
  CLI11_PARSE(app, argc, argv);
  tempo::Bench bench(workers, repeats);
  tempo::compare_stack(bench, p, n, m, layers);
  return 0;
}
