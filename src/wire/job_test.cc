#include "wire/job.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

namespace tempo {
namespace {

using Json = nlohmann::json;

JobSpec valid_job() {
  JobSpec spec;
  spec.data.format = "npy";
  return spec;
}

// Every member differs from its default, so that a member that is not carried is noticed.
JobSpec unusual_job() {
  JobSpec spec;
  spec.kind = JobKind::kInfer;
  spec.scheme = "plain";
  spec.offload = OffloadPolicy::kAll;
  spec.parallelism = {"in-features", "a=b=data"};
  spec.on_tamper = TamperPolicy::kAbort;
  spec.data = {"cifar10", {0.1F, 0.2F, 0.3F}, {0.4F, 0.5F, 0.6F}, true, true};
  spec.batch = 7;
  spec.epochs = 3;
  spec.steps = 11;
  spec.learning_rate = 0.1;
  spec.accumulate = 5;
  spec.label_smoothing = 0.125;
  spec.optimizer = {OptimizerKind::kAdamW, 0.25, 0.8, 0.99, 1e-6, 5e-4};
  spec.clip_norm = 2.5;
  spec.frozen = {{"stem.*", "a\"b"}, {"head.?"}, true};
  spec.schedule = {ScheduleKind::kCosine, 1.5, 4, 0.2, 0.01};
  spec.seed = std::numeric_limits<std::uint64_t>::max();
  spec.threads = 3;
  spec.key_range = 77;
  spec.key_real = true;
  spec.integrity = {1e-9, 0.5};
  spec.check = CheckKind::kBinary;
  spec.tee_memory_bytes = (std::uint64_t{1} << 40) + 1;
  spec.export_form = ExportForm::kTraining;
  return spec;
}

TEST(JobJson, CarriesEveryMember) {
  const JobSpec spec = unusual_job();
  const auto back = job_from_json(job_to_json(spec));
  ASSERT_TRUE(back.ok()) << back.error().one_line();
  EXPECT_EQ(back->kind, spec.kind);
  EXPECT_EQ(back->scheme, spec.scheme);
  EXPECT_EQ(back->offload, spec.offload);
  EXPECT_EQ(back->parallelism, spec.parallelism);
  EXPECT_EQ(back->on_tamper, spec.on_tamper);
  EXPECT_EQ(back->data.format, spec.data.format);
  EXPECT_EQ(back->data.mean, spec.data.mean);
  EXPECT_EQ(back->data.deviation, spec.data.deviation);
  EXPECT_EQ(back->data.random_crop, spec.data.random_crop);
  EXPECT_EQ(back->data.random_flip, spec.data.random_flip);
  EXPECT_EQ(back->batch, spec.batch);
  EXPECT_EQ(back->epochs, spec.epochs);
  EXPECT_EQ(back->steps, spec.steps);
  EXPECT_EQ(back->learning_rate, spec.learning_rate);
  EXPECT_EQ(back->accumulate, spec.accumulate);
  EXPECT_EQ(back->loss, spec.loss);
  EXPECT_EQ(back->label_smoothing, spec.label_smoothing);
  EXPECT_EQ(back->optimizer.kind, spec.optimizer.kind);
  EXPECT_EQ(back->optimizer.momentum, spec.optimizer.momentum);
  EXPECT_EQ(back->optimizer.beta1, spec.optimizer.beta1);
  EXPECT_EQ(back->optimizer.beta2, spec.optimizer.beta2);
  EXPECT_EQ(back->optimizer.epsilon, spec.optimizer.epsilon);
  EXPECT_EQ(back->optimizer.weight_decay, spec.optimizer.weight_decay);
  EXPECT_EQ(back->clip_norm, spec.clip_norm);
  EXPECT_EQ(back->frozen.freeze, spec.frozen.freeze);
  EXPECT_EQ(back->frozen.train_only, spec.frozen.train_only);
  EXPECT_EQ(back->frozen.statistics, spec.frozen.statistics);
  EXPECT_EQ(back->schedule.kind, spec.schedule.kind);
  EXPECT_EQ(back->schedule.warmup_epochs, spec.schedule.warmup_epochs);
  EXPECT_EQ(back->schedule.step_epochs, spec.schedule.step_epochs);
  EXPECT_EQ(back->schedule.step_gamma, spec.schedule.step_gamma);
  EXPECT_EQ(back->schedule.final_fraction, spec.schedule.final_fraction);
  EXPECT_EQ(back->seed, spec.seed);
  EXPECT_EQ(back->threads, spec.threads);
  EXPECT_EQ(back->key_range, spec.key_range);
  EXPECT_EQ(back->key_real, spec.key_real);
  EXPECT_EQ(back->integrity.t, spec.integrity.t);
  EXPECT_EQ(back->integrity.e, spec.integrity.e);
  EXPECT_EQ(back->check, spec.check);
  EXPECT_EQ(back->tee_memory_bytes, spec.tee_memory_bytes);
  EXPECT_EQ(back->export_form, spec.export_form);
}

TEST(JobJson, CarriesEveryLossAndOptimizer) {
  JobSpec spec = valid_job();
  for (const LossKind loss : {LossKind::kCrossEntropy, LossKind::kMse, LossKind::kBce}) {
    spec.loss = loss;
    const auto back = job_from_json(job_to_json(spec));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back->loss, loss);
  }
  for (const UpdateMode mode : {UpdateMode::kAsync, UpdateMode::kSync}) {
    spec.update = mode;
    const auto back = job_from_json(job_to_json(spec));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back->update, mode);
  }
  for (const OptimizerKind kind :
       {OptimizerKind::kSgd, OptimizerKind::kAdam, OptimizerKind::kAdamW}) {
    spec.optimizer.kind = kind;
    const auto back = job_from_json(job_to_json(spec));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back->optimizer.kind, kind);
  }
}

TEST(JobJson, RefusesTooManyAndTooLongPatterns) {
  JobSpec spec = valid_job();
  spec.frozen.freeze.assign(kMaxPatterns, std::string(kMaxPatternBytes, 'a'));
  EXPECT_TRUE(check_job(spec).ok());
  spec.frozen.freeze[0] += 'a';
  EXPECT_FALSE(check_job(spec).ok());
  spec.frozen.freeze.assign(kMaxPatterns + 1, "a");
  EXPECT_FALSE(check_job(spec).ok());
}

TEST(JobJson, ReadsRulesOfParallelism) {
  const auto all = parse_parallelism_rule("out-features");
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->op, "");
  EXPECT_EQ(all->choice, ParallelismChoice::kOutFeatures);
  const auto one = parse_parallelism_rule("/a=b/MatMul=in-features");
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->op, "/a=b/MatMul");
  EXPECT_EQ(one->choice, ParallelismChoice::kInFeatures);
  JobSpec spec = valid_job();
  for (const std::string& bad : {std::string("rows"), std::string("fc1"), std::string("fc1="),
                                 std::string("=data"), std::string(300, 'a') + "=data"}) {
    spec.parallelism = {bad};
    const Status status = check_job(spec);
    ASSERT_FALSE(status.ok()) << bad;
    EXPECT_EQ(status.error().where, "parallelism");
  }
  spec.parallelism.assign(kMaxPatterns + 1, "data");
  EXPECT_FALSE(check_job(spec).ok());
}

TEST(JobJson, MissingKeysKeepTheirDefaults) {
  const auto spec = job_from_json(R"({"data": {"format": "npy"}})");
  ASSERT_TRUE(spec.ok()) << spec.error().one_line();
  EXPECT_EQ(spec->batch, JobSpec().batch);
  EXPECT_EQ(spec->kind, JobKind::kTrain);
  EXPECT_EQ(spec->scheme, "tempo");
}

struct BadJob {
  const char* text;
  const char* where;
};

class BadJobs : public testing::TestWithParam<BadJob> {};

TEST_P(BadJobs, AreRefusedByName) {
  const auto spec = job_from_json(GetParam().text);
  ASSERT_FALSE(spec.ok());
  EXPECT_EQ(spec.error().code, ErrorCode::kUsage);
  EXPECT_EQ(spec.error().where, GetParam().where);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadJobs,
    testing::Values(
        BadJob{"", ""}, BadJob{"[]", ""}, BadJob{"{\"batch\":", ""},
        BadJob{R"({"bacth": 3, "data": {"format": "npy"}})", "bacth"},
        BadJob{R"({"data": {"format": "npy", "labels": 1}})", "data.labels"},
        BadJob{R"({"data": {"format": "tar"}})", "data.format"},
        BadJob{R"({"data": "npy"})", "data"},
        BadJob{R"({"kind": "mine", "data": {"format": "npy"}})", "kind"},
        BadJob{R"({"kind": 1, "data": {"format": "npy"}})", "kind"},
        BadJob{R"({"batch": "8", "data": {"format": "npy"}})", "batch"},
        BadJob{R"({"batch": 8.5, "data": {"format": "npy"}})", "batch"},
        BadJob{R"({"batch": 0, "data": {"format": "npy"}})", "batch"},
        BadJob{R"({"batch": -1, "data": {"format": "npy"}})", "batch"},
        BadJob{R"({"batch": 18446744073709551615, "data": {"format": "npy"}})", "batch"},
        BadJob{R"({"seed": -1, "data": {"format": "npy"}})", "seed"},
        BadJob{R"({"threads": 4294967297, "data": {"format": "npy"}})", "threads"},
        BadJob{R"({"learning_rate": 1e400, "data": {"format": "npy"}})", ""},
        BadJob{R"({"learning_rate": -0.1, "data": {"format": "npy"}})", "learning_rate"},
        BadJob{R"({"momentum": 2, "data": {"format": "npy"}})", "momentum"},
        BadJob{R"({"accumulate": 0, "data": {"format": "npy"}})", "accumulate"},
        BadJob{R"({"optimizer": "lion", "data": {"format": "npy"}})", "optimizer"},
        BadJob{R"({"beta1": 1, "data": {"format": "npy"}})", "beta1"},
        BadJob{R"({"beta2": -0.5, "data": {"format": "npy"}})", "beta2"},
        BadJob{R"({"epsilon": 0, "data": {"format": "npy"}})", "epsilon"},
        BadJob{R"({"clip_norm": -1, "data": {"format": "npy"}})", "clip_norm"},
        BadJob{R"({"update": "soon", "data": {"format": "npy"}})", "update"},
        BadJob{R"({"update": "async", "clip_norm": 1, "data": {"format": "npy"}})", "update"},
        BadJob{R"({"update": "async", "accumulate": 2, "data": {"format": "npy"}})", "update"},
        BadJob{R"({"loss": "hinge", "data": {"format": "npy"}})", "loss"},
        BadJob{R"({"label_smoothing": 1.5, "data": {"format": "npy"}})", "label_smoothing"},
        BadJob{R"({"loss": "mse", "label_smoothing": 0.1, "data": {"format": "npy"}})",
               "label_smoothing"},
        BadJob{R"({"freeze": "stem", "data": {"format": "npy"}})", "freeze"},
        BadJob{R"({"freeze": [1], "data": {"format": "npy"}})", "freeze"},
        BadJob{R"({"train_only": [""], "data": {"format": "npy"}})", "train_only"},
        BadJob{R"({"scheme": "Tempo; rm", "data": {"format": "npy"}})", "scheme"},
        BadJob{R"({"key_range": 0, "data": {"format": "npy"}})", "key_range"},
        BadJob{R"({"integrity": {"t": 0}, "data": {"format": "npy"}})", "integrity.t"},
        BadJob{R"({"integrity": {"t": 0.6}, "data": {"format": "npy"}})", "integrity.t"},
        BadJob{R"({"integrity": {"e": 0}, "data": {"format": "npy"}})", "integrity.e"},
        BadJob{R"({"integrity": {"k": 3}, "data": {"format": "npy"}})", "integrity.k"},
        BadJob{R"({"integrity": "t=1e-6", "data": {"format": "npy"}})", "integrity"},
        BadJob{R"({"check": "lottery", "data": {"format": "npy"}})", "check"},
        BadJob{R"({"on_tamper": "continue", "data": {"format": "npy"}})", "on_tamper"},
        BadJob{R"({"schedule": {"kind": "steps"}, "data": {"format": "npy"}})", "schedule.kind"},
        BadJob{R"({"schedule": {"step_epochs": 0}, "data": {"format": "npy"}})",
               "schedule.step_epochs"},
        BadJob{R"({"data": {"format": "npy", "mean": [1]}})", "data.mean"},
        BadJob{R"({"data": {"format": "npy", "mean": [1], "deviation": [0]}})", "data.deviation"},
        BadJob{R"({"data": {"format": "npy", "mean": ["1"], "deviation": [1]}})", "data.mean"}));

TEST(JobJson, RefusesTextThatIsTooLong) {
  const auto spec = job_from_json(std::string(kMaxJobJsonBytes + 1, ' '));
  ASSERT_FALSE(spec.ok());
  EXPECT_EQ(spec.error().code, ErrorCode::kUsage);
}

TEST(JobJson, SurvivesDeepNesting) {
  EXPECT_FALSE(job_from_json(std::string(kMaxJobJsonBytes, '[')).ok());
}

TEST(CheckJob, RefusesNotANumber) {
  JobSpec spec = valid_job();
  EXPECT_TRUE(check_job(spec).ok());
  spec.learning_rate = std::numeric_limits<double>::quiet_NaN();
  const Status status = check_job(spec);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().where, "learning_rate");
}

TEST(CheckJob, APlanNeedsNoData) {
  JobSpec spec;
  EXPECT_FALSE(check_job(spec).ok());
  spec.kind = JobKind::kPlan;
  EXPECT_TRUE(check_job(spec).ok());
}

TEST(Job, OnlyAPlanPredictsStepTimes) {
  const auto plan = job_from_json(R"({"kind": "plan", "link_bytes_per_s": 1.25e8})");
  ASSERT_TRUE(plan.ok()) << plan.error().one_line();
  EXPECT_EQ(plan->link_bytes_per_s, 1.25e8);
  EXPECT_EQ(job_from_json(job_to_json(*plan))->link_bytes_per_s, 1.25e8);
  for (const char* text : {R"({"kind": "plan", "link_bytes_per_s": -1})",
                           R"({"kind": "plan", "link_bytes_per_s": 1e16})",
                           R"({"data": {"format": "npy"}, "link_bytes_per_s": 1e8})"}) {
    const auto refused = job_from_json(text);
    ASSERT_FALSE(refused.ok()) << text;
    EXPECT_EQ(refused.error().where, "link_bytes_per_s");
  }
}

TEST(Job, OnlyPredictionsMayReuseKeys) {
  EXPECT_TRUE(job_from_json(R"({"kind": "infer", "data": {"format": "npy"},
                                "insecure_key_reuse": true})")
                  ->insecure_key_reuse);
  const auto refused = job_from_json(R"({"kind": "train", "data": {"format": "npy"},
                                         "insecure_key_reuse": true})");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  EXPECT_EQ(refused.error().where, "insecure_key_reuse");

  EXPECT_FALSE(job_from_json(R"({"kind": "plan", "insecure_key_reuse": true})").ok())
      << "the plan of training";
  const auto plan =
      job_from_json(R"({"kind": "plan", "inference": true, "insecure_key_reuse": true})");
  ASSERT_TRUE(plan.ok()) << plan.error().one_line();
  EXPECT_TRUE(predicts(*plan));
}

}  // namespace
}  // namespace tempo
