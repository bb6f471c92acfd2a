#include "enclave/train/report.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

namespace tempo {
namespace {

using Json = nlohmann::json;

Report some_report() {
  Report report;
  report.spec.scheme = "tempo";
  report.spec.seed = 18446744073709551615ULL;
  report.spec.epochs = 2;
  report.model.name = "net";
  report.model.input = {kBatchDim, 3, 32, 32};
  report.training.loss = {2.5, 1.5, 1.25};
  report.training.test = {{1.75, 0.5, 0.875, {}}, {1.5, 0.75, 0.9375, {}}};
  report.training.images = 300;
  report.training.train_seconds = 1.5;
  report.times.add(TimeKind::kEncode, 0.25);
  report.engine.worker_gemm_s = 4;
  report.engine.bytes_to_workers = 1000;
  report.engine.bytes_from_workers = 500;
  report.engine.checks_done = 50;
  report.engine.checks_failed = 1;
  report.engine.rounds = 3;
  report.engine.workers.resize(2);
  report.engine.workers[1].device = "GPU \x1b[31m\xff\nof doom";
  report.engine.workers[1].tampered = 1;
  report.engine.workers[1].multiply_adds = 1e12;
  report.engine.events.push_back(
      {EngineEvent::Kind::kTampered, 1, "conv1", "forward", 17,
       TamperRecord{"forward", 0, 64, 128, 0, 16, 64, 3, 4, 0.25, 1e-4}});
  report.engine.events.push_back({EngineEvent::Kind::kLost, -1, "", "gone", 18});
  report.engine.soundness.push_back({"conv1", "forward", 3, 0.001, 25, 1e-9});
  report.engine.soundness.push_back({"conv2", "input gradient", 2, 0.002, 25, 2e-9});
  report.engine.checks_planned = 60;
  report.engine.soundness_reached = 3e-9;
  report.process = {12.5, 1 << 20};
  return report;
}

TEST(Report, HasTheStableKeys) {
  const auto json = Json::parse(report_json(some_report()));
  EXPECT_EQ(json.at("schema"), kReportSchema);
  EXPECT_EQ(json.at("scheme"), "tempo");
  EXPECT_EQ(json.at("loss"), Json({2.5, 1.5, 1.25}));
  EXPECT_EQ(json.at("accuracy"), Json({0.5, 0.75}));
  EXPECT_EQ(json.at("images_per_second"), 200.0);
  EXPECT_EQ(json.at("enclave_cpu_s"), 12.5);
  EXPECT_EQ(json.at("time_s").at(std::string(time_kind_name(TimeKind::kEncode))), 0.25);
  EXPECT_EQ(json.at("time_s").size(), static_cast<std::size_t>(TimeKind::kCount) + 2);
  EXPECT_EQ(json.at("time_s").at("worker_gemm"), 4.0);
  EXPECT_TRUE(json.at("time_s").at("transfer").is_null());
  EXPECT_EQ(json.at("bytes"), Json({{"to_workers", 1000}, {"from_workers", 500}}));
  EXPECT_EQ(json.at("checks"), Json({{"done", 50}, {"failed", 1}, {"rounds", 3}}));
  EXPECT_EQ(json.at("peak_enclave_bytes"), 1 << 20);
  EXPECT_EQ(json.at("workers").size(), 2U);
  EXPECT_EQ(json.at("seeds").at("job"), 18446744073709551615ULL);
  EXPECT_EQ(json.at("outcome"), "complete");
  EXPECT_TRUE(json.at("error").is_null());
  EXPECT_EQ(json.at("model").at("input"), "(N,3,32,32)");
}

TEST(Report, TellsHowTheModelCameAndGoes) {
  Report report = some_report();
  report.spec.export_form = ExportForm::kTraining;
  report.model.fused = {{"Gelu", 8}, {"LayerNormalization", 16}};
  report.model.notes = {"first", "second"};
  const auto json = Json::parse(report_json(report));
  EXPECT_EQ(json.at("export_form"), "training");
  EXPECT_EQ(json.at("model").at("fused").at("LayerNormalization"), 16);
  EXPECT_EQ(json.at("model").at("notes"), Json({"first", "second"}));
  const auto plain = Json::parse(report_json(some_report()));
  EXPECT_TRUE(plain.at("model").at("fused").is_object());
  EXPECT_TRUE(plain.at("model").at("notes").is_array());
}

TEST(Report, HasTheFiguresOfTheLoss) {
  Report report = some_report();
  report.training.train = {{2, 0.25, 0.5, {}}};
  auto json = Json::parse(report_json(report));
  EXPECT_EQ(json.at("test_loss"), Json({1.75, 1.5}));
  EXPECT_EQ(json.at("top5_accuracy"), Json({0.875, 0.9375}));
  EXPECT_EQ(json.at("train_accuracy"), Json({0.25}));
  EXPECT_EQ(json.at("train_top5_accuracy"), Json({0.5}));
  EXPECT_TRUE(json.at("mean_absolute_error").empty());
  EXPECT_EQ(json.at("loss_function").at("name"), "cross-entropy");
  report.spec.loss = LossKind::kMse;
  report.training.train = {{2, {}, {}, 1.25}};
  report.training.test = {{1, {}, {}, 0.5}};
  json = Json::parse(report_json(report));
  EXPECT_EQ(json.at("loss_function").at("name"), "mse");
  EXPECT_EQ(json.at("mean_absolute_error"), Json({0.5}));
  EXPECT_EQ(json.at("train_mean_absolute_error"), Json({1.25}));
  EXPECT_TRUE(json.at("accuracy").empty());
}

TEST(Report, NamesTheOptimizersSettings) {
  Report report = some_report();
  report.spec.optimizer.momentum = 0.75;
  auto json = Json::parse(report_json(report)).at("optimizer");
  EXPECT_EQ(json.at("name"), "sgd");
  EXPECT_EQ(json.at("momentum"), 0.75);
  EXPECT_FALSE(json.contains("beta1"));
  report.spec.optimizer.kind = OptimizerKind::kAdamW;
  report.spec.optimizer.beta2 = 0.5;
  report.spec.clip_norm = 2;
  report.spec.update = UpdateMode::kAsync;
  json = Json::parse(report_json(report)).at("optimizer");
  EXPECT_EQ(json.at("name"), "adamw");
  EXPECT_EQ(json.at("beta2"), 0.5);
  EXPECT_EQ(json.at("clip_norm"), 2.0);
  EXPECT_EQ(json.at("update"), "async");
  EXPECT_FALSE(json.contains("momentum"));
}

TEST(Report, NamesWorkersOperatorsAndSoundness) {
  const auto json = Json::parse(report_json(some_report()));
  const auto& worker = json.at("workers")[1];
  EXPECT_EQ(worker.at("index"), 1);
  EXPECT_EQ(worker.at("device"), "GPU ?[31m??of doom");
  EXPECT_EQ(worker.at("tampered"), 1);
  EXPECT_EQ(worker.at("multiply_adds"), 1e12);
  const auto& events = json.at("events");
  EXPECT_EQ(events[0].at("kind"), "tampered");
  EXPECT_EQ(events[0].at("worker"), 1);
  EXPECT_EQ(events[0].at("operator"), "conv1");
  EXPECT_EQ(events[0].at("step"), 17);
  EXPECT_EQ(events[1].at("kind"), "lost");
  EXPECT_EQ(events[0].at("product"), "forward");
  EXPECT_EQ(events[0].at("positions"), Json({64, 128}));
  EXPECT_EQ(events[0].at("out_features"), Json({0, 16}));
  EXPECT_EQ(events[0].at("refused_rows"), 3);
  EXPECT_EQ(events[0].at("deviation"), 0.25);
  EXPECT_EQ(events[0].at("tolerance"), 1e-4);
  EXPECT_TRUE(events[1].at("worker").is_null());
  EXPECT_FALSE(events[1].contains("deviation"));
  const auto& soundness = json.at("soundness");
  EXPECT_EQ(soundness.at("t"), 1e-6);
  EXPECT_EQ(soundness.at("e"), 0.01);
  EXPECT_EQ(soundness.at("check"), "uniform");
  EXPECT_EQ(soundness.at("on_tamper"), "quarantine");
  EXPECT_EQ(soundness.at("checks_planned"), 60.0);
  EXPECT_EQ(soundness.at("checks_done"), 50);
  EXPECT_EQ(soundness.at("t_reached"), 3e-9);
  EXPECT_EQ(soundness.at("worst").at("operator"), "conv2");
  EXPECT_EQ(soundness.at("worst").at("product"), "input gradient");
  EXPECT_EQ(soundness.at("operators")[0].at("tolerance_over_rms"), 0.001);
}

TEST(Report, TellsHowAJobEnded) {
  Report report = some_report();
  report.error = Error{ErrorCode::kInterrupted, "stopped by the user", "", "", "", ""};
  EXPECT_EQ(Json::parse(report_json(report)).at("outcome"), "interrupted");
  report.error = Error{ErrorCode::kDiverged, "the loss is not a number", "step 3", "", "", ""};
  report.training.loss.push_back(std::numeric_limits<double>::quiet_NaN());
  const auto json = Json::parse(report_json(report));
  EXPECT_EQ(json.at("outcome"), "failed");
  EXPECT_EQ(json.at("error").at("code"), "diverged");
  EXPECT_TRUE(json.at("loss")[3].is_null());
}

TEST(Report, WithoutChecksThereIsNoSoundness) {
  Report report;
  report.spec.scheme = "local";
  const auto json = Json::parse(report_json(report));
  EXPECT_TRUE(json.at("soundness").at("t_reached").is_null());
  EXPECT_TRUE(json.at("soundness").at("worst").is_null());
  EXPECT_EQ(json.at("images_per_second"), 0.0);
  EXPECT_TRUE(json.at("workers").empty());
}

TEST(Report, OfAPrediction) {
  Report report;
  report.spec.kind = JobKind::kInfer;
  report.predictions.emplace();
  report.predictions->samples = 40;
  report.predictions->classes = 10;
  report.predictions->accuracy = 0.75;
  report.predictions->seconds = 2;
  report.predictions->times = summarise_times(std::vector<double>{0.5, 0.25, 0.125});
  const auto json = Json::parse(report_json(report));
  EXPECT_EQ(json.at("kind"), "infer");
  EXPECT_EQ(json.at("accuracy"), Json({0.75}));
  EXPECT_TRUE(json.at("loss").empty());
  EXPECT_EQ(json.at("images_per_second"), 20.0);
  EXPECT_EQ(json.at("predictions").at("batches"), 3);
  EXPECT_EQ(json.at("predictions").at("first_batch_s"), 0.5);
  EXPECT_EQ(json.at("warnings"), Json::array());
  EXPECT_FALSE(json.contains("optimizer"));
}

TEST(BatchTimes, AreNearestRanksWithoutTheFirst) {
  std::vector<double> seconds{1000};
  EXPECT_EQ(summarise_times(seconds).median_s, 0);
  for (int i = 100; i >= 1; --i) seconds.push_back(i);
  const BatchTimes times = summarise_times(seconds);
  EXPECT_EQ(times.batches, 101);
  EXPECT_EQ(times.first_s, 1000);
  EXPECT_EQ(times.median_s, 50);
  EXPECT_EQ(times.p95_s, 95);
}

TEST(Report, MeasuresThisProcess) {
  const ProcessFigures figures = measure_process();
  EXPECT_GT(figures.peak_bytes, std::uint64_t{1} << 20);
  EXPECT_GE(figures.cpu_s, 0.0);
  EXPECT_LT(figures.cpu_s, 1e6);
}

TEST(Report, SummarisesModelAndData) {
  Graph graph;
  graph.name = "g";
  graph.nodes.resize(2);
  Tensor parameter;
  parameter.kind = TensorKind::kParameter;
  parameter.floats.resize(7);
  Tensor statistic = parameter;
  statistic.kind = TensorKind::kStatistic;
  graph.tensors = {parameter, statistic, parameter};
  const ModelSummary model = summarise_model(graph, 3);
  EXPECT_EQ(model.parameters, 14);
  EXPECT_EQ(model.nodes, 2);
  EXPECT_EQ(model.classes, 3);
}

}  // namespace
}  // namespace tempo
