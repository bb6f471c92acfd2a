#include "enclave/job/step_costs.h"

#include <time.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "base/buffer.h"
#include "enclave/obfuscation/key.h"
#include "enclave/offload/local_engine.h"
#include "enclave/offload/tile_passes.h"
#include "enclave/schemes/scheme.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

// Multiply-adds of a measured step, forward: about a second of one core in training.
constexpr std::int64_t kMaxMultiplyAdds = std::int64_t{16} << 30;
// The median step counts, after one that compiles kernels and touches memory.
constexpr int kSteps = 3;

class Clock {
 public:
  explicit Clock(const ThreadPool& pool)
      : clock_(pool.threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC) {}
  double now_s() const {
    timespec now{};
    ::clock_gettime(clock_, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  }

 private:
  clockid_t clock_;
};

// Adds up what each operator takes.
class TimedEngine final : public LinearEngine {
 public:
  TimedEngine(ThreadPool& pool, TimeLedger& ledger, std::size_t ops)
      : engine_(pool, ledger), clock_(pool), seconds_(ops) {}

  std::vector<double> take_seconds() {
    return std::exchange(seconds_, std::vector<double>(seconds_.size()));
  }

  Status begin_step(StepMode mode) override { return engine_.begin_step(mode); }
  Status end_step() override { return engine_.end_step(); }
  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override {
    const double start = clock_.now_s();
    Status status = engine_.forward(op, input, parts);
    seconds_[static_cast<std::size_t>(op.index)] += clock_.now_s() - start;
    return status;
  }
  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input, bool may_defer) override {
    const double start = clock_.now_s();
    Status status = engine_.backward(op, input, parts, d_input, accumulate_input, may_defer);
    seconds_[static_cast<std::size_t>(op.index)] += clock_.now_s() - start;
    return status;
  }

 private:
  LocalEngine engine_;
  Clock clock_;
  std::vector<double> seconds_;
};

// Neither all alike nor sorted, in [-1, 1).
float sample(std::size_t i) {
  return static_cast<float>((i * 2654435761U >> 8) % 65536) / 32768 - 1;
}

void fill_inputs(Executor& executor) {
  for (std::size_t k = 0; k < executor.input_count(); ++k) {
    if (executor.input_type(k) == DataType::kFloat32) {
      const std::span<float> input = executor.input(k);
      for (std::size_t i = 0; i < input.size(); ++i) input[i] = sample(i);
    } else {
      std::ranges::fill(executor.input_ints(k), 0);
    }
  }
}

std::int64_t multiply_adds(const std::vector<LinearOp>& ops) {
  return std::accumulate(
      ops.begin(), ops.end(), std::int64_t{0},
      [](std::int64_t sum, const LinearOp& op) { return sum + op.multiply_adds(); });
}

Result<InsideTimes> measure_inside(Graph& graph, ExecutorOptions options, ThreadPool& pool) {
  const std::int64_t batch = options.batch;
  const auto ops = Executor::linear_ops(graph, options);
  if (!ops.ok()) return ops.error();
  const std::int64_t a_sample = std::max<std::int64_t>(1, multiply_adds(*ops) / batch);
  options.batch = std::clamp<std::int64_t>(kMaxMultiplyAdds / a_sample, 1, batch);
  TimeLedger ledger;
  TimedEngine engine(pool, ledger, ops->size());
  const auto made = Executor::create(graph, options, engine, pool, ledger);
  if (!made.ok()) return made.error();
  Executor& executor = **made;
  const Clock clock(pool);
  std::vector<std::pair<double, InsideTimes>> steps;  // with the whole step's seconds
  for (int step = 0; step <= kSteps; ++step) {
    fill_inputs(executor);
    const double start = clock.now_s();
    TEMPO_RETURN_IF_ERROR(executor.forward(static_cast<std::uint64_t>(step)));
    if (options.mode == StepMode::kTraining) {
      std::ranges::fill(executor.d_output(), 1e-3F);
      TEMPO_RETURN_IF_ERROR(executor.backward());
    }
    const double step_s = clock.now_s() - start;
    std::vector<double> linear_s = engine.take_seconds();
    if (step == 0) continue;
    const double rest_s = std::accumulate(linear_s.begin(), linear_s.end(), step_s, std::minus<>());
    steps.push_back({step_s, {std::move(linear_s), rest_s}});
  }
  const auto median = steps.begin() + kSteps / 2;
  std::nth_element(steps.begin(), median, steps.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  InsideTimes times = std::move(median->second);
  const double scale = static_cast<double>(batch) / static_cast<double>(options.batch);
  times.rest_s *= scale;
  for (double& seconds : times.linear_s) seconds *= scale;
  return times;
}

// One dense product, forward: what a plan says that its passes take, and what they do.
Result<double> measure_pass_factor(ThreadPool& pool) {
  constexpr std::size_t kPositions = 2048;
  constexpr std::size_t kFeatures = 512;
  constexpr int kRounds = 5;  // as plans assume
  LinearOp op;
  op.geometry.batch = kPositions;
  op.geometry.in_c = op.geometry.out_c = kFeatures;
  PlanOptions options;
  options.policy = OffloadPolicy::kAll;
  options.mode = StepMode::kInference;
  options.workers = {{std::uint64_t{1} << 40}};
  options.max_slot_bytes = std::uint64_t{64} << 20;
  const auto plan = make_plan({op}, options);
  if (!plan.ok()) return plan.error();

  SystemRandom random;
  AlignedBuffer<float> input(kPositions * kFeatures);
  AlignedBuffer<float> weights(kFeatures * kFeatures);
  AlignedBuffer<float> output(kPositions * kFeatures);
  AlignedBuffer<float> encoded_input(input.size());
  AlignedBuffer<float> encoded_weights(weights.size());
  AlignedBuffer<float> reply(output.size());
  for (std::size_t i = 0; i < input.size(); ++i) input[i] = sample(i);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = sample(i + 1);
  WeightRows rows_of_weights;
  for (std::size_t i = 0; i < kFeatures; ++i) {
    rows_of_weights.push_back(weights.data() + i * kFeatures);
  }
  const auto bytes = [](AlignedBuffer<float>& buffer) {
    return reinterpret_cast<std::byte*>(buffer.data());
  };
  const Clock clock(pool);
  std::vector<double> steps;
  for (int step = 0; step <= kSteps; ++step) {
    double start = clock.now_s();
    const OperatorKeys keys =
        draw_keys(Scheme::kTempo, random, CoefficientSpace(), kFeatures, kPositions, {kFeatures});
    const TileContext context{&op.geometry, &keys.n, &keys.p, &pool};
    const std::vector<TileRows> rows =
        make_tile_rows(op.geometry, keys.p, {{0, static_cast<std::int64_t>(kPositions)}});
    const ProductChecks checks =
        forward_checks(context, random, kRounds, rows_of_weights, keys.m[0]);
    ExpectedRows expected;
    encode_weights(context, rows_of_weights, keys.m[0], bytes(encoded_weights));
    encode_input(context, input.data(), rows[0], &checks, &expected, nullptr, nullptr,
                 bytes(encoded_input));
    double seconds = clock.now_s() - start;
    gemm(Transpose::kNo, Transpose::kYes, kPositions, kFeatures, kFeatures, 1, encoded_input.data(),
         kFeatures, encoded_weights.data(), kFeatures, 0, reply.data(), kFeatures);
    start = clock.now_s();
    decode_output(context, bytes(reply), rows[0], keys.m[0], checks, expected,
                  {{output.data(), nullptr, kFeatures, kFeatures}}, nullptr);
    seconds += clock.now_s() - start;
    if (step > 0) steps.push_back(seconds);
  }
  std::nth_element(steps.begin(), steps.begin() + kSteps / 2, steps.end());
  return steps[kSteps / 2] / (plan->ops[0].offloaded_cost_ms * 1e-3);
}

}  // namespace

Result<StepCosts> measure_step_costs(Graph& graph, const ExecutorOptions& options,
                                     int local_channel_block, ThreadPool& pool) {
  StepCosts costs;
  ExecutorOptions local_options = options;
  local_options.channel_block = local_channel_block;
  local_options.defers_weight_gradients = false;
  auto local = measure_inside(graph, local_options, pool);
  if (!local.ok()) return local.error();
  costs.local = std::move(*local);
  costs.beside = costs.local;
  if (options.channel_block != local_channel_block) {
    auto beside = measure_inside(graph, options, pool);
    if (!beside.ok()) return beside.error();
    costs.beside = std::move(*beside);
  }
  const auto pass_factor = measure_pass_factor(pool);
  if (!pass_factor.ok()) return pass_factor.error();
  costs.pass_factor = *pass_factor;
  return costs;
}

}  // namespace tempo
