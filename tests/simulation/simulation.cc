// The enclave's offload engine against an off-loader, a network and workers that fail and lie, all
// in one thread, on simulated time, from one seed.
//
// Usage: simulation FIRST COUNT   the seeds FIRST ... FIRST + COUNT - 1
//        simulation SEED          one, with the history of its events
//
// A run is a few steps, of training or prediction, of a few small operators. Every step must end
// with what the local engine computes, or, with --on-tamper abort, with the error that says so, and
//
//   * within bounds of simulated time, tasks and polls;
//   * having accused nobody whose results nobody touched;
//   * having sent no operand in two encodings: there are never more different payloads of a shape
//     in a step than the plan has operands of that shape;
//   * without leaving shared memory in use.
//
// Every seed runs twice, and must leave the same history. Ends with 1 and the history of the first
// seed that fails.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "enclave/obfuscation/seeded_random.h"
#include "enclave/offload/offload_engine.h"
#include "enclave/offload/sample_operators.h"
#include "tests/simulation/history.h"
#include "tests/simulation/simulated_link.h"

namespace tempo {
namespace {

constexpr int kSteps = 4;
// What bounds a step. A unit of work is given to three workers, one after the other, each of which
// has at most as long as it takes to be given up; then the enclave does it.
constexpr int kIssues = 3;
constexpr double kIssueS = 20.4;  // Patience::stall, and the time in which lateness is noticed
constexpr int kQueueWaits = 1;    // as long each: until a queue full of lost tasks is given up

struct Totals {
  std::uint64_t steps = 0;
  std::uint64_t faults = 0;
  std::uint64_t refused = 0;  // results
  std::uint64_t lost = 0;     // workers
  std::uint64_t aborted = 0;  // runs
  std::uint64_t broken = 0;   // links
  double longest_step_s = 0;
  double longest_of_bound = 0;  // parts of the bounds
  double most_tasks_of_bound = 0;
  std::uint64_t most_polls = 0;
};

// A quarter of the faults each, from one in two tasks to one in a thousand.
Faults draw_faults(SeededRandom& random) {
  Faults faults;
  if (random.unit() < 0.05) return faults;
  for (double* rate :
       {&faults.crash, &faults.cheat, &faults.delay, &faults.lose_answer, &faults.lose_task,
        &faults.corrupt_payload, &faults.replay, &faults.swap, &faults.stale, &faults.false_status,
        &faults.misorder, &faults.refuse, &faults.cut_stream, &faults.corrupt_stream}) {
    if (random.unit() < 0.25) *rate = std::pow(10, -0.3 - 2.7 * random.unit());
  }
  for (double* rate : {&faults.slow, &faults.memory, &faults.claim, &faults.false_join}) {
    if (random.unit() < 0.25) *rate = random.unit();
  }
  if (random.unit() < 0.5) faults.join = random.unit();
  if (random.unit() < 0.1) faults.break_link = 0.01 * random.unit();
  if (random.unit() < 0.1) faults.clock_jump = 0.02 * random.unit();
  return faults;
}

std::vector<Layer> draw_layers(SeededRandom& random) {
  const std::vector<Layer> all{
      conv(2, 6, 4, 8, 3, 1, 1),     conv(3, 7, 5, 6, 3, 2, 1),
      fully_connected(24, 40, 32),   {fully_connected(20, 33, 0), {5, 1, 14, 4}},
      fully_connected(12, 90, 9),    conv(2, 4, 80, 6, 1, 1, 0),
      Layer::product(3, 20, 12, 17), Layer::product(2, 17, 20, 12)};
  std::vector<Layer> layers;
  for (int count = random.between(1, 3); count > 0; --count) {
    layers.push_back(all[random_below(random, static_cast<std::uint32_t>(all.size()))]);
  }
  return layers;
}

// Half of the operators are cut as the planner likes, the others in one way or another.
std::vector<ParallelismRule> draw_parallelism(const std::vector<LinearOp>& ops,
                                              SeededRandom& random) {
  std::vector<ParallelismRule> rules;
  for (const LinearOp& op : ops) {
    if (random.unit() < 0.5) continue;
    rules.push_back({op.name, static_cast<ParallelismChoice>(random.between(1, 3))});
  }
  return rules;
}

// Some have weights that are not trained, some nothing upstream that is.
std::vector<LinearOp> draw_ops(const std::vector<Layer>& layers, SeededRandom& random) {
  std::vector<LinearOp> ops = linear_ops(layers);
  for (LinearOp& op : ops) {
    if (op.of_activations) continue;
    op.needs_weight_gradient = random.unit() < 0.85;
    op.needs_input_gradient = random.unit() < 0.85;
  }
  return ops;
}

// What one seed comes to.
class Run {
 public:
  Run(std::uint64_t seed, Totals& totals)
      : totals_(totals),
        network_(2 * seed),
        keys_(2 * seed + 1),
        layers_(draw_layers(network_)),
        ops_(draw_ops(layers_, network_)),
        pool_(1),
        local_(pool_, ledger_) {}

  // Why the run failed.
  std::optional<std::string> failure() {
    const Faults faults = draw_faults(network_);
    const int workers = network_.between(1, 4);
    const SimulatedLink::Limits limits{std::uint64_t{1} << network_.between(13, 18),
                                       static_cast<std::size_t>(network_.between(4, 64))};
    link_ = std::make_unique<SimulatedLink>(workers, limits, faults, network_, history_);
    std::optional<std::string> why = steps(faults);
    engine_.reset();
    dispatcher_.reset();
    link_->drain();
    // Shared memory of a channel that was given up goes with it.
    const bool has_channel = std::none_of(stats_.events.begin(), stats_.events.end(),
                                          [](const EngineEvent& e) { return e.worker < 0; });
    if (!why && has_channel && !link_->is_broken() && link_->slots_in_use() > 0) {
      why = "shared memory is still in use";
    }
    totals_.faults += link_->faults_done();
    totals_.refused += stats_.checks_failed;
    totals_.broken += link_->is_broken() ? 1 : 0;
    return why;
  }
  const History& history() const { return history_; }

 private:
  std::optional<std::string> steps(const Faults& faults) {
    dispatcher_ = std::make_unique<Dispatcher>(*link_, stats_, ledger_, Patience{},
                                               [this] { return history_.now(); });
    PlanOptions options;
    options.scheme = network_.unit() < 0.1 ? Scheme::kPlain : Scheme::kTempo;
    options.policy = OffloadPolicy::kAll;
    options.parallelism = draw_parallelism(ops_, network_);
    for (const WorkerInfo& worker : link_->workers()) {
      options.workers.push_back({worker.memory_limit_bytes});
    }
    options.max_slot_bytes = link_->max_slot_bytes();
    options.tile_bytes = std::uint64_t{1} << network_.between(10, 13);
    options.goal.t = 1e-9;
    options.max_gradient_inner = network_.between(16, 128);
    const bool trains = network_.unit() < 0.8;
    options.mode = trains ? StepMode::kTraining : StepMode::kInference;
    options.keeps_weights = !trains && network_.unit() < 0.5;
    auto plan = make_plan(ops_, options);
    if (!plan.ok()) {
      history_.note("%s", plan.error().one_line().c_str());
      const bool may_lack = faults.claim > 0 && plan.error().code == ErrorCode::kOutOfMemory;
      return may_lack ? std::nullopt : std::optional("no plan: " + plan.error().one_line());
    }
    EngineOptions engine_options;
    engine_options.plan = options;
    engine_options.reuses_keys = options.keeps_weights;
    const bool aborts = network_.unit() < 0.1;
    engine_options.on_tamper = aborts ? TamperPolicy::kAbort : TamperPolicy::kQuarantine;
    engine_ = std::make_unique<OffloadEngine>(
        std::move(plan).value(), engine_options,
        EngineResources{dispatcher_.get(), &local_, &keys_, &pool_, &ledger_, &stats_});
    std::vector<std::vector<float>> weights;
    for (int step = 0; step < kSteps; ++step) {
      history_.note("---- step %d", step);
      link_->begin_step();
      const double begin_ms = history_.now_ms();
      const bool accumulates = network_.unit() < 0.5;
      std::vector<Tensors> got;
      for (std::size_t i = 0; i < layers_.size(); ++i) {
        got.emplace_back(layers_[i], static_cast<unsigned>(100 * step) + static_cast<unsigned>(i));
        if (step > 0) got[i].weights = weights[i];  // as kept keys require
      }
      if (step == 0) {
        for (const Tensors& tensors : got) weights.push_back(tensors.weights);
      }
      std::vector<Tensors> want = got;
      const Status status = step_of(options.mode, got, accumulates);
      if (auto why = look_at_events()) return why;
      if (!status.ok()) {
        history_.note("%s", status.error().one_line().c_str());
        if (!aborts || status.error().code != ErrorCode::kTampered) {
          return "error: " + status.error().one_line();
        }
        ++totals_.aborted;
        return std::nullopt;
      }
      if (!local_step(local_, ops_, want, accumulates).ok()) return "no reference";
      if (auto why = compare(options.mode, got, want)) return why;
      if (auto why = look_at_bounds((history_.now_ms() - begin_ms) * 1e-3 - link_->jumped_s()))
        return why;
      if (auto why = look_at_payloads()) return why;
      if (auto why = look_at_liars()) return why;
      ++totals_.steps;
    }
    return std::nullopt;
  }

  Status step_of(StepMode mode, std::vector<Tensors>& tensors, bool accumulates) {
    const bool announces = network_.unit() < 0.7;
    const bool defers = network_.unit() < 0.7;
    const bool ends_early = network_.unit() < 0.3;
    TEMPO_RETURN_IF_ERROR(engine_->begin_step(mode));
    if (announces) announce_weights(*engine_, ops_, tensors);
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      Tensors& t = tensors[i];
      TEMPO_RETURN_IF_ERROR(engine_->forward(ops_[i], t.input.data(), t.forward_parts()));
    }
    for (std::size_t i = ops_.size(); i-- > 0 && mode == StepMode::kTraining;) {
      if (!ops_[i].has_backward()) continue;
      Tensors& t = tensors[i];
      std::vector<BackwardPart> parts = t.backward_parts();
      for (BackwardPart& part : parts) {
        if (!ops_[i].needs_weight_gradient) part.d_weights = nullptr;
      }
      float* const d_input = ops_[i].needs_input_gradient ? t.d_input.data() : nullptr;
      TEMPO_RETURN_IF_ERROR(
          engine_->backward(ops_[i], t.input.data(), parts, d_input, accumulates, defers));
    }
    if (!ends_early || mode != StepMode::kTraining) return engine_->end_step();
    TEMPO_RETURN_IF_ERROR(engine_->end_step_early());
    // What weight gradients are still made of is the engine's own.
    for (Tensors& t : tensors) {
      std::ranges::fill(t.input, std::numeric_limits<float>::quiet_NaN());
      std::ranges::fill(t.d_output, std::numeric_limits<float>::quiet_NaN());
    }
    return engine_->settle();
  }

  std::optional<std::string> compare(StepMode mode, const std::vector<Tensors>& got,
                                     const std::vector<Tensors>& want) const {
    for (std::size_t i = 0; i < got.size(); ++i) {
      const bool trains = mode == StepMode::kTraining;
      const auto differs = [&](bool is_wanted, const std::vector<float>& a,
                               const std::vector<float>& b) {
        return is_wanted && !(relative_error(a, b) < kTolerance);  // a NaN is not
      };
      const char* what = nullptr;
      if (differs(true, got[i].output, want[i].output)) what = "output";
      if (differs(trains && ops_[i].needs_weight_gradient, got[i].d_weights, want[i].d_weights)) {
        what = "weight gradient";
      }
      if (differs(trains && ops_[i].needs_input_gradient, got[i].d_input, want[i].d_input)) {
        what = "input gradient";
      }
      if (what != nullptr) return ops_[i].name + ": wrong " + what;
    }
    return std::nullopt;
  }

  std::optional<std::string> look_at_events() {
    for (; events_seen_ < stats_.events.size(); ++events_seen_) {
      const EngineEvent& event = stats_.events[events_seen_];
      const bool is_tampered = event.kind == EngineEvent::Kind::kTampered;
      history_.note("enclave: worker %d %s %s %s", event.worker,
                    is_tampered                              ? "tampered"
                    : event.kind == EngineEvent::Kind::kLost ? "lost"
                                                             : "joined",
                    event.operator_name.c_str(), event.detail.c_str());
      if (event.kind == EngineEvent::Kind::kLost) ++totals_.lost;
      if (is_tampered && !link_->was_falsified(event.worker)) {
        return "worker " + std::to_string(event.worker) + " is accused and did nothing";
      }
      if (event.worker < 0 && !link_->is_broken() && link_->jumped_s() == 0 &&
          link_->idle_s() < std::chrono::duration<double>(Patience{}.stall).count()) {
        return "the off-loader is given up and was not idle";
      }
      if (event.kind == EngineEvent::Kind::kLost && event.worker >= 0 &&
          !link_->has_failed(event.worker) && event.detail.rfind("no answer", 0) != 0) {
        return "worker " + std::to_string(event.worker) + " is given up and did not fail";
      }
      if (event.kind != EngineEvent::Kind::kJoined && link_->faults_done() == 0) {
        return "worker " + std::to_string(event.worker) + " is given up, and there was no fault";
      }
    }
    return std::nullopt;
  }

  // From the step after the one that it was caught in, a liar gets nothing.
  std::optional<std::string> look_at_liars() {
    for (auto& [worker, tasks] : tasks_of_liars_) {
      if (stats_.workers[static_cast<std::size_t>(worker)].tasks > tasks) {
        return "worker " + std::to_string(worker) + " gets tasks although it was caught";
      }
    }
    for (const EngineEvent& event : stats_.events) {
      if (event.kind != EngineEvent::Kind::kTampered) continue;
      tasks_of_liars_[event.worker] = stats_.workers[static_cast<std::size_t>(event.worker)].tasks;
    }
    return std::nullopt;
  }

  std::optional<std::string> look_at_bounds(double step_s) {
    double passes = 0;  // of operators: each waits for its units
    double tasks = 0;
    for (const OpPlan& op : engine_->plan().ops) {
      passes += 2;
      // Forward: W', X', their product, two drops. Backward: these, D', a second product, another
      // drop, and the sum's. Besides, W' can have gone ahead to a worker that is given up.
      const auto tiles = static_cast<double>(op.tiles.size());
      tasks +=
          kIssues * (5 * tiles + 8 * tiles + static_cast<double>(op.groups.size())) + 2 * tiles;
    }
    const double of_time = step_s / ((kIssues + kQueueWaits) * kIssueS * passes);
    const double of_tasks = static_cast<double>(link_->tasks()) / tasks;
    totals_.longest_step_s = std::max(totals_.longest_step_s, step_s);
    totals_.longest_of_bound = std::max(totals_.longest_of_bound, of_time);
    totals_.most_tasks_of_bound = std::max(totals_.most_tasks_of_bound, of_tasks);
    totals_.most_polls = std::max(totals_.most_polls, link_->polls());
    if (link_->has_run_away()) return "polls without end";
    if (link_->impossible_task()) return link_->impossible_task();
    if (of_time > 1) return "a step of " + std::to_string(step_s) + " s";
    if (of_tasks > 1) return std::to_string(link_->tasks()) + " tasks in a step";
    return std::nullopt;
  }

  std::optional<std::string> look_at_payloads() const {
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::size_t> operands;
    const auto add = [&](std::int64_t rows, std::int64_t cols) {
      ++operands[{static_cast<std::uint32_t>(rows), static_cast<std::uint32_t>(cols)}];
    };
    for (const OpPlan& op : engine_->plan().ops) {
      for (std::size_t i = 0; i < op.m_slices.size(); ++i) {
        add(op.m_slices[i].size(), op.in_features_of(static_cast<int>(i)));
      }
      const std::size_t p_each = op.p_slices.size() / op.instance_count();
      for (std::size_t i = 0; i < op.p_slices.size(); ++i) {
        add(op.p_slices[i].size(), op.in_features(i / p_each));
      }
      for (const Tile& tile : op.tiles) {
        add(op.p_slices[static_cast<std::size_t>(tile.p_slice)].size(),
            op.m_slices[static_cast<std::size_t>(tile.m_slice)].size());
      }
    }
    for (const auto& [shape, payloads] : link_->payloads_by_shape()) {
      if (payloads <= operands[shape]) continue;
      return std::to_string(payloads) + " different payloads of " + std::to_string(shape.first) +
             "x" + std::to_string(shape.second) + ", and " + std::to_string(operands[shape]) +
             " such operands";
    }
    return std::nullopt;
  }

  Totals& totals_;
  History history_;
  SeededRandom network_;
  SeededRandom keys_;
  const std::vector<Layer> layers_;
  const std::vector<LinearOp> ops_;
  ThreadPool pool_;
  TimeLedger ledger_;
  EngineStats stats_;
  LocalEngine local_;
  std::unique_ptr<SimulatedLink> link_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<OffloadEngine> engine_;
  std::size_t events_seen_ = 0;
  std::map<int, std::uint64_t> tasks_of_liars_;  // when they were caught
};

// True when it holds.
bool simulate(std::uint64_t seed, bool prints, Totals& totals) {
  Run run(seed, totals);
  std::optional<std::string> why = run.failure();
  if (!why) {
    Totals again;
    Run second(seed, again);
    static_cast<void>(second.failure());
    if (second.history().lines() != run.history().lines()) why = "another history the second time";
  }
  if (prints || why) {
    for (const std::string& line : run.history().lines()) std::printf("%s\n", line.c_str());
  }
  if (why)
    std::printf("seed %llu fails: %s\n", static_cast<unsigned long long>(seed), why->c_str());
  return !why;
}

int main_of(std::span<char*> arguments) {
  std::vector<std::uint64_t> numbers;
  for (const std::string_view text : arguments) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) numbers.resize(3);
    numbers.push_back(value);
  }
  if (numbers.empty() || numbers.size() > 2) {
    std::fprintf(stderr, "usage: simulation SEED | simulation FIRST COUNT\n");
    return 2;
  }
  Totals totals;
  const std::uint64_t count = numbers.size() == 2 ? numbers[1] : 1;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (!simulate(numbers[0] + i, numbers.size() == 1, totals)) return 1;
  }
  std::printf(
      "%llu seeds, %llu steps, %llu faults: %llu results refused, %llu workers lost, %llu runs "
      "aborted, %llu links broken\nat most: a step of %.1f s, %.2f of the bound on its time, %.2f "
      "of "
      "that on tasks, %llu polls\n",
      static_cast<unsigned long long>(count), static_cast<unsigned long long>(totals.steps),
      static_cast<unsigned long long>(totals.faults),
      static_cast<unsigned long long>(totals.refused), static_cast<unsigned long long>(totals.lost),
      static_cast<unsigned long long>(totals.aborted),
      static_cast<unsigned long long>(totals.broken), totals.longest_step_s,
      totals.longest_of_bound, totals.most_tasks_of_bound,
      static_cast<unsigned long long>(totals.most_polls));
  return 0;
}

}  // namespace
}  // namespace tempo

int main(int argc, char** argv) {
  return tempo::main_of({argv + 1, static_cast<std::size_t>(argc - 1)});
}
