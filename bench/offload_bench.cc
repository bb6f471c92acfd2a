// CPU time of the enclave for a training step of linear operators: offloaded under `tempo` to real
// workers on this machine, and kept inside. One thread; the CPU time of workers is not in it. What
// is compared takes turns, and the quickest turn counts.
#include <fmt/core.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <limits>
#include <random>

#include "bench/worker_processes.h"
#include "enclave/offload/local_engine.h"
#include "enclave/offload/offload_engine.h"
#include "matrix/gemm.h"

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
    const std::int64_t instances = ops_[0].instances;
    input_ = random_values(instances * g.input_elements());
    d_input_.resize(input_.size());
    for (const LinearOp& op : ops_) {
      std::vector<Part>& parts = parts_.emplace_back();
      std::vector<LinearPart> list = op.parts;
      if (list.empty()) list.push_back({op.name, op.geometry.m()});
      for (const LinearPart& part : list) {
        const std::int64_t weights = instances * part.features * g.n();
        const std::int64_t outputs = instances * part.features * g.p();
        parts.push_back({random_values(weights), random_values(outputs),
                         std::vector<float>(static_cast<std::size_t>(weights)),
                         std::vector<float>(static_cast<std::size_t>(outputs))});
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
      must(engine.backward(ops_[i], input_.data(), parts, d_input_.data(), i + 1 < ops_.size(),
                           true));
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
    dispatcher_.emplace(*link_, stats_, ledger_, Patience());
  }

  struct Engine {
    std::unique_ptr<OffloadEngine> engine;
    std::uint64_t bytes = 0;
    std::int64_t products = 0;
    double estimate_ms = 0;
    double inside_estimate_ms = 0;
  };
  Engine engine_for(const std::vector<LinearOp>& ops,
                    ParallelismChoice parallelism = ParallelismChoice::kAuto) {
    PlanOptions options;
    options.parallelism = {{"", parallelism}};
    options.policy = OffloadPolicy::kAll;
    for (const WorkerInfo& worker : link_->workers()) {
      options.workers.push_back({worker.memory_limit_bytes});
    }
    options.max_slot_bytes = link_->max_slot_bytes() / 4;
    options.products_factor = 1000;
    auto plan = make_plan(ops, options);
    if (!plan.ok()) fail(plan.error().one_line());
    Engine made{nullptr, plan->bytes_to_workers + plan->bytes_from_workers, plan->products};
    for (const OpPlan& op : plan->ops) {
      made.estimate_ms += op.offloaded_cost_ms;
      made.inside_estimate_ms += op.local_cost_ms;
    }
    EngineOptions engine_options;
    engine_options.plan = options;
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

// The same products inside, as the operator table does them: one after the other.
class ProductsInside final : public LinearEngine {
 public:
  bool takes(const LinearOp&) const override { return true; }
  Status begin_step(StepMode) override { return {}; }
  Status end_step() override { return {}; }
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override {
    const ConvGeometry& g = op.geometry;
    for (std::int64_t i = 0; i < op.instances; ++i) {
      gemm(Transpose::kNo, Transpose::kYes, g.p(), g.m(), g.n(), 1, input + i * g.p() * g.n(),
           g.n(), parts[0].weights + i * g.m() * g.n(), g.n(), 0,
           parts[0].output + i * g.p() * g.m(), g.m());
    }
    return {};
  }
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool, bool) override {
    const ConvGeometry& g = op.geometry;
    for (std::int64_t i = 0; i < op.instances; ++i) {
      const float* d = parts[0].d_output + i * g.p() * g.m();
      const std::int64_t x = i * g.p() * g.n(), w = i * g.m() * g.n();
      gemm(Transpose::kNo, Transpose::kNo, g.p(), g.n(), g.m(), 1, d, g.m(), parts[0].weights + w,
           g.n(), 0, d_input + x, g.n());
      gemm(Transpose::kYes, Transpose::kNo, g.m(), g.n(), g.p(), 1, d, g.m(), input + x, g.n(), 0,
           parts[0].d_weights + w, g.n());
    }
    return {};
  }
};

void print_header(const char* first) {
  fmt::print("ms of the enclave's CPU, a training step\n");
  fmt::print("{:>24} {:>10} {:>10} {:>7} {:>10} {:>10} {:>7}\n", first, "offloaded", "inside",
             "ratio", "estimated", "inside", "ratio");
}

// One operator: measured, and what a plan estimates.
void compare_with_estimate(Bench& bench, const std::string& name, const LinearOp& op,
                           LinearEngine& inside) {
  Step step({op});
  const auto engine = bench.engine_for(step.ops());
  const std::vector<double> ms = bench.measure({{&step, engine.engine.get()}, {&step, &inside}});
  fmt::print("{:>24} {:>10.2f} {:>10.2f} {:>7.2f} {:>10.2f} {:>10.2f} {:>7.2f}\n", name, ms[0],
             ms[1], ms[0] / ms[1], engine.estimate_ms, engine.inside_estimate_ms,
             engine.estimate_ms / engine.inside_estimate_ms);
}

// Layers of the sizes that networks have.
void compare_layers(Bench& bench) {
  const auto conv = [&](std::int64_t side, std::int64_t in, std::int64_t out, std::int64_t kernel) {
    LinearOp op = dense(0, 32, in, out);
    ConvGeometry& g = op.geometry;
    g.in_h = g.in_w = g.out_h = g.out_w = side;
    g.kernel_h = g.kernel_w = kernel;
    g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = kernel / 2;
    compare_with_estimate(bench, fmt::format("{0}x{0} {1} to {2}, {3}x{3}", kernel, in, out, side),
                          op, bench.local());
  };
  print_header("layer");
  conv(32, 16, 16, 3);
  conv(16, 32, 32, 3);
  conv(16, 64, 64, 3);
  conv(8, 128, 128, 3);
  conv(8, 256, 256, 3);
  conv(16, 64, 256, 1);
  conv(8, 512, 128, 1);
  for (const std::int64_t width : {64, 128, 256, 512, 1024}) {
    compare_with_estimate(bench, fmt::format("dense {0} to {0}, 2080", width),
                          dense(0, 2080, width, width), bench.local());
  }
}

// Fully connected layers by what workers share of them.
void compare_parallelism(Bench& bench) {
  using enum ParallelismChoice;
  fmt::print("ms of the enclave's CPU, a training step; in brackets what the plan estimates\n");
  fmt::print("{:>24} {:>18} {:>18} {:>18}  auto\n", "p, n, m", "data", "out-features",
             "in-features");
  const std::vector<std::array<std::int64_t, 3>> shapes = {
      {32, 4096, 1000}, {128, 2048, 1000}, {512, 4096, 512}, {512, 8192, 256}, {64, 8192, 4096}};
  for (const auto& [p, n, m] : shapes) {
    Step step({dense(0, p, n, m)});
    std::vector<Bench::Engine> engines;
    std::vector<std::pair<Step*, LinearEngine*>> runs;
    for (const ParallelismChoice choice : {kData, kOutFeatures, kInFeatures}) {
      engines.push_back(bench.engine_for(step.ops(), choice));
      runs.emplace_back(&step, engines.back().engine.get());
    }
    const std::vector<double> ms = bench.measure(runs);
    fmt::print("{:>24}", fmt::format("{}, {}, {}", p, n, m));
    for (std::size_t i = 0; i < ms.size(); ++i) {
      fmt::print(" {:>18}", fmt::format("{:.1f} ({:.1f})", ms[i], engines[i].estimate_ms));
    }
    const Bench::Engine chosen = bench.engine_for(step.ops());
    fmt::print("  {}\n", parallelism_name(chosen.engine->plan().ops[0].parallelism));
  }
}

// Scores and values of attention: tokens x width by tokens x width, and tokens x tokens by
// width x tokens.
void compare_attention(Bench& bench, std::int64_t instances, std::int64_t width,
                       const std::vector<std::int64_t>& token_counts) {
  fmt::print("{} heads (of all samples) of width {}; ", instances, width);
  print_header("tokens, product");
  ProductsInside inside;
  for (const std::int64_t tokens : token_counts) {
    for (const bool is_scores : {true, false}) {
      LinearOp op = is_scores ? dense(0, tokens, width, tokens) : dense(0, tokens, tokens, width);
      op.instances = instances;
      op.of_activations = true;
      compare_with_estimate(
          bench, fmt::format("{} tokens, {}", tokens, is_scores ? "scores" : "values"), op, inside);
    }
  }
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
  std::int64_t instances = 128, width = 64;
  std::vector<std::int64_t> tokens = {65, 128, 197, 256, 384, 512};
  CLI::App* single = app.add_subcommand("layers", "layers, measured and estimated");
  CLI::App* shares = app.add_subcommand("shares", "layers by what workers share of them");
  CLI::App* attention = app.add_subcommand("attention", "products of two activations, by tokens");
  attention->add_option("--instances", instances, "samples x heads")->capture_default_str();
  attention->add_option("--width", width, "of a head")->capture_default_str();
  attention->add_option("--tokens", tokens)->capture_default_str();
  app.require_subcommand(1);
  CLI11_PARSE(app, argc, argv);
  tempo::Bench bench(workers, repeats);
  if (stack->parsed()) tempo::compare_stack(bench, p, n, m, layers);
  if (single->parsed()) tempo::compare_layers(bench);
  if (shares->parsed()) tempo::compare_parallelism(bench);
  if (attention->parsed()) tempo::compare_attention(bench, instances, width, tokens);
  return 0;
}
