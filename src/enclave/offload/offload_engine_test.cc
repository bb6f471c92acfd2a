#include "enclave/offload/offload_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "enclave/offload/fake_link.h"
#include "enclave/offload/local_engine.h"
#include "enclave/offload/sample_operators.h"

namespace tempo {
namespace {

constexpr int kUsualPatienceMs = 2000;
constexpr std::uint64_t kSharedBytes = std::uint64_t{16} << 20;

class Job {
 public:
  Job(const std::vector<Layer>& geometries, FakeLink& link, ParallelismChoice parallelism)
      : Job(geometries, Scheme::kTempo, link, TamperPolicy::kQuarantine, 2000, true, true, false,
            false, parallelism) {}
  Job(const std::vector<Layer>& geometries, Scheme scheme, FakeLink& link,
      TamperPolicy on_tamper = TamperPolicy::kQuarantine, int patience_ms = kUsualPatienceMs,
      bool needs_weight_gradient = true, bool needs_input_gradient = true, bool reuses_keys = false,
      bool keeps_shares = false, ParallelismChoice parallelism = ParallelismChoice::kAuto)
      : pool_(2),
        local_(pool_, ledger_),
        dispatcher_(link, stats_, ledger_,
                    {std::chrono::milliseconds(patience_ms), std::chrono::milliseconds(patience_ms),
                     std::chrono::milliseconds(10 * patience_ms)},
                    [&link] { return link.now(); }) {
    PlanOptions options;
    options.scheme = scheme;
    options.policy = OffloadPolicy::kAll;
    options.parallelism = {{"", parallelism}};
    for (const WorkerInfo& worker : link.workers()) {
      options.workers.push_back({worker.memory_limit_bytes});
    }
    options.max_slot_bytes = link.max_slot_bytes();
    options.tile_bytes = 1 << 18;
    options.goal.t = 1e-9;
    options.max_gradient_inner = 512;
    ops_ = linear_ops(geometries);
    for (LinearOp& op : ops_) {
      op.needs_weight_gradient = needs_weight_gradient;
      op.needs_input_gradient = needs_input_gradient;
    }
    auto plan = make_plan(ops_, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().one_line());
    EngineOptions engine_options;
    engine_options.plan = options;
    engine_options.on_tamper = on_tamper;
    engine_options.reuses_keys = reuses_keys;
    engine_options.keeps_shares = keeps_shares;
    engine_ = std::make_unique<OffloadEngine>(
        std::move(plan).value(), engine_options,
        EngineResources{&dispatcher_, &local_, &random_, &pool_, &ledger_, &stats_});
  }

  // Weights are announced, and their gradients may come late, unless `overlaps` is false.
  Status step(std::vector<Tensors>& tensors, bool accumulate = false, bool overlaps = true) {
    TEMPO_RETURN_IF_ERROR(engine_->begin_step(StepMode::kTraining));
    if (overlaps) announce_weights(*engine_, ops_, tensors);
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      Tensors& t = tensors[i];
      TEMPO_RETURN_IF_ERROR(engine_->forward(ops_[i], t.input.data(), t.forward_parts()));
    }
    for (std::size_t i = ops_.size(); i-- > 0;) {
      Tensors& t = tensors[i];
      TEMPO_RETURN_IF_ERROR(engine_->backward(ops_[i], t.input.data(), t.backward_parts(),
                                              t.d_input.data(), accumulate, overlaps));
    }
    return ends_early ? engine_->end_step_early() : engine_->end_step();
  }
  bool ends_early = false;

  void reference_step(std::vector<Tensors>& tensors, bool accumulate = false) {
    ASSERT_TRUE(local_step(local_, ops_, tensors, accumulate).ok());
  }

  void reference_forward(std::size_t i, Tensors& t) {
    ASSERT_TRUE(local_.forward(ops_[i], t.input.data(), t.forward_parts()).ok());
  }

  EngineStats& stats() { return stats_; }
  const OffloadEngine& engine() const { return *engine_; }
  OffloadEngine& engine() { return *engine_; }
  const std::vector<LinearOp>& ops() const { return ops_; }

 private:
  ThreadPool pool_;
  TimeLedger ledger_;
  EngineStats stats_;
  SystemRandom random_;
  LocalEngine local_;
  Dispatcher dispatcher_;
  std::vector<LinearOp> ops_;
  std::unique_ptr<OffloadEngine> engine_;
};

void expect_same(const Tensors& got, const Tensors& want, const std::string& name) {
  EXPECT_LT(relative_error(got.output, want.output), kTolerance) << name << " output";
  EXPECT_LT(relative_error(got.d_weights, want.d_weights), kTolerance) << name << " d_weights";
  EXPECT_LT(relative_error(got.d_input, want.d_input), kTolerance) << name << " d_input";
  ASSERT_EQ(got.moments.size(), want.moments.size()) << name;
  for (std::size_t k = 0; k < want.moments.size(); ++k) {
    const ColumnMoments& moments = want.moments[k];
    ASSERT_EQ(got.moments[k].count, moments.count) << name;
    ASSERT_EQ(got.moments[k].mean.size(), moments.mean.size()) << name;
    for (std::size_t j = 0; j < moments.mean.size(); ++j) {
      const double deviation = std::sqrt(moments.m2[j] / static_cast<double>(moments.count));
      EXPECT_NEAR(got.moments[k].mean[j], moments.mean[j], 1e-5 * deviation + 1e-6) << name;
      EXPECT_NEAR(got.moments[k].m2[j], moments.m2[j], 1e-5 * moments.m2[j] + 1e-12) << name;
    }
  }
}

std::vector<Layer> all_geometries() {
  ConvGeometry dilated = conv(2, 9, 4, 8, 3, 1, 2);
  dilated.dilation_h = dilated.dilation_w = 2;
  ConvGeometry lopsided = conv(3, 7, 5, 6, 3, 2, 1);
  lopsided.pad_bottom = 0;
  lopsided.pad_right = 2;
  lopsided.out_h = (7 + 1 - 3) / 2 + 1;
  lopsided.out_w = (7 + 3 - 3) / 2 + 1;
  return {conv(4, 16, 8, 16, 3, 1, 1),
          conv(4, 16, 16, 24, 3, 2, 1),
          conv(5, 8, 13, 7, 1, 1, 0),
          conv(3, 8, 16, 16, 1, 2, 0),
          dilated,
          lopsided,
          fully_connected(32, 100, 70),
          fully_connected(5, 33, 10),
          fully_connected(1, 17, 64),
          {fully_connected(48, 40, 0), {64, 64, 64}},  // two workers cut the middle one
          {fully_connected(20, 33, 0), {5, 1, 30, 4}},
          {conv(4, 8, 16, 0, 1, 1, 0), {8, 32}},
          {conv(3, 9, 6, 0, 3, 2, 1), {7, 12}},
          Layer::product(6, 65, 16, 65),
          Layer::product(5, 65, 65, 16),
          Layer::product(1, 33, 20, 7)};
}

class EveryScheme : public testing::TestWithParam<std::tuple<Scheme, int, ParallelismChoice>> {
 protected:
  static Job job_of(const std::vector<Layer>& layers, FakeLink& link) {
    const auto [scheme, workers, parallelism] = GetParam();
    return {layers, scheme, link,       TamperPolicy::kQuarantine, 2000, true, true,
            false,  false,  parallelism};
  }
};

TEST_P(EveryScheme, GivesWhatTheLocalEngineGives) {
  const int workers = std::get<1>(GetParam());
  const auto geometries = all_geometries();
  FakeLink link(workers, kSharedBytes);
  Job job = job_of(geometries, link);
  for (const bool accumulate : {false, true}) {
    const bool overlaps = accumulate;
    std::vector<Tensors> got(geometries.begin(), geometries.end());
    std::vector<Tensors> want(geometries.begin(), geometries.end());
    const Status status = job.step(got, accumulate, overlaps);
    ASSERT_TRUE(status.ok()) << status.error().one_line();
    job.reference_step(want, accumulate);
    for (std::size_t i = 0; i < geometries.size(); ++i) {
      expect_same(got[i], want[i], job.ops()[i].name);
    }
  }
  EXPECT_EQ(job.stats().checks_failed, 0U);
  EXPECT_GT(job.stats().checks_done, 2 * 3 * geometries.size() - 1);
  EXPECT_TRUE(job.stats().events.empty());
  for (int w = 0; w < workers; ++w) EXPECT_EQ(link.resident(w), 0U) << "dropped after the step";
  EXPECT_EQ(link.slots_in_use(), 0U);
}

TEST_P(EveryScheme, MovesTheBytesThatThePlanSays) {
  const int workers = std::get<1>(GetParam());
  const auto geometries = all_geometries();
  FakeLink link(workers, kSharedBytes);
  Job job = job_of(geometries, link);
  std::vector<Tensors> tensors(geometries.begin(), geometries.end());
  ASSERT_TRUE(job.step(tensors).ok());
  EXPECT_EQ(job.stats().bytes_to_workers, job.engine().plan().bytes_to_workers);
  EXPECT_EQ(job.stats().bytes_from_workers, job.engine().plan().bytes_from_workers);
  EXPECT_EQ(job.stats().checks_done, static_cast<std::uint64_t>(job.engine().plan().products));
  // Forward and two gradients.
  double work = 0;
  for (const WorkerStats& worker : job.stats().workers) work += worker.multiply_adds;
  EXPECT_EQ(work, 3.0 * static_cast<double>(job.engine().plan().multiply_adds));
}

INSTANTIATE_TEST_SUITE_P(Schemes, EveryScheme,
                         testing::Combine(testing::Values(Scheme::kPlain, Scheme::kTempo),
                                          testing::Values(1, 2, 3, 4),
                                          testing::Values(ParallelismChoice::kAuto,
                                                          ParallelismChoice::kData,
                                                          ParallelismChoice::kOutFeatures,
                                                          ParallelismChoice::kInFeatures)));

class EveryCut : public testing::TestWithParam<ParallelismChoice> {};

INSTANTIATE_TEST_SUITE_P(Cuts, EveryCut,
                         testing::Values(ParallelismChoice::kAuto, ParallelismChoice::kInFeatures));

TEST_P(EveryCut, InferenceLeavesNothingBehind) {
  const std::vector<Layer> geometries{conv(4, 8, 8, 16, 3, 1, 1),
                                      fully_connected(4, 64, 48),
                                      {fully_connected(4, 64, 0), {20, 40}},
                                      Layer::product(3, 20, 12, 17)};
  FakeLink link(2, kSharedBytes);
  Job job(geometries, link, GetParam());
  std::vector<Tensors> tensors(geometries.begin(), geometries.end());
  std::vector<Tensors> want(geometries.begin(), geometries.end());
  job.reference_step(want);
  ASSERT_TRUE(job.engine().begin_step(StepMode::kInference).ok());
  for (std::size_t i = 0; i < geometries.size(); ++i) {
    ASSERT_TRUE(job.engine()
                    .forward(job.ops()[i], tensors[i].input.data(), tensors[i].forward_parts())
                    .ok());
    EXPECT_LT(relative_error(tensors[i].output, want[i].output), kTolerance);
  }
  ASSERT_TRUE(job.engine().end_step().ok());
  EXPECT_EQ(link.resident(0) + link.resident(1), 0U);
}

// ---- --insecure-key-reuse ----------------------------------------------------------------------

const std::vector<Layer>& inferred_geometries() {
  static const std::vector<Layer> geometries{conv(4, 8, 8, 20, 3, 1, 1),
                                             fully_connected(4, 64, 48)};
  return geometries;
}

struct Inference {
  std::vector<std::vector<float>> weights;  // W' as they were put, in order
  std::set<std::vector<float>> inputs;      // X'
  std::uint64_t checks = 0;
};

// Three batches, each of other inputs; outputs are held against the local engine's.
Inference infer_three_batches(FakeLink& link, bool reuses_keys,
                              ParallelismChoice parallelism = ParallelismChoice::kAuto) {
  const auto& geometries = inferred_geometries();
  link.record = true;
  Inference seen;
  {
    Job job(geometries, Scheme::kTempo, link, TamperPolicy::kQuarantine, 2000, true, true,
            reuses_keys, false, parallelism);
    const std::vector<Tensors> model(geometries.begin(), geometries.end());
    for (unsigned batch = 0; batch < 3; ++batch) {
      EXPECT_TRUE(job.engine().begin_step(StepMode::kInference).ok());
      for (std::size_t i = 0; i < geometries.size(); ++i) {
        Tensors got(geometries[i], 100 + batch);
        got.weights = model[i].weights;
        Tensors want = got;
        EXPECT_TRUE(job.engine().forward(job.ops()[i], got.input.data(), got.forward_parts()).ok());
        job.reference_forward(i, want);
        EXPECT_LT(relative_error(got.output, want.output), kTolerance) << "batch " << batch;
      }
      EXPECT_TRUE(job.engine().end_step().ok());
    }
    seen.checks = job.stats().checks_done;
    EXPECT_EQ(job.stats().checks_failed, 0U);
  }
  if (!link.loses_worker) {  // nobody reaches what a lost one holds
    EXPECT_EQ(link.resident(0) + link.resident(1), 0U) << "dropped with the engine";
  }
  for (const FakeLink::Received& received : link.received) {
    // W' of the convolution has 20 rows, those of the layer are 24x64 or 48x32; X' have others.
    // With one worker left, that of the layer is dealt out anew, as one: not what this is about.
    const Task& task = received.task;
    const bool is_weights =
        task.rows == 20 || task.rows == 24 || (task.rows == 48 && task.cols == 32);
    if (is_weights) {
      seen.weights.push_back(received.payload);
    } else {
      seen.inputs.insert(received.payload);
    }
  }
  return seen;
}

std::size_t distinct(const std::vector<std::vector<float>>& payloads) {
  return std::set(payloads.begin(), payloads.end()).size();
}

class KeyReuse : public EveryCut {};
INSTANTIATE_TEST_SUITE_P(Cuts, KeyReuse,
                         testing::Values(ParallelismChoice::kAuto, ParallelismChoice::kInFeatures));

TEST_P(KeyReuse, PutsWeightsOnceAWorkerAndChecksEveryProduct) {
  FakeLink fresh_link(2, kSharedBytes);
  const Inference fresh = infer_three_batches(fresh_link, false, GetParam());
  // Both workers have W' of the convolution, and one slice of the layer's each.
  EXPECT_EQ(fresh.weights.size(), 3U * 4U);
  EXPECT_EQ(distinct(fresh.weights), 3U * 3U) << "encoded afresh for every batch";
  FakeLink reused_link(2, kSharedBytes);
  const Inference reused = infer_three_batches(reused_link, true, GetParam());
  EXPECT_EQ(reused.weights.size(), 4U);
  EXPECT_EQ(distinct(reused.weights), 3U);
  EXPECT_EQ(reused.inputs.size(), fresh.inputs.size());
  EXPECT_EQ(reused.checks, fresh.checks);
}

// What goes to another worker when one is lost, in whichever batch, is what was sent before.
TEST_P(KeyReuse, SendsTheSameBytesAfterALoss) {
  for (int fatal_task = 1; fatal_task < 40; ++fatal_task) {
    FakeLink link(2, kSharedBytes);
    int seen_tasks = 0;
    link.loses_worker = [&](const Task&) { return ++seen_tasks == fatal_task; };
    const Inference seen = infer_three_batches(link, true, GetParam());
    ASSERT_GT(seen_tasks, fatal_task);
    EXPECT_LE(distinct(seen.weights), 3U) << "lost at task " << fatal_task;
    EXPECT_LE(seen.weights.size(), 5U);
  }
}

// The flag is for predictions alone.
TEST(KeyReuseFlag, NeverHappensInTraining) {
  const std::vector<Layer> geometries{fully_connected(4, 64, 48)};
  FakeLink link(1, kSharedBytes);
  link.record = true;
  Job job(geometries, Scheme::kTempo, link, TamperPolicy::kQuarantine, 2000, true, true, true);
  std::vector<Tensors> tensors(geometries.begin(), geometries.end());
  ASSERT_TRUE(job.step(tensors).ok());
  ASSERT_TRUE(job.step(tensors).ok());
  EXPECT_EQ(link.resident(0), 0U);
  std::vector<std::vector<float>> weights;
  for (const auto& received : link.received) {
    if (received.task.rows == 48) weights.push_back(received.payload);
  }
  EXPECT_EQ(weights.size(), 2U);
  EXPECT_EQ(distinct(weights), 2U);
}

std::size_t distinct_payloads(const FakeLink& link) {
  std::set<std::vector<float>> distinct;
  for (const FakeLink::Received& received : link.received) distinct.insert(received.payload);
  return distinct.size();
}

// Whatever task a worker dies on, the step's results are those of an undisturbed one, and what is
// sent again is byte for byte what was sent before: two encodings of one operand would be more than
// an undisturbed step shows.
TEST_P(EveryCut, SurvivesALostWorkerAtEveryTask) {
  const std::vector<Layer> geometries{conv(4, 12, 8, 16, 3, 1, 1),
                                      fully_connected(16, 60, 40),
                                      {fully_connected(16, 30, 0), {20, 12, 16}},
                                      Layer::product(3, 20, 12, 17)};
  std::vector<Tensors> want(geometries.begin(), geometries.end());
  int tasks = 0;
  std::size_t payloads = 0;
  {
    FakeLink link(2, kSharedBytes);
    link.record = true;
    link.loses_worker = [&](const Task&) { return ++tasks == 0; };
    Job job(geometries, link, GetParam());
    ASSERT_TRUE(job.step(want).ok());
    payloads = distinct_payloads(link);
  }
  ASSERT_GT(tasks, 20);
  for (int fatal_task = 1; fatal_task <= tasks; ++fatal_task) {
    FakeLink link(2, kSharedBytes);
    link.record = true;
    int seen = 0;
    link.loses_worker = [&](const Task&) { return ++seen == fatal_task; };
    Job job(geometries, link, GetParam());
    std::vector<Tensors> got(geometries.begin(), geometries.end());
    const Status status = job.step(got);
    ASSERT_TRUE(status.ok()) << fatal_task << ": " << status.error().one_line();
    for (std::size_t i = 0; i < geometries.size(); ++i) {
      expect_same(got[i], want[i], "lost at task " + std::to_string(fatal_task));
    }
    EXPECT_EQ(distinct_payloads(link), payloads) << "lost at task " << fatal_task;
    EXPECT_EQ(job.stats().checks_failed, 0U);
    EXPECT_EQ(link.slots_in_use(), 0U);
  }
}

// ---- weight gradients that come in the next step
// -------------------------------------------------

// Two steps, the first of which does not wait for the weight gradient of its last product: nobody
// answers that one before the step is over. What it was made of is overwritten then.
class LateGradient : public testing::Test {
 protected:
  LateGradient() {
    link_.withholds = [this](const Task& task) { return is_held_ && is_late_gradient(task); };
    for (std::vector<Tensors>* step : {&first_, &second_}) {
      for (const Layer& layer : layers_) step->emplace_back(layer, step == &first_ ? 1 : 2);
    }
    want_first_ = first_;
    want_second_ = second_;
  }

  // Of operator 0, whose n no other has.
  static bool is_late_gradient(const Task& task) {
    return task.verb == Verb::kMultiply && (task.flags & kTransposeA) != 0 &&
           task.cols == static_cast<std::uint32_t>(layers_[0].geometry.n());
  }

  void run_first(Job& job) {
    job.ends_early = true;
    const Status status = job.step(first_);
    ASSERT_TRUE(status.ok()) << status.error().one_line();
    for (Tensors& t : first_) {
      for (std::vector<float>* operand : {&t.input, &t.weights, &t.d_output}) {
        std::fill(operand->begin(), operand->end(), std::numeric_limits<float>::quiet_NaN());
      }
    }
  }
  void run_second(Job& job) {
    job.ends_early = false;
    const Status status = job.step(second_);
    ASSERT_TRUE(status.ok()) << status.error().one_line();
    job.reference_step(want_first_);
    job.reference_step(want_second_);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      expect_same(first_[i], want_first_[i], "first step, " + job.ops()[i].name);
      expect_same(second_[i], want_second_[i], "second step, " + job.ops()[i].name);
    }
    EXPECT_EQ(link_.slots_in_use(), 0U);
  }

  static inline const std::vector<Layer> layers_{{conv(4, 12, 8, 0, 3, 1, 1), {16, 5}},
                                                 fully_connected(16, 60, 40)};
  FakeLink link_{2, kSharedBytes};
  bool is_held_ = true;
  std::vector<Tensors> first_, second_, want_first_, want_second_;
};

TEST_F(LateGradient, ComesInTheNextStep) {
  Job job(layers_, Scheme::kTempo, link_);
  run_first(job);
  for (const float x : first_[0].d_weights) ASSERT_EQ(x, 0) << "nobody has answered yet";
  is_held_ = false;
  run_second(job);
  EXPECT_EQ(job.stats().checks_failed, 0U);
  EXPECT_TRUE(job.stats().events.empty());
  EXPECT_EQ(link_.resident(0) + link_.resident(1), 0U);
}

TEST_F(LateGradient, CanBeAskedForAlone) {
  Job job(layers_, Scheme::kTempo, link_);
  run_first(job);
  is_held_ = false;
  ASSERT_TRUE(job.engine().settle().ok());
  job.reference_step(want_first_);
  expect_same(first_[0], want_first_[0], "settled");
  EXPECT_EQ(link_.resident(0) + link_.resident(1), 0U);
  EXPECT_TRUE(job.engine().settle().ok()) << "nothing is left";
}

TEST_F(LateGradient, IsDoneAgainWhenItIsWrong) {
  bool has_lied = false;
  link_.after_multiply = [&](const Task& task, std::vector<float>& result) {
    if (!is_late_gradient(task) || (task.flags & kReturn) == 0) return;
    if (!std::exchange(has_lied, true)) result[3] += 1;
  };
  Job job(layers_, Scheme::kTempo, link_);
  run_first(job);
  is_held_ = false;
  run_second(job);
  EXPECT_EQ(job.stats().checks_failed, 1U);
}

// Whoever takes the place of a worker knows nothing of what that one was asked.
TEST_F(LateGradient, IsAskedForAgainWhenWorkersJoined) {
  Job job(layers_, Scheme::kTempo, link_);
  run_first(job);
  link_.join(1);
  link_.join(2);
  is_held_ = false;
  const auto before = link_.now();
  run_second(job);
  EXPECT_EQ(job.stats().checks_failed, 0U);
  EXPECT_LT(link_.now() - before, std::chrono::milliseconds(kUsualPatienceMs))
      << "nobody waits for an answer that goes to somebody who is gone";
}

// Whatever task of both steps a worker dies on.
TEST_F(LateGradient, SurvivesALostWorkerAtEveryTask) {
  const std::vector<Tensors> first = first_;
  const std::vector<Tensors> second = second_;
  int tasks = 1;
  for (int fatal_task = 1; fatal_task <= tasks; ++fatal_task) {
    SCOPED_TRACE(fatal_task);
    first_ = want_first_ = first;
    second_ = want_second_ = second;
    is_held_ = true;
    link_ = FakeLink(2, kSharedBytes);
    link_.withholds = [this](const Task& task) { return is_held_ && is_late_gradient(task); };
    int seen = 0;
    link_.loses_worker = [&](const Task&) { return ++seen == fatal_task; };
    Job job(layers_, Scheme::kTempo, link_);
    run_first(job);
    is_held_ = false;
    run_second(job);
    EXPECT_EQ(job.stats().checks_failed, 0U);
    tasks = std::max(tasks, seen);
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(tasks, 40);
}

// All tiles of a slice are judged with the same vectors. After a refusal, what the workers have not
// been told of yet is multiplied again and judged with new ones.
TEST(OffloadEngine, ARefusalRetiresTheVectorsOfItsSlice) {
  const std::vector<Layer> geometries{conv(4, 8, 8, 16, 3, 1, 1)};  // few enough for the queue
  FakeLink link(2, kSharedBytes);
  link.is_lazy = true;  // every tile is issued before the first verdict
  int forward = 0;
  std::set<std::uint64_t> tiles;
  link.after_multiply = [&](const Task& task, std::vector<float>& result) {
    if ((task.flags & kTransposeB) == 0) return;
    ++forward;
    tiles.insert(task.a);
    if (task.worker == 0 && forward == 1) result[0] += 1;
  };
  Job job(geometries, Scheme::kTempo, link);
  std::vector<Tensors> got(geometries.begin(), geometries.end());
  std::vector<Tensors> want(geometries.begin(), geometries.end());
  ASSERT_TRUE(job.step(got).ok());
  job.reference_step(want);
  expect_same(got[0], want[0], "after a refusal");
  EXPECT_EQ(job.stats().checks_failed, 1U);
  const auto slices = static_cast<int>(job.engine().plan().ops[0].p_slices.size());
  ASSERT_GE(slices, 3);
  EXPECT_EQ(forward, 2 * slices) << "every tile once more";
}

// An off-loader that takes tasks and never completes one: its queue stays full for good.
TEST(OffloadEngine, GoesOnAloneWhenTheQueueIsNeverServed) {
  const std::vector<Layer> geometries{conv(32, 12, 8, 16, 3, 1, 1)};
  FakeLink link(3, kSharedBytes);
  link.silent = true;
  Job job(geometries, Scheme::kTempo, link, TamperPolicy::kQuarantine, 200);
  std::vector<Tensors> got(geometries.begin(), geometries.end());
  std::vector<Tensors> want(geometries.begin(), geometries.end());
  ASSERT_TRUE(job.step(got).ok());
  job.reference_step(want);
  ASSERT_GT(job.engine().plan().ops[0].tiles.size(), 8U) << "more tasks than the queue holds";
  expect_same(got[0], want[0], "silent");
  for (const WorkerStats& worker : job.stats().workers) EXPECT_TRUE(worker.lost);
}

// Operands so large that their sums overflow say nothing about the worker.
TEST(OffloadEngine, DoesInsideWhatNoCheckCanWeigh) {
  const std::vector<Layer> geometries{conv(4, 12, 8, 16, 3, 1, 1)};
  FakeLink link(2, kSharedBytes);
  Job job(geometries, Scheme::kTempo, link);
  std::vector<Tensors> tensors(geometries.begin(), geometries.end());
  for (float& x : tensors[0].input) x *= 1e25F;
  ASSERT_TRUE(job.step(tensors).ok());
  EXPECT_EQ(job.stats().checks_failed, 0U);
  for (const WorkerStats& worker : job.stats().workers) EXPECT_FALSE(worker.lost);
  for (const float x : tensors[0].output) ASSERT_TRUE(std::isfinite(x));
}

TEST(OffloadEngine, LeavesNothingBehindOfAnOperatorWithoutBackward) {
  const std::vector<Layer> geometries{conv(4, 12, 8, 16, 3, 1, 1)};
  FakeLink link(2, kSharedBytes);
  Job job(geometries, Scheme::kTempo, link);
  std::vector<Tensors> tensors(geometries.begin(), geometries.end());
  Tensors& t = tensors[0];
  ASSERT_TRUE(job.engine().begin_step(StepMode::kTraining).ok());
  ASSERT_TRUE(job.engine().forward(job.ops()[0], t.input.data(), t.forward_parts()).ok());
  EXPECT_GT(link.resident(0) + link.resident(1), 0U);
  ASSERT_TRUE(job.engine().end_step().ok());
  EXPECT_EQ(link.resident(0) + link.resident(1), 0U);
}

// Frozen weights with something trained upstream, and with nothing.
TEST(OffloadEngine, SendsNoProductsForFrozenWeights) {
  const ConvGeometry g = conv(4, 12, 8, 16, 3, 1, 1);
  for (const bool needs_input : {true, false}) {
    FakeLink link(2, kSharedBytes);
    std::size_t weight_products = 0;
    std::size_t input_products = 0;
    link.after_multiply = [&](const Task& task, std::vector<float>&) {
      weight_products += (task.flags & kTransposeA) != 0 ? 1 : 0;
      input_products += (task.flags & (kTransposeA | kTransposeB)) == 0 ? 1 : 0;
    };
    Job job({g}, Scheme::kTempo, link, TamperPolicy::kQuarantine, 2000, false, needs_input);
    const LinearOp& op = job.ops()[0];
    Tensors t(g);
    Tensors want(g);
    ASSERT_TRUE(job.engine().begin_step(StepMode::kTraining).ok());
    ASSERT_TRUE(job.engine().forward(op, t.input.data(), t.forward_parts()).ok());
    EXPECT_EQ(link.resident(0) + link.resident(1) > 0, needs_input);
    if (needs_input) {
      ASSERT_TRUE(job.engine()
                      .backward(op, t.input.data(),
                                {{t.weights.data(), t.d_output.data(), nullptr}}, t.d_input.data(),
                                false, false)
                      .ok());
      std::vector<Tensors> reference{want};
      job.reference_step(reference);
      EXPECT_LT(relative_error(t.d_input, reference[0].d_input), kTolerance);
    }
    ASSERT_TRUE(job.engine().end_step().ok());
    EXPECT_EQ(weight_products, 0U);
    EXPECT_EQ(input_products > 0, needs_input);
    EXPECT_EQ(link.resident(0) + link.resident(1), 0U);
  }
}

TEST_P(EveryCut, GoesOnAloneWithoutWorkers) {
  const std::vector<Layer> geometries{conv(4, 12, 8, 16, 3, 2, 1),
                                      fully_connected(16, 60, 40),
                                      {conv(3, 9, 6, 0, 3, 2, 1), {7, 12}}};
  for (const int last_task : {1, 2, 5, 9, 14}) {
    FakeLink link(2, kSharedBytes);
    int seen = 0;
    link.loses_worker = [&](const Task&) { return ++seen >= last_task; };
    Job job(geometries, link, GetParam());
    std::vector<Tensors> got(geometries.begin(), geometries.end());
    std::vector<Tensors> want(geometries.begin(), geometries.end());
    ASSERT_TRUE(job.step(got).ok());
    job.reference_step(want);
    for (std::size_t i = 0; i < geometries.size(); ++i) expect_same(got[i], want[i], "alone");
    EXPECT_TRUE(job.stats().workers[0].lost);
    EXPECT_TRUE(job.stats().workers[1].lost);
  }
}

TEST(OffloadEngine, GoesOnAloneWithoutOffLoader) {
  const std::vector<Layer> geometries{conv(4, 12, 8, 16, 3, 1, 1)};
  FakeLink link(2, kSharedBytes);
  int seen = 0;
  link.loses_worker = [&](const Task&) {
    if (++seen == 4) link.broken = true;
    return false;
  };
  Job job(geometries, Scheme::kTempo, link);
  std::vector<Tensors> got(geometries.begin(), geometries.end());
  std::vector<Tensors> want(geometries.begin(), geometries.end());
  ASSERT_TRUE(job.step(got).ok());
  job.reference_step(want);
  expect_same(got[0], want[0], "alone");
  ASSERT_EQ(job.stats().events.size(), 1U);
  EXPECT_EQ(job.stats().events[0].worker, -1);
}

// What stacking is for: X' goes out once and dX' comes back once for all parts.
TEST(OffloadEngine, SendsTheInputOfAStackOnce) {
  const ConvGeometry one = fully_connected(64, 48, 32);
  const std::int64_t x = one.p() * one.n() * 4;
  const auto traffic = [](const std::vector<Layer>& layers) {
    FakeLink link(1, kSharedBytes);
    Job job(layers, Scheme::kTempo, link);
    std::vector<Tensors> tensors(layers.begin(), layers.end());
    EXPECT_TRUE(job.step(tensors).ok());
    EXPECT_EQ(job.stats().bytes_to_workers, job.engine().plan().bytes_to_workers);
    EXPECT_EQ(job.stats().bytes_from_workers, job.engine().plan().bytes_from_workers);
    EXPECT_EQ(job.stats().checks_done, static_cast<std::uint64_t>(job.engine().plan().products));
    return job.stats();
  };
  const EngineStats apart = traffic({one, one, one});
  const EngineStats stacked = traffic({{one, {32, 32, 32}}});
  EXPECT_EQ(stacked.bytes_to_workers + 2 * x, apart.bytes_to_workers);
  EXPECT_EQ(stacked.bytes_from_workers + 2 * x, apart.bytes_from_workers);
  EXPECT_EQ(3 * stacked.checks_done, apart.checks_done);
}

// One element of one product is off by 1 % of its column's rms; every product of a step in turn.
TEST_P(EveryCut, CatchesACheatInEveryProduct) {
  const std::vector<Layer> geometries{conv(4, 12, 8, 16, 3, 1, 1),
                                      fully_connected(16, 60, 40),
                                      {fully_connected(16, 30, 0), {20, 12, 16}},
                                      Layer::product(3, 20, 12, 17)};
  std::vector<Tensors> want(geometries.begin(), geometries.end());
  int products = 0;
  {
    FakeLink link(3, kSharedBytes);
    link.after_multiply = [&](const Task&, std::vector<float>&) { ++products; };
    Job job(geometries, link, GetParam());
    ASSERT_TRUE(job.step(want).ok());
  }
  for (int cheated = 1; cheated <= products; ++cheated) {
    FakeLink link(3, kSharedBytes);
    int seen = 0;
    std::uint32_t cheater = 0;
    std::uint32_t cheated_rows = 0;
    link.after_multiply = [&](const Task& task, std::vector<float>& out) {
      if (++seen != cheated) return;
      cheater = task.worker;
      cheated_rows = task.rows;
      const std::uint32_t row = task.rows / 2;
      const std::uint32_t column = task.cols / 3;
      double squares = 0;
      for (std::uint32_t c = 0; c < task.cols; ++c) {
        squares += double{out[row * task.cols + c]} * out[row * task.cols + c];
      }
      out[row * task.cols + column] += static_cast<float>(0.3 * std::sqrt(squares / task.cols));
    };
    Job job(geometries, link, GetParam());
    std::vector<Tensors> got(geometries.begin(), geometries.end());
    const Status status = job.step(got);
    ASSERT_TRUE(status.ok()) << status.error().one_line();
    EXPECT_EQ(job.stats().checks_failed, 1U) << "product " << cheated;
    ASSERT_EQ(job.stats().events.size(), 1U);
    EXPECT_EQ(job.stats().events[0].kind, EngineEvent::Kind::kTampered);
    EXPECT_EQ(job.stats().events[0].worker, static_cast<int>(cheater));
    EXPECT_FALSE(job.stats().events[0].operator_name.empty());
    ASSERT_TRUE(job.stats().events[0].tamper.has_value());
    EXPECT_EQ(job.stats().events[0].tamper->rows, cheated_rows);
    EXPECT_EQ(job.stats().events[0].tamper->refused_rows, 1U);
    for (std::size_t i = 0; i < geometries.size(); ++i) {
      expect_same(got[i], want[i], "cheated in product " + std::to_string(cheated));
    }
  }
}

// The record of a cheat whose size is known, without keys between worker and result.
TEST(OffloadEngine, RecordsWhatWasRefusedAndByHowMuch) {
  const std::vector<Layer> layers{fully_connected(96, 60, 40)};
  FakeLink link(1, kSharedBytes);
  constexpr double kChange = 0.5;  // over the rms
  std::uint32_t rows = 0;
  link.after_multiply = [&](const Task& task, std::vector<float>& out) {
    if (rows != 0) return;
    rows = task.rows;
    double squares = 0;
    for (std::size_t i = task.cols; i < out.size(); ++i) squares += double{out[i]} * out[i];
    const double rms = std::sqrt(squares / static_cast<double>(out.size() - task.cols));
    out[3] += static_cast<float>(kChange * rms);  // of the first row
  };
  Job job(layers, Scheme::kPlain, link);
  std::vector<Tensors> tensors(layers.begin(), layers.end());
  ASSERT_TRUE(job.step(tensors).ok());
  ASSERT_EQ(job.stats().events.size(), 1U);
  const EngineEvent& event = job.stats().events[0];
  ASSERT_TRUE(event.tamper.has_value());
  const TamperRecord& tamper = *event.tamper;
  EXPECT_EQ(tamper.product, "forward");
  EXPECT_EQ(tamper.instance, 0);
  EXPECT_EQ(tamper.positions_end - tamper.positions_begin, rows);
  EXPECT_EQ(tamper.features_begin, 0);
  EXPECT_EQ(tamper.features_end, 40);
  EXPECT_EQ(tamper.rows, rows);
  EXPECT_EQ(tamper.refused_rows, 1U);
  EXPECT_GE(tamper.rounds, 1);
  // The root of the mean square of a few numbers up to the root of three.
  EXPECT_LT(tamper.deviation, 1.75 * kChange);
  EXPECT_GT(tamper.deviation, 0.1 * kChange);
  EXPECT_LT(tamper.tolerance, 1e-3);
  EXPECT_GT(tamper.tolerance, 1e-7);
  EXPECT_NE(event.detail.find("1 of " + std::to_string(rows) + " rows"), std::string::npos);
}

// ---- overlap -----------------------------------------------------------------------------------

TEST(Overlap, SendsTheNextWeightsWhileResultsAreAwaited) {
  const std::vector<Layer> layers{conv(4, 8, 8, 16, 3, 1, 1), fully_connected(24, 40, 32)};
  for (const bool announces : {true, false}) {
    FakeLink link(1, kSharedBytes);
    link.record = true;
    link.is_lazy = true;
    Job job(layers, Scheme::kTempo, link);
    std::vector<Tensors> tensors(layers.begin(), layers.end());
    OffloadEngine& engine = job.engine();
    ASSERT_TRUE(engine.begin_step(StepMode::kTraining).ok());
    if (announces) engine.announce(job.ops()[1], {tensors[1].weights.data()});
    const auto has_weights_of_the_second = [&] {
      return std::any_of(link.received.begin(), link.received.end(), [](const auto& received) {
        return received.task.rows == 32 && received.task.cols == 40;
      });
    };
    for (int i = 0; i < 2; ++i) {
      Tensors& t = tensors[i];
      ASSERT_TRUE(engine.forward(job.ops()[i], t.input.data(), t.forward_parts()).ok());
      EXPECT_EQ(has_weights_of_the_second(), announces || i == 1);
    }
    std::vector<Tensors> want(layers.begin(), layers.end());
    job.reference_forward(1, want[1]);
    EXPECT_LT(relative_error(tensors[1].output, want[1].output), kTolerance);
    ASSERT_TRUE(engine.end_step().ok());
    EXPECT_EQ(link.resident(0), 0U);
  }
}

TEST(Overlap, AwaitsWeightGradientsLater) {
  const std::vector<Layer> layers{fully_connected(24, 40, 32), fully_connected(24, 32, 40)};
  FakeLink link(2, kSharedBytes);
  bool is_held = true;
  link.withholds = [&](const Task& task) { return is_held && (task.flags & kTransposeA) != 0; };
  Job job(layers, Scheme::kTempo, link);
  std::vector<Tensors> got(layers.begin(), layers.end());
  std::vector<Tensors> want(layers.begin(), layers.end());
  OffloadEngine& engine = job.engine();
  ASSERT_TRUE(engine.begin_step(StepMode::kTraining).ok());
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(engine.forward(job.ops()[i], got[i].input.data(), got[i].forward_parts()).ok());
  }
  const auto backward = [&](int i) {
    Tensors& t = got[i];
    return engine.backward(job.ops()[i], t.input.data(), t.backward_parts(), t.d_input.data(),
                           false, true);
  };
  ASSERT_TRUE(backward(1).ok());
  job.reference_step(want);
  EXPECT_LT(relative_error(got[1].d_input, want[1].d_input), kTolerance) << "there already";
  EXPECT_GT(relative_error(got[1].d_weights, want[1].d_weights), 0.5) << "not there yet";
  is_held = false;
  ASSERT_TRUE(backward(0).ok());
  EXPECT_LT(relative_error(got[1].d_weights, want[1].d_weights), kTolerance);
  ASSERT_TRUE(engine.end_step().ok());
  for (int i = 0; i < 2; ++i) expect_same(got[i], want[i], job.ops()[i].name);
  EXPECT_EQ(link.resident(0) + link.resident(1), 0U);
}

// Operands that do not fit are sent a second time, the same bytes.
TEST(OffloadEngine, SendsAgainWhatAWorkerCannotKeep) {
  const std::vector<Layer> layers{conv(8, 12, 8, 16, 3, 1, 1), conv(8, 12, 16, 16, 3, 1, 1)};
  FakeLink roomy(1, kSharedBytes);
  const Plan kept = Job(layers, Scheme::kTempo, roomy).engine().plan();
  FakeLink link(1, kSharedBytes, kept.resident_bytes[0] - 1);
  link.record = true;
  Job job(layers, Scheme::kTempo, link);
  const Plan& plan = job.engine().plan();
  EXPECT_FALSE(plan.ops[0].keeps_operands && plan.ops[1].keeps_operands);
  EXPECT_LT(plan.resident_bytes[0], kept.resident_bytes[0]);
  std::vector<Tensors> got(layers.begin(), layers.end());
  std::vector<Tensors> want(layers.begin(), layers.end());
  ASSERT_TRUE(job.step(got).ok());
  job.reference_step(want);
  for (int i = 0; i < 2; ++i) expect_same(got[i], want[i], job.ops()[i].name);
  EXPECT_EQ(job.stats().bytes_to_workers, plan.bytes_to_workers);
  EXPECT_GT(plan.bytes_to_workers, kept.bytes_to_workers);
  std::set<std::vector<float>> distinct;
  for (const auto& received : link.received) distinct.insert(received.payload);
  std::size_t again = 0;
  for (const OpPlan& op : plan.ops) {
    if (!op.keeps_operands) again += op.p_slices.size() + op.m_slices.size();
  }
  EXPECT_EQ(link.received.size(), distinct.size() + again);
}

// ---- workers that come back --------------------------------------------------------------------

TEST(Joins, AWorkerThatWasLostGetsWorkAgain) {
  const std::vector<Layer> layers{conv(8, 12, 8, 16, 3, 1, 1), fully_connected(24, 40, 32)};
  FakeLink link(2, kSharedBytes);
  link.ns_per_multiply_add = {1, 1, 1};
  Job job(layers, Scheme::kTempo, link);
  const auto step_and_compare = [&](const char* when) {
    std::vector<Tensors> got(layers.begin(), layers.end());
    std::vector<Tensors> want(layers.begin(), layers.end());
    ASSERT_TRUE(job.step(got).ok()) << when;
    job.reference_step(want);
    for (int i = 0; i < 2; ++i) expect_same(got[i], want[i], when);
  };
  bool loses = true;
  link.loses_worker = [&](const Task& task) { return loses && task.worker == 1; };
  step_and_compare("lost");
  EXPECT_TRUE(job.stats().workers[1].lost);
  loses = false;
  step_and_compare("one left");
  const std::uint64_t products = job.stats().workers[1].products;
  link.join(1);
  link.join(2);
  step_and_compare("back, and a third one");
  step_and_compare("dealt by measured speed");
  ASSERT_EQ(job.stats().workers.size(), 3U);
  EXPECT_GT(job.stats().workers[1].products, products);
  EXPECT_GT(job.stats().workers[2].products, 0U);
  EXPECT_FALSE(job.stats().workers[1].lost);
  ASSERT_EQ(job.stats().events.size(), 3U);
  EXPECT_EQ(job.stats().events[2].kind, EngineEvent::Kind::kJoined);
  for (int w = 0; w < 3; ++w) EXPECT_EQ(link.resident(w), 0U);
  EXPECT_EQ(link.slots_in_use(), 0U);
}

TEST(Joins, ALiarStaysOut) {
  const std::vector<Layer> layers{conv(8, 12, 8, 16, 3, 1, 1)};
  FakeLink link(2, kSharedBytes);
  link.after_multiply = [](const Task& task, std::vector<float>& result) {
    if (task.worker == 1) result[0] += 1;
  };
  Job job(layers, Scheme::kTempo, link);
  std::vector<Tensors> tensors(layers.begin(), layers.end());
  ASSERT_TRUE(job.step(tensors).ok());
  EXPECT_EQ(job.stats().checks_failed, 1U);
  const std::uint64_t tasks = job.stats().workers[1].tasks;
  link.join(1);
  ASSERT_TRUE(job.step(tensors).ok());
  EXPECT_EQ(job.stats().workers[1].tasks, tasks);
  EXPECT_EQ(job.stats().checks_failed, 1U);
}

// ---- unequal and late workers ------------------------------------------------------------------

TEST(UnequalWorkers, ShareInProportion) {
  const std::vector<Layer> layers{conv(4, 16, 8, 16, 3, 1, 1), fully_connected(32, 64, 448),
                                  Layer::product(28, 16, 32, 16)};
  FakeLink link(3, kSharedBytes);
  link.ns_per_multiply_add = {4, 2, 1};
  std::vector<double> work(3);
  Job job(layers, Scheme::kTempo, link);
  for (int step = 0; step < 6; ++step) {
    std::vector<Tensors> got(layers.begin(), layers.end());
    ASSERT_TRUE(job.step(got).ok());
  }
  // What the plan deals out from here on.
  for (const OpPlan& op : job.engine().plan().ops) {
    for (const Tile& tile : op.tiles) {
      work[tile.worker] +=
          static_cast<double>(op.p_slices[tile.p_slice].size() * op.m_slices[tile.m_slice].size()) *
          static_cast<double>(op.op.geometry.n());
    }
  }
  const double all = work[0] + work[1] + work[2];
  for (int w = 0; w < 3; ++w) EXPECT_NEAR(work[w] / all, (1 << w) / 7.0, 0.15 * (1 << w) / 7.0);
  EXPECT_EQ(job.stats().checks_failed, 0U);
}

TEST(UnequalWorkers, KeepTheirSharesWhereTheyShall) {
  const std::vector<Layer> layers{conv(4, 16, 8, 16, 3, 1, 1), fully_connected(32, 64, 448)};
  FakeLink link(2, kSharedBytes);
  link.ns_per_multiply_add = {4, 1};
  Job job(layers, Scheme::kTempo, link, TamperPolicy::kQuarantine, 2000, true, true, false, true);
  const std::vector<OpPlan> before = job.engine().plan().ops;
  for (int step = 0; step < 3; ++step) {
    std::vector<Tensors> got(layers.begin(), layers.end());
    ASSERT_TRUE(job.step(got).ok());
  }
  const std::vector<OpPlan>& after = job.engine().plan().ops;
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(after[i].p_slices, before[i].p_slices);
    EXPECT_EQ(after[i].m_slices, before[i].m_slices);
  }
}

// A worker that stops answering costs a moment; when it answers again, it gets work again.
TEST(LateWorker, IsReplacedUntilItAnswers) {
  const std::vector<Layer> layers{conv(4, 8, 8, 16, 3, 1, 1), fully_connected(24, 40, 32)};
  FakeLink link(2, kSharedBytes);
  link.record = true;
  link.ns_per_multiply_add = {1, 1};
  bool is_stopped = false;
  link.withholds = [&](const Task& task) { return is_stopped && task.worker == 1; };
  constexpr int kPatienceMs = 100;
  Job job(layers, Scheme::kTempo, link, TamperPolicy::kQuarantine, kPatienceMs);
  const auto step_and_compare = [&](const char* when) {
    std::vector<Tensors> got(layers.begin(), layers.end());
    std::vector<Tensors> want(layers.begin(), layers.end());
    ASSERT_TRUE(job.step(got).ok()) << when;
    job.reference_step(want);
    for (int i = 0; i < 2; ++i) expect_same(got[i], want[i], when);
  };
  const auto tasks_of_one = [&] { return job.stats().workers[1].tasks; };
  step_and_compare("before");
  is_stopped = true;
  step_and_compare("stopped");
  std::set<std::vector<float>> distinct;
  for (const auto& received : link.received) distinct.insert(received.payload);
  EXPECT_LT(distinct.size(), link.received.size()) << "what the other was sent are the same bytes";
  const std::uint64_t tasks = tasks_of_one();
  step_and_compare("still stopped");
  EXPECT_EQ(tasks_of_one(), tasks);
  EXPECT_FALSE(job.stats().workers[1].lost);
  is_stopped = false;
  step_and_compare("answers late");
  step_and_compare("back");
  EXPECT_GT(tasks_of_one(), tasks);
  EXPECT_TRUE(job.stats().events.empty());
  EXPECT_EQ(job.stats().checks_failed, 0U);
  EXPECT_EQ(link.slots_in_use(), 0U);
}

TEST(LateWorker, LeavesTheWorkToTheEnclaveWhenItIsTheOnlyOne) {
  const std::vector<Layer> layers{conv(4, 8, 8, 16, 3, 1, 1)};
  FakeLink link(1, kSharedBytes);
  link.withholds = [](const Task& task) { return task.verb == Verb::kMultiply; };
  Job job(layers, Scheme::kTempo, link, TamperPolicy::kQuarantine, 50);
  std::vector<Tensors> got(layers.begin(), layers.end());
  std::vector<Tensors> want(layers.begin(), layers.end());
  ASSERT_TRUE(job.step(got).ok());
  job.reference_step(want);
  expect_same(got[0], want[0], "inside");
  EXPECT_EQ(job.stats().checks_done, 0U);
}

// The second half of every weight row undoes all but a tenth of the first: against results that
// small, what honest rounding is allowed is ten times as large.
TEST(OffloadEngine, AddsRoundsWhereTermsCancel) {
  FakeLink link(1, kSharedBytes);
  const ConvGeometry g = fully_connected(64, 256, 32);
  Job job({g}, Scheme::kTempo, link);
  std::vector<Tensors> tensors{Tensors(g)};
  const int planned = job.engine().plan().ops[0].rounds_forward;
  const auto forward = [&] {
    std::vector<ProductSoundness> all;
    EXPECT_TRUE(job.step(tensors).ok());
    job.engine().report_soundness(all);
    return all.at(0);
  };
  const ProductSoundness usual = forward();
  EXPECT_EQ(usual.product, "forward");
  EXPECT_EQ(usual.rounds, planned);
  EXPECT_LE(usual.miss, job.engine().plan().allowed_miss * static_cast<double>(usual.checks));

  Tensors& t = tensors[0];
  for (std::int64_t row = 0; row < g.p(); ++row) {
    std::copy_n(t.input.data() + row * g.n(), g.n() / 2, t.input.data() + row * g.n() + g.n() / 2);
  }
  for (std::int64_t a = 0; a < g.m(); ++a) {
    for (std::int64_t j = 0; j < g.n() / 2; ++j) {
      t.weights[a * g.n() + g.n() / 2 + j] = -0.9F * t.weights[a * g.n() + j];
    }
  }
  const ProductSoundness cancelling = forward();
  EXPECT_GT(cancelling.tolerance_over_rms, 5 * usual.tolerance_over_rms);
  EXPECT_EQ(cancelling.rounds, planned + 1);
  double miss = cancelling.miss;
  for (int step = 0; step < 5; ++step) miss = forward().miss;
  const ProductSoundness last = forward();
  EXPECT_GT(last.rounds, planned);
  EXPECT_LE(last.miss - miss, job.engine().plan().allowed_miss);  // one step has one product
  EXPECT_EQ(job.stats().checks_failed, 0U);
}

TEST(OffloadEngine, RefusesNaN) {
  const std::vector<Layer> geometries{conv(2, 8, 8, 16, 3, 1, 1)};
  FakeLink link(2, kSharedBytes);
  bool done = false;
  link.after_multiply = [&](const Task&, std::vector<float>& out) {
    if (!std::exchange(done, true)) out.back() = std::nanf("");
  };
  Job job(geometries, Scheme::kTempo, link);
  std::vector<Tensors> got(geometries.begin(), geometries.end());
  std::vector<Tensors> want(geometries.begin(), geometries.end());
  ASSERT_TRUE(job.step(got).ok());
  job.reference_step(want);
  expect_same(got[0], want[0], "after NaN");
  EXPECT_EQ(job.stats().checks_failed, 1U);
}

TEST(OffloadEngine, AbortsOnTamperWhenAsked) {
  const std::vector<Layer> geometries{conv(2, 8, 8, 16, 3, 1, 1)};
  FakeLink link(2, kSharedBytes);
  link.after_multiply = [](const Task&, std::vector<float>& out) { out[0] += 1000.0F; };
  Job job(geometries, Scheme::kTempo, link, TamperPolicy::kAbort);
  std::vector<Tensors> tensors(geometries.begin(), geometries.end());
  const Status status = job.step(tensors);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTampered);
}

// ---- slices of in-features ---------------------------------------------------------------------

TEST(InFeatures, SharesFollowSpeed) {
  const std::vector<Layer> layers{fully_connected(32, 448, 64)};
  FakeLink link(3, kSharedBytes);
  link.ns_per_multiply_add = {4, 2, 1};
  Job job(layers, link, ParallelismChoice::kInFeatures);
  for (int step = 0; step < 6; ++step) {
    std::vector<Tensors> got(layers.begin(), layers.end());
    std::vector<Tensors> want(layers.begin(), layers.end());
    ASSERT_TRUE(job.step(got).ok());
    job.reference_step(want);
    expect_same(got[0], want[0], "step " + std::to_string(step));
  }
  const OpPlan& op = job.engine().plan().ops[0];
  ASSERT_EQ(op.n_slices.size(), 3U);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(op.in_features(i), 64 << i, 0.15 * (64 << i));
}

// Both workers hold less than W': each has the columns of its slice.
TEST(InFeatures, SendsAgainWhatAWorkerCannotKeep) {
  const std::vector<Layer> layers{fully_connected(16, 256, 40), fully_connected(16, 300, 40)};
  FakeLink roomy(2, kSharedBytes);
  const Plan kept = Job(layers, roomy, ParallelismChoice::kInFeatures).engine().plan();
  FakeLink link(2, kSharedBytes, kept.resident_bytes[0] - 1);
  link.record = true;
  Job job(layers, link, ParallelismChoice::kInFeatures);
  const Plan& plan = job.engine().plan();
  EXPECT_FALSE(plan.ops[0].keeps_operands && plan.ops[1].keeps_operands);
  std::vector<Tensors> got(layers.begin(), layers.end());
  std::vector<Tensors> want(layers.begin(), layers.end());
  ASSERT_TRUE(job.step(got).ok());
  job.reference_step(want);
  for (int i = 0; i < 2; ++i) expect_same(got[i], want[i], job.ops()[i].name);
  EXPECT_EQ(job.stats().bytes_to_workers, plan.bytes_to_workers);
  std::size_t again = 0;
  for (const OpPlan& op : plan.ops) {
    if (!op.keeps_operands) again += op.p_slices.size() + op.m_slices.size();
  }
  EXPECT_EQ(link.received.size(), distinct_payloads(link) + again);
}

// A result of its own for every n-slice; what a liar's rows would have added is not in the sum.
TEST(InFeatures, AWrongPartIsDoneAgainAndAddedOnce) {
  const std::vector<Layer> layers{fully_connected(24, 90, 33)};
  for (const bool is_alone : {false, true}) {  // afterwards: the enclave does it
    FakeLink link(is_alone ? 1 : 3, kSharedBytes);
    link.after_multiply = [](const Task& task, std::vector<float>& out) {
      if (task.worker != 0) return;
      for (std::uint32_t row = 0; row < task.rows; row += 2) out[row * task.cols] += 1;
    };
    Job job(layers, link, ParallelismChoice::kInFeatures);
    std::vector<Tensors> got(layers.begin(), layers.end());
    std::vector<Tensors> want(layers.begin(), layers.end());
    ASSERT_TRUE(job.step(got).ok());
    job.reference_step(want);
    expect_same(got[0], want[0], is_alone ? "alone" : "others");
    EXPECT_EQ(job.stats().checks_failed, 1U);
  }
}

// Also with rows of both gradients that had passed before the rest was refused.
TEST(InFeatures, DoesInsideWhatNoCheckCanWeigh) {
  const std::vector<Layer> layers{fully_connected(24, 90, 33)};
  FakeLink link(2, kSharedBytes);
  Job job(layers, link, ParallelismChoice::kInFeatures);
  std::vector<Tensors> got(layers.begin(), layers.end());
  for (float& x : got[0].input) x *= 1e25F;
  std::vector<Tensors> want = got;
  ASSERT_TRUE(job.step(got).ok());
  job.reference_step(want);
  EXPECT_EQ(job.stats().checks_failed, 0U);
  for (std::size_t i = 0; i < want[0].output.size(); ++i) {
    ASSERT_NEAR(got[0].output[i] * 1e-25, want[0].output[i] * 1e-25, 1e-4) << i;
  }
}

// ---- what leaves the enclave -------------------------------------------------------------------

std::set<float> values_of(const std::vector<float>& values) {
  std::set<float> set;
  for (const float v : values) {
    if (v != 0) set.insert(std::fabs(v));
  }
  return set;
}

TEST(WhatLeaves, NoOperandOrBiasInClearUnderTempo) {
  const std::vector<Layer> geometries{conv(4, 12, 8, 16, 3, 1, 1), fully_connected(16, 60, 40)};
  for (const Scheme scheme : {Scheme::kTempo, Scheme::kPlain}) {
    FakeLink link(2, kSharedBytes);
    link.record = true;
    Job job(geometries, scheme, link);
    std::vector<Tensors> tensors(geometries.begin(), geometries.end());
    ASSERT_TRUE(job.step(tensors).ok());
    std::set<float> clear;
    for (const Tensors& t : tensors) {
      for (const auto* values : {&t.input, &t.weights, &t.bias, &t.d_output}) {
        clear.merge(values_of(*values));
      }
    }
    std::size_t hits = 0;
    std::size_t sent = 0;
    for (const FakeLink::Received& received : link.received) {
      for (const float v : received.payload) {
        if (v == 0) continue;
        ++sent;
        hits += clear.count(std::fabs(v));
      }
    }
    ASSERT_GT(sent, 10000U);
    if (scheme == Scheme::kPlain) {
      EXPECT_EQ(hits, sent) << "the test sees what is in clear";
    } else {
      // A scaled value hits some other value's bits by chance, or when its two coefficients agree
      // (1 in 1024).
      EXPECT_LT(static_cast<double>(hits), 0.01 * static_cast<double>(sent));
    }
  }
}

double correlation(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0, ma = 0, mb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ma += a[i];
    mb += b[i];
  }
  ma /= static_cast<double>(a.size());
  mb /= static_cast<double>(b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - ma) * (b[i] - mb);
    aa += (a[i] - ma) * (a[i] - ma);
    bb += (b[i] - mb) * (b[i] - mb);
  }
  return ab / std::sqrt(aa * bb);
}

// Equal up to rounding counts as the same.
void add_if_new(const std::vector<float>& key, std::vector<std::vector<float>>& keys) {
  const auto same = [&](const std::vector<float>& other) {
    return std::equal(key.begin(), key.end(), other.begin(), other.end(),
                      [](float a, float b) { return std::fabs(a - b) < 1e-5F * std::fabs(a); });
  };
  if (std::none_of(keys.begin(), keys.end(), same)) keys.push_back(key);
}

// Inputs of ones show the keys: X'(i,j) = c_n(j) / c_p(i).
TEST(WhatLeaves, KeysDifferBetweenStepsLayersAndTiles) {
  const ConvGeometry g = conv(4, 12, 64, 16, 1, 1, 0);
  const std::vector<Layer> geometries{g, g};
  FakeLink link(2, kSharedBytes);
  link.record = true;
  Job job(geometries, Scheme::kTempo, link);
  std::vector<Tensors> tensors(geometries.begin(), geometries.end());
  for (Tensors& t : tensors) std::fill(t.input.begin(), t.input.end(), 1.0F);
  ASSERT_TRUE(job.step(tensors).ok());
  ASSERT_TRUE(job.step(tensors).ok());

  std::vector<std::vector<float>> column_keys;  // c_n over its first entry
  std::vector<std::vector<float>> row_keys;     // 1/c_p over its first entry
  std::size_t tiles = 0;
  for (const FakeLink::Received& received : link.received) {
    const std::size_t n = received.task.cols;
    if (n != 64 || received.task.rows == 16) continue;  // D' and W'
    ++tiles;
    std::vector<float> columns;
    std::vector<float> rows;
    for (std::size_t j = 0; j < n; ++j) {
      columns.push_back(received.payload[j] / received.payload[0]);
    }
    for (std::size_t i = 0; i < received.task.rows; ++i) {
      rows.push_back(received.payload[i * n] / received.payload[0]);
    }
    add_if_new(columns, column_keys);
    add_if_new(rows, row_keys);
  }
  ASSERT_GT(tiles, 4U);
  EXPECT_EQ(column_keys.size(), 4U) << "two layers, two steps; tiles of a layer share it";
  EXPECT_EQ(row_keys.size(), tiles);
}

// Heads and samples share nothing: not even the keys of the axis that they have in common.
TEST(WhatLeaves, EveryInstanceHasKeysOfItsOwn) {
  const std::vector<Layer> layers{Layer::product(6, 40, 64, 48)};
  FakeLink link(2, kSharedBytes);
  link.record = true;
  Job job(layers, Scheme::kTempo, link);
  std::vector<Tensors> tensors(layers.begin(), layers.end());
  // Operands of ones show the keys: X'(i,j) = c_n(j) / c_p(i), W'(i,j) = c_m(i) / c_n(j).
  for (Tensors& t : tensors) {
    std::fill(t.input.begin(), t.input.end(), 1.0F);
    std::fill(t.weights.begin(), t.weights.end(), 1.0F);
  }
  ASSERT_TRUE(job.step(tensors).ok());
  std::vector<std::vector<float>> n_keys, p_keys, m_keys;
  for (const FakeLink::Received& received : link.received) {
    const Task& task = received.task;
    if (task.cols != 64) continue;  // D'
    const bool is_input = task.rows == 40;
    std::vector<float> columns, rows;
    for (std::uint32_t j = 0; j < task.cols; ++j) {
      const float entry = received.payload[j] / received.payload[0];
      columns.push_back(is_input ? entry : 1 / entry);
    }
    for (std::uint32_t i = 0; i < task.rows; ++i) {
      rows.push_back(received.payload[std::size_t{i} * task.cols] / received.payload[0]);
    }
    if (is_input) add_if_new(columns, n_keys);
    add_if_new(rows, is_input ? p_keys : m_keys);
  }
  EXPECT_EQ(n_keys.size(), 6U);
  EXPECT_EQ(p_keys.size(), 6U);
  EXPECT_EQ(m_keys.size(), 6U);
}

// Under `plain`, inputs that are equal down a column show which in-features a slice has.
TEST(WhatLeaves, SlicesOfInFeaturesAreRandomSubsets) {
  constexpr int kInputs = 240;
  const std::vector<Layer> layers{fully_connected(32, kInputs, 20)};
  FakeLink link(3, kSharedBytes);
  link.record = true;
  Job job(layers, Scheme::kPlain, link, TamperPolicy::kQuarantine, 2000, true, true, false, false,
          ParallelismChoice::kInFeatures);
  std::vector<Tensors> tensors(layers.begin(), layers.end());
  for (std::size_t i = 0; i < tensors[0].input.size(); ++i) {
    tensors[0].input[i] = static_cast<float>(i % kInputs);
  }
  std::set<std::set<float>> subsets;  // of both steps
  for (int step = 0; step < 2; ++step) {
    link.received.clear();
    ASSERT_TRUE(job.step(tensors).ok());
    std::set<std::set<float>> of_step;
    std::set<float> all;
    for (const FakeLink::Received& received : link.received) {
      if (received.task.rows != 32 || received.task.cols != kInputs / 3) continue;
      const std::set<float> columns(received.payload.begin(),
                                    received.payload.begin() + received.task.cols);
      EXPECT_EQ(columns.size(), received.task.cols);
      EXPECT_GT(*columns.rbegin() - *columns.begin(), 2 * kInputs / 3) << "not one after the other";
      of_step.insert(columns);
      all.insert(columns.begin(), columns.end());
    }
    EXPECT_EQ(of_step.size(), 3U);
    EXPECT_EQ(all.size(), static_cast<std::size_t>(kInputs)) << "each in-feature is in one slice";
    subsets.merge(of_step);
  }
  EXPECT_EQ(subsets.size(), 6U) << "others in every step";
}

// No two slices can be told to be of the same rows: each has keys of its own on all three axes.
TEST(WhatLeaves, EverySliceOfInFeaturesHasKeysOfItsOwn) {
  const std::vector<Layer> layers{fully_connected(40, 256, 48)};
  FakeLink link(4, kSharedBytes);
  link.record = true;
  Job job(layers, link, ParallelismChoice::kInFeatures);
  std::vector<Tensors> tensors(layers.begin(), layers.end());
  for (Tensors& t : tensors) {
    std::fill(t.input.begin(), t.input.end(), 1.0F);
    std::fill(t.weights.begin(), t.weights.end(), 1.0F);
    std::fill(t.d_output.begin(), t.d_output.end(), 1.0F);
  }
  ASSERT_TRUE(job.step(tensors).ok());
  std::vector<std::vector<float>> n_keys, p_keys, m_keys, gradients;
  for (const FakeLink::Received& received : link.received) {
    const Task& task = received.task;
    std::vector<float> columns, rows;
    for (std::uint32_t j = 0; j < task.cols; ++j) {
      columns.push_back(received.payload[j] / received.payload[0]);
    }
    for (std::uint32_t i = 0; i < task.rows; ++i) {
      rows.push_back(received.payload[std::size_t{i} * task.cols] / received.payload[0]);
    }
    if (task.rows == 40 && task.cols == 64) {  // X'
      add_if_new(columns, n_keys);
      add_if_new(rows, p_keys);
    } else if (task.rows == 48) {  // W'
      add_if_new(rows, m_keys);
    } else if (task.cols == 48) {  // D'
      add_if_new(columns, gradients);
    }
  }
  EXPECT_EQ(n_keys.size(), 4U);
  EXPECT_EQ(p_keys.size(), 4U);
  EXPECT_EQ(m_keys.size(), 4U);
  EXPECT_EQ(gradients.size(), 4U);
}

TEST(WhatLeaves, EqualOperandsUnderFreshKeysAreUncorrelated) {
  const std::vector<Layer> geometries{conv(8, 12, 32, 256, 3, 1, 1)};
  FakeLink link(1, kSharedBytes);
  link.record = true;
  Job job(geometries, Scheme::kTempo, link);
  std::vector<Tensors> tensors(geometries.begin(), geometries.end());
  ASSERT_TRUE(job.step(tensors).ok());
  const std::size_t per_step = link.received.size();
  ASSERT_TRUE(job.step(tensors).ok());
  ASSERT_EQ(link.received.size(), 2 * per_step);
  for (std::size_t i = 0; i < per_step; ++i) {
    const auto& first = link.received[i].payload;
    const auto& second = link.received[per_step + i].payload;
    ASSERT_EQ(first.size(), second.size());
    EXPECT_NE(first, second);
    // Rows and columns share scales, so that entries are not independent: allow for the number of
    // rows and columns, not of entries.
    const double independent = std::min(link.received[i].task.rows, link.received[i].task.cols);
    ASSERT_GE(independent, 150);
    EXPECT_LT(std::fabs(correlation(first, second)), 5 / std::sqrt(independent));
  }
}

}  // namespace
}  // namespace tempo
