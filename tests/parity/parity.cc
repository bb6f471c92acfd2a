// Tempo against PyTorch, on what make_parity.py wrote. Usage: parity CASE_DIRECTORY [MODEL.onnx...]
//
// Every model of the case (all of its .onnx files, unless some are named) goes through the
// product's importer and is trained from there, inside the enclave and with every linear operator
// offloaded under `tempo`. Compared with PyTorch's float64:
//
//   logits      norm of the difference, relative to that of the logits: 1e-4
//   gradients   norm of the difference, of every parameter, relative to that of its gradient: 1e-3.
//               A gradient counts as at least 1e-6 of the norm of all together. Some are zero but
//               for rounding (a bias before a normalisation), and some jump (a rectifier's input
//               within rounding of its kink): three times PyTorch's own float32 error will do, too
//   optimiser   the weights after steps with PyTorch's gradients, relative to how far they moved:
//               1e-5, and the rounding of the weights themselves
//   losses      root mean square of the differences along ten steps: three times PyTorch's spread
//
// Prints a table; ends with 1 when anything is beyond its bound.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "enclave/job/engines.h"
#include "enclave/nn/executor.h"
#include "enclave/obfuscation/seeded_random.h"
#include "enclave/offload/fake_link.h"
#include "enclave/train/loss.h"
#include "enclave/train/optimizer.h"
#include "tests/norms.h"
#include "tests/parity/parity_case.h"

namespace tempo {
namespace {

constexpr double kLogitBound = 1e-4;
constexpr double kGradientBound = 1e-3;
constexpr double kGradientFloor = 1e-6;
constexpr double kOptimizerBound = 1e-5;
constexpr double kSpreads = 3;
constexpr int kThreads = 2;

template <class T>
T must(Result<T> result) {
  if (!result.ok()) die(result.error().one_line());
  return std::move(result).value();
}
void must(const Status& status) {
  if (!status.ok()) die(status.error().one_line());
}

std::span<const float> values_of(const ParityParameter& parameter, const std::vector<float>& all) {
  return std::span(all).subspan(parameter.begin, parameter.size);
}

// A NaN is beyond every bound.
struct Verdict {
  double worst = 0;  // relative to what the bound is relative to
  bool passed = true;
  std::string where;

  void add(double value, bool is_within, const std::string& name) {
    passed = passed && is_within;
    if (value > worst || std::isnan(value)) {
      worst = value;
      where = name;
    }
  }
};

// Training steps of a graph under one scheme, with workers in this process.
class Trainer {
 public:
  Trainer(Graph& graph, const ParityCase& parity, const std::string& scheme)
      : parity_(parity),
        pool_(kThreads),
        link_(kThreads, std::uint64_t{1} << 30),
        engines_(spec_for(scheme), must(parse_scheme(scheme)), scheme == "local" ? nullptr : &link_,
                 100, 1, seeded_hooks(), pool_, ledger_) {
    ExecutorOptions options;
    options.batch = parity.samples;
    const auto ops = must(Executor::linear_ops(graph, options));
    LinearEngine* engine = must(engines_.engine_for(ops, StepMode::kTraining));
    executor_ = must(Executor::create(graph, options, *engine, pool_, ledger_));
  }

  double step(std::uint64_t number) {
    if (parity_.tokens.empty()) {
      fill(executor_->input(), parity_.images);
    } else {
      fill(executor_->input_ints(), parity_.tokens);
    }
    must(executor_->forward(number));
    if (executor_->output().size() != parity_.logits.size()) die("the model has another output");
    const LossSums loss = must(
        evaluate_loss({}, executor_->output(), parity_.classes, {parity_.labels, {}},
                      static_cast<std::int64_t>(parity_.labels.size()), executor_->d_output()));
    must(executor_->backward());
    return loss.mean_loss();
  }
  std::span<const float> logits() const { return executor_->output(); }
  std::span<const float> gradient(TensorId id) const { return executor_->gradient(id); }
  EngineStats stats() const { return engines_.stats(); }
  ThreadPool& pool() { return pool_; }

 private:
  template <class T>
  static void fill(std::span<T> input, const std::vector<T>& values) {
    if (input.size() != values.size()) die("the model wants another input");
    std::copy(values.begin(), values.end(), input.begin());
  }
  // Keys of a fixed seed: the same verdict on every run.
  const EnclaveHooks& seeded_hooks() {
    hooks_.make_random = [] { return std::make_unique<SeededRandom>(1); };
    return hooks_;
  }
  const JobSpec& spec_for(const std::string& scheme) {
    spec_.scheme = scheme;
    spec_.offload = OffloadPolicy::kAll;
    return spec_;
  }

  const ParityCase& parity_;
  JobSpec spec_;
  EnclaveHooks hooks_;
  ThreadPool pool_;
  TimeLedger ledger_;
  FakeLink link_;
  JobEngines engines_;
  std::unique_ptr<Executor> executor_;
};

Verdict compare_logits(const ParityCase& parity, std::span<const float> got) {
  const double apart = distance(got, parity.logits) / norm(parity.logits);
  Verdict verdict;
  verdict.add(apart, apart <= kLogitBound, "");
  return verdict;
}

Verdict compare_gradients(const Graph& graph, const ParityCase& parity,
                          const std::vector<ParityMatch>& matches, const Trainer& trainer) {
  const double floor = kGradientFloor * norm(parity.gradients);
  Verdict verdict;
  for (const ParityMatch& match : matches) {
    const ParityParameter& parameter = *match.parameter;
    const auto want = values_of(parameter, parity.gradients);
    const double apart = distance(to_pytorch(graph, match, trainer.gradient(match.tensor)), want);
    const double scale =
        std::max({norm(want), floor, kSpreads * parameter.spread / kGradientBound});
    verdict.add(apart / scale, apart <= kGradientBound * scale, parameter.name);
    if (!(apart <= kGradientBound * scale)) {
      std::printf("  gradient of %s: off by %.2e of norm %.2e; PyTorch's float32 by %.2e\n",
                  parameter.name.c_str(), apart, norm(want), parameter.spread);
    }
  }
  return verdict;
}

OptimizerSpec spec_of(const std::string& name, const nlohmann::json& settings) {
  OptimizerSpec spec;
  spec.kind = must(parse_optimizer_kind(name));
  spec.momentum = settings.value("momentum", spec.momentum);
  spec.beta1 = settings.value("beta1", spec.beta1);
  spec.beta2 = settings.value("beta2", spec.beta2);
  spec.epsilon = settings.value("epsilon", spec.epsilon);
  spec.weight_decay = settings.value("weight_decay", spec.weight_decay);
  return spec;
}

// The weights after make_parity.py's steps with PyTorch's gradients, from the model as it was
// imported.
Verdict compare_optimizer(const std::string& name, OnnxModel model, const ParityCase& parity,
                          ThreadPool& pool) {
  Graph& graph = model.graph;
  const auto matches = match_parameters(graph, parity);
  const auto& settings = parity.settings.at(name);
  const auto scales = parity.settings.at("optimizer_scales").get<std::vector<float>>();
  const Parameters parameters(graph, pool);
  Optimizer optimizer = must(Optimizer::create(parameters, spec_of(name, settings)));
  const Graph before = graph;
  std::map<TensorId, std::vector<float>> gradients;
  for (const ParityMatch& match : matches) {
    gradients[match.tensor] =
        from_pytorch(graph, match, values_of(*match.parameter, parity.gradients));
  }
  for (const float scale : scales) {
    optimizer.step(settings.at("rate"), parameters.gradients([&](TensorId id) {
      return std::span<const float>(gradients.at(id));
    }),
                   scale);
  }
  const double rounding = std::ldexp(static_cast<double>(scales.size()), -23);
  Verdict verdict;
  for (const ParityMatch& match : matches) {
    const auto want = values_of(*match.parameter, parity.after.at(name));
    const auto start = to_pytorch(graph, match, before.tensors[match.tensor].floats);
    const auto got = to_pytorch(graph, match, graph.tensors[match.tensor].floats);
    const double apart = distance(got, want);
    const double scale = distance(want, start) + rounding / kOptimizerBound * norm(want);
    verdict.add(apart / scale, apart <= kOptimizerBound * scale, match.parameter->name);
  }
  return verdict;
}

Verdict compare_losses(const ParityCase& parity, const std::vector<double>& losses) {
  double sum = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    sum += (losses[i] - parity.losses[i]) * (losses[i] - parity.losses[i]);
  }
  const double apart = std::sqrt(sum / static_cast<double>(losses.size()));
  Verdict verdict;
  verdict.add(apart / parity.loss_spread, apart <= kSpreads * parity.loss_spread, "");
  return verdict;
}

bool check(const std::filesystem::path& file, const ParityCase& parity, const std::string& scheme) {
  OnnxModel model = load_parity_model(file);
  const auto matches = match_parameters(model.graph, parity);
  Trainer trainer(model.graph, parity, scheme);
  const Parameters parameters(model.graph, trainer.pool());
  OptimizerSpec spec;
  spec.momentum = parity.settings.at("momentum");
  Optimizer run = must(Optimizer::create(parameters, spec));

  std::vector<double> losses;
  Verdict logits;
  Verdict gradients;
  for (std::size_t step = 0; step < parity.losses.size(); ++step) {
    losses.push_back(trainer.step(step));
    if (step == 0) {
      logits = compare_logits(parity, trainer.logits());
      gradients = compare_gradients(model.graph, parity, matches, trainer);
    }
    run.step(parity.settings.at("rate"),
             parameters.gradients([&](TensorId id) { return trainer.gradient(id); }));
  }
  const Verdict sgd = compare_optimizer("sgd", load_parity_model(file), parity, trainer.pool());
  const Verdict adamw = compare_optimizer("adamw", load_parity_model(file), parity, trainer.pool());
  const Verdict curve = compare_losses(parity, losses);
  const EngineStats stats = trainer.stats();
  bool passed = (stats.checks_done > 0) == (scheme != "local") && stats.checks_failed == 0;
  std::printf("%-24s %-6s %8llu%s", file.filename().c_str(), scheme.c_str(),
              static_cast<unsigned long long>(stats.checks_done), passed ? "" : " FAIL");
  for (const Verdict& verdict : {logits, gradients, sgd, adamw, curve}) {
    std::printf(" %10.1e%s", verdict.worst, verdict.passed ? "" : " FAIL");
    passed = passed && verdict.passed;
  }
  std::printf("  %s\n", gradients.where.c_str());
  return passed;
}

}  // namespace
}  // namespace tempo

int main(int argc, char** argv) {
  if (argc < 2) tempo::die("usage: parity CASE_DIRECTORY [MODEL.onnx...]");
  const std::filesystem::path directory = argv[1];
  const tempo::ParityCase parity = tempo::load_parity_case(directory);
  std::vector<std::filesystem::path> files(argv + 2, argv + argc);
  if (files.empty()) {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (entry.path().extension() == ".onnx") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
  }
  if (files.empty()) tempo::die(directory.string() + ": no model");
  std::printf("%s: %zu parameters; losses in spreads of PyTorch's float32, which is %.1e\n",
              directory.filename().c_str(), parity.parameters.size(), parity.loss_spread);
  std::printf("%-24s %-6s %8s %10s %10s %10s %10s %10s  %s\n", "model", "scheme", "checks",
              "logits", "gradients", "sgd", "adamw", "losses", "worst gradient");
  bool passed = true;
  for (const auto& file : files) {
    for (const char* scheme : {"local", "tempo"}) {
      passed = tempo::check(file, parity, scheme) && passed;
    }
  }
  return passed ? 0 : 1;
}
