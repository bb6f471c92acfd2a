// Whole jobs through the real programs: tempo starts an enclave, an off-loader and workers, and
// whatever happens to them, the job ends as documented and leaves nothing behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <set>
#include <sstream>

#include "enclave/graph/test_models.h"
#include "tests/npy_file.h"
#include "tests/run_program.h"

namespace tempo {
namespace {

using nlohmann::json;

const std::string kBin = TEMPO_BIN_DIR;

constexpr int kSide = 12;
constexpr int kClasses = 4;
constexpr int kTrainSamples = 320;
constexpr int kTestSamples = 64;

class ProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    write_images("x.npy", "y.npy", kTrainSamples, 1);
    write_images("xt.npy", "yt.npy", kTestSamples, 2);
  }
  void TearDown() override { EXPECT_EQ(work_.leftovers(kBin), ""); }

  // Noisy bars whose place is the class.
  void write_images(const std::string& x, const std::string& y, int samples, unsigned seed) {
    std::mt19937 rng(seed);
    std::vector<std::uint8_t> pixels(samples * kSide * kSide);
    std::vector<std::int64_t> labels(samples);
    for (int s = 0; s < samples; ++s) {
      labels[s] = static_cast<std::int64_t>(rng() % kClasses);
      for (int i = 0; i < kSide * kSide; ++i) {
        const bool bar = (i / kSide) / 3 == labels[s];
        pixels[s * kSide * kSide + i] = static_cast<std::uint8_t>((bar ? 120 : 20) + rng() % 100);
      }
    }
    const std::string n = std::to_string(samples);
    const std::string side = std::to_string(kSide);
    write_npy(work_ / x, "|u1", "(" + n + ", 1, " + side + ", " + side + ")", pixels);
    write_npy(work_ / y, "<i8", "(" + n + ",)", labels);
  }

  std::string data() const {
    return "npy:" + (work_ / "x.npy").string() + "," + (work_ / "y.npy").string() + "," +
           (work_ / "xt.npy").string() + "," + (work_ / "yt.npy").string();
  }

  std::string make_model(const std::string& kind, const std::string& image = "1x12x12") {
    const std::string path = (work_ / (kind + ".onnx")).string();
    const ProgramResult made =
        work_.run({program("tempo"), "model", kind, "--image", image, "--classes",
                   std::to_string(kClasses), "--seed", "3", "-o", path});
    EXPECT_EQ(made.exit_code, 0) << made.err;
    return path;
  }

  // With operators that nobody has.
  std::string make_unsupported_model() {
    onnx::ModelProto model = test::empty_model({0, 1, kSide, kSide}, 17);
    test::add_node(&model, "Det", {"x"}, {"a"});
    test::add_node(&model, "Relu", {"a"}, {"b"});
    test::add_node(&model, "LRN", {"b"}, {"c"});
    test::add_output(&model, "c");
    const std::string path = (work_ / "unsupported.onnx").string();
    std::ofstream(path, std::ios::binary) << model.SerializeAsString();
    return path;
  }

  // The usual flags; `more` comes in pairs and replaces those of the same name, but for repeatable
  // ones.
  std::vector<std::string> train_command(const std::string& model,
                                         const std::vector<std::string>& more) const {
    std::map<std::string, std::string> flags{{"--model", model},
                                             {"--data", data()},
                                             {"--batch", "32"},
                                             {"--lr", "0.02"},
                                             {"--seed", "7"},
                                             {"--offload", "all"},
                                             {"--workers", "local:2"},
                                             {"-o", (work_ / "out.onnx").string()},
                                             {"--report", report_path()}};
    std::vector<std::string> command{program("tempo"), "train"};
    for (std::size_t i = 0; i + 1 < more.size(); i += 2) {
      if (more[i] == "--worker-program") {
        command.insert(command.end(), {more[i], more[i + 1]});
      } else {
        flags[more[i]] = more[i + 1];
      }
    }
    for (const auto& [flag, value] : flags) command.insert(command.end(), {flag, value});
    return command;
  }

  std::string report_path() const { return (work_ / "report.json").string(); }
  json report() const { return json::parse(read_file(report_path())); }

  json train(const std::string& model, const std::vector<std::string>& more) {
    const ProgramResult run = work_.run(train_command(model, more), 240);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    if (run.exit_code != 0) return {};
    return report();
  }

  Workspace work_;
};

double largest_difference(const json& a, const json& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    largest = std::max(largest, std::fabs(a[i].get<double>() - b[i].get<double>()));
  }
  return largest;
}

TEST_F(ProcessTest, TrainsOnEncodedOperandsAndPredicts) {
  const std::string model = make_model("resnet20");
  const json r = train(model, {"--epochs", "2", "--scheme", "tempo"});
  EXPECT_EQ(r["scheme"], "tempo");
  EXPECT_EQ(r["loss"].size(), 20U);
  EXPECT_EQ(r["accuracy"].size(), 2U);
  EXPECT_GT(r["accuracy"][1].get<double>(), 0.9);
  EXPECT_GT(r["images_per_second"].get<double>(), 0);
  EXPECT_GT(r["enclave_cpu_s"].get<double>(), 0);
  EXPECT_GT(r["bytes"]["to_workers"].get<double>(), 0);
  EXPECT_GT(r["bytes"]["from_workers"].get<double>(), 0);
  EXPECT_GT(r["checks"]["done"].get<int>(), 1000);
  EXPECT_EQ(r["checks"]["failed"], 0);
  EXPECT_GT(r["checks"]["rounds"].get<int>(), 1);
  EXPECT_GT(r["peak_enclave_bytes"].get<double>(), 1e6);
  EXPECT_EQ(r["workers"].size(), 2U);
  EXPECT_LE(r["soundness"]["t_reached"].get<double>(), 1e-6);
  EXPECT_TRUE(r["time_s"].contains("encode"));

  const ProgramResult infer = work_.run(
      {program("tempo"), "infer", "--model", (work_ / "out.onnx").string(), "--data",
       "npy:" + (work_ / "xt.npy").string() + "," + (work_ / "yt.npy").string(), "--offload", "all",
       "--workers", "local:2", "-o", (work_ / "p.npy").string(), "--report", report_path()});
  ASSERT_EQ(infer.exit_code, 0) << infer.err;
  EXPECT_EQ(std::filesystem::file_size(work_ / "p.npy"), 128 + kTestSamples * kClasses * 4);
  EXPECT_GT(report()["checks"]["done"].get<int>(), 0);
  // The trained model carries the normalisation of the data that it was trained on.
  EXPECT_EQ(report()["data"]["normalisation_from"], "the model");
  EXPECT_EQ(report()["data"]["mean"], r["data"]["mean"]);
  EXPECT_EQ(report()["data"]["deviation"], r["data"]["deviation"]);
  // The exported statistics serve inference: the trained model is as good as it was.
  EXPECT_NEAR(report()["accuracy"][0].get<double>(), r["accuracy"][1].get<double>(), 1e-9);
}

TEST_F(ProcessTest, SchemesGiveTheSameLosses) {
  const std::string model = make_model("mlp");
  const json local = train(model, {"--epochs", "2", "--scheme", "local"});
  for (const char* scheme : {"plain", "tempo"}) {
    const json other = train(model, {"--epochs", "2", "--scheme", scheme});
    EXPECT_LT(largest_difference(local["loss"], other["loss"]), 1e-4) << scheme;
    EXPECT_GT(other["checks"]["done"].get<int>(), 0);
  }
}

TEST_F(ProcessTest, ATransformerTrainsToo) {
  const std::string model = make_model("vit");
  const json local = train(model, {"--steps", "2", "--scheme", "local"});
  const json tempo = train(model, {"--steps", "2", "--scheme", "tempo"});
  EXPECT_LT(largest_difference(local["loss"], tempo["loss"]), 1e-4);
  EXPECT_GT(tempo["checks"]["done"].get<int>(), 100);
  EXPECT_EQ(tempo["checks"]["failed"], 0);
}

// PyTorch's export of a small GPT: tokens in, a row of classes for each of them out.
TEST_F(ProcessTest, ALanguageModelTrainsToo) {
  constexpr int kSequences = 64, kTokens = 6, kVocabulary = 17;
  const std::string model = TEMPO_SOURCE_DIR "/tests/parity/fixtures/tiny_gpt/model.onnx";
  std::vector<std::int64_t> tokens, next;
  for (int s = 0; s < kSequences; ++s) {
    std::int64_t token = s % kVocabulary;
    for (int t = 0; t < kTokens; ++t) {
      tokens.push_back(token);
      token = (5 * token + 1) % kVocabulary;
      next.push_back(token);
    }
  }
  const std::string shape = "(64, 6)";
  write_npy(work_ / "tokens.npy", "<i8", shape, tokens);
  write_npy(work_ / "next.npy", "<i8", shape, next);
  const std::string data =
      "npy:" + (work_ / "tokens.npy").string() + "," + (work_ / "next.npy").string();
  const std::vector<std::string> flags{"--data",   data, "--optimizer", "adamw", "--lr",    "0.01",
                                       "--epochs", "10", "--batch",     "16",    "--scheme"};
  const auto with = [&](const std::string& scheme) {
    std::vector<std::string> all = flags;
    all.push_back(scheme);
    return train(model, all);
  };
  const json local = with("local");
  const json tempo = with("tempo");
  EXPECT_LT(largest_difference(local["loss"], tempo["loss"]), 1e-3);
  EXPECT_LT(tempo["loss"].back().get<double>(), 0.5 * tempo["loss"].front().get<double>());
  EXPECT_GT(tempo["checks"]["done"].get<int>(), 100);
  EXPECT_EQ(tempo["checks"]["failed"], 0);

  const std::string predictions = (work_ / "logits.npy").string();
  const ProgramResult infer =
      work_.run({program("tempo"), "infer", "--model", (work_ / "out.onnx").string(), "--data",
                 data, "-o", predictions, "--report", report_path()});
  ASSERT_EQ(infer.exit_code, 0) << infer.err;
  EXPECT_GT(report()["accuracy"].back().get<double>(), 0.9);
  EXPECT_NE(read_file(predictions).find("(64, 6, 17)"), std::string::npos);
  // A token that the vocabulary lacks.
  tokens[13] = kVocabulary;
  write_npy(work_ / "tokens.npy", "<i8", shape, tokens);
  const ProgramResult bad = work_.run(train_command(model, flags));
  EXPECT_EQ(bad.exit_code, static_cast<int>(ErrorCode::kBadData)) << bad.err;
  EXPECT_NE(bad.err.find("below 17, got 17"), std::string::npos) << bad.err;
}

// Tokens and numbers beside them, as two inputs.
TEST_F(ProcessTest, AModelOfTwoInputsTrainsToo) {
  onnx::ModelProto proto = test::empty_model({0, 2}, 17);
  test::set_value_info(proto.mutable_graph()->mutable_input(0), "x", {0, 2},
                       onnx::TensorProto::INT64);
  test::set_value_info(proto.mutable_graph()->add_input(), "more", {0, 3});
  test::add_floats(&proto, "table", {5, 4});
  test::add_ints(&proto, "flat", {0, 8});
  test::add_floats(&proto, "w", {11, 2});
  for (const int i : {0, 2}) {
    for (float& w : *proto.mutable_graph()->mutable_initializer(i)->mutable_float_data()) w /= 100;
  }
  test::add_node(&proto, "Gather", {"table", "x"}, {"rows"});
  test::add_node(&proto, "Reshape", {"rows", "flat"}, {"wide"});
  test::add_int(test::add_node(&proto, "Concat", {"wide", "more"}, {"all"}), "axis", 1);
  test::add_node(&proto, "MatMul", {"all", "w"}, {"y"});
  test::add_output(&proto, "y");
  const std::string model = (work_ / "two.onnx").string();
  std::ofstream(model, std::ios::binary) << proto.SerializeAsString();
  std::vector<std::int32_t> tokens;
  std::vector<float> numbers;
  std::vector<std::int64_t> labels;
  for (int s = 0; s < 64; ++s) {
    tokens.insert(tokens.end(), {s % 5, (s / 5) % 5});
    for (int k = 0; k < 3; ++k) numbers.push_back(static_cast<float>((s * 7 + k) % 3) - 1);
    labels.push_back(numbers[numbers.size() - 3] > 0 ? 1 : 0);
  }
  write_npy(work_ / "a.npy", "<i4", "(64, 2)", tokens);
  write_npy(work_ / "b.npy", "<f4", "(64, 3)", numbers);
  write_npy(work_ / "c.npy", "<i8", "(64,)", labels);
  const std::string a = (work_ / "a.npy").string(), b = (work_ / "b.npy").string();
  const std::string c = (work_ / "c.npy").string();
  const json r = train(model, {"--data", "npy:" + a + "+" + b + "," + c, "--epochs", "20", "--lr",
                               "0.02", "--scheme", "tempo"});
  EXPECT_LT(r["loss"].back().get<double>(), 0.7 * r["loss"].front().get<double>());
  EXPECT_EQ(r["checks"]["failed"], 0);
  const ProgramResult bad = work_.run(train_command(model, {"--data", "npy:" + a + "," + c}));
  EXPECT_EQ(bad.exit_code, static_cast<int>(ErrorCode::kBadData)) << bad.err;
  EXPECT_NE(bad.err.find("as many inputs as the model"), std::string::npos) << bad.err;
}

// The values of an initializer of an ONNX file.
std::string initializer(const std::string& path, const std::string& name) {
  onnx::ModelProto model;
  EXPECT_TRUE(model.ParseFromString(read_file(path)));
  for (const onnx::TensorProto& tensor : model.graph().initializer()) {
    if (tensor.name() == name) return tensor.raw_data();
  }
  ADD_FAILURE() << name;
  return "";
}

TEST_F(ProcessTest, FineTunesWithEverythingAtOnce) {
  const std::string model = make_model("resnet20");
  const auto tune = [&](const std::string& scheme) {
    return train(model, {"--steps",           "4",   "--scheme",    scheme,  "--batch",  "16",
                         "--accumulate",      "2",   "--optimizer", "adamw", "--lr",     "0.001",
                         "--weight-decay",    "0.1", "--clip-norm", "0.5",   "--freeze", "stem.*",
                         "--label-smoothing", "0.1"});
  };
  const json local = tune("local");
  const json tempo = tune("tempo");
  // In one run of twenty an element lands on the other side of a rectifier's kink: 2e-3.
  EXPECT_LT(largest_difference(local["loss"], tempo["loss"]), 1e-2);
  EXPECT_EQ(tempo["images"], 4 * 32);
  EXPECT_EQ(tempo["accumulate"], 2);
  EXPECT_EQ(tempo["optimizer"]["name"], "adamw");
  EXPECT_EQ(tempo["checks"]["failed"], 0);
  EXPECT_EQ(tempo["model"]["frozen"], 16 * 9 + 2 * 16);
  const std::string trained = (work_ / "out.onnx").string();
  for (const char* frozen : {"stem.conv.weight", "stem.bn.weight", "stem.bn.bias"}) {
    EXPECT_EQ(initializer(trained, frozen), initializer(model, frozen)) << frozen;
  }
  EXPECT_NE(initializer(trained, "stage1.0.1.conv.weight"),
            initializer(model, "stage1.0.1.conv.weight"));
  // As in PyTorch, statistics of frozen layers go on, unless they are frozen too.
  EXPECT_NE(initializer(trained, "stem.bn.running_mean"),
            initializer(model, "stem.bn.running_mean"));
}

TEST_F(ProcessTest, LearnsValuesAndSeveralAnswers) {
  const std::string model = make_model("mlp");
  std::vector<float> bars(kTrainSamples * kClasses, 0.0F);
  const std::string labels = read_file(work_ / "y.npy");
  for (std::size_t i = 0; i < kTrainSamples; ++i) {
    std::int64_t label = 0;
    std::memcpy(&label, labels.data() + labels.size() - (kTrainSamples - i) * 8, 8);
    bars[i * kClasses + static_cast<std::size_t>(label)] = 1;
  }
  write_npy(work_ / "bars.npy", "<f4", "(320, 4)", bars);
  const std::string x = (work_ / "x.npy").string();
  const std::string y = (work_ / "bars.npy").string();
  const std::string both = "npy:" + x + "," + y + "," + x + "," + y;
  for (const char* loss : {"mse", "bce"}) {
    const json r = train(model, {"--loss", loss, "--data", both, "--optimizer", "adam", "--lr",
                                 "0.003", "--epochs", "4"});
    const bool is_mse = std::string(loss) == "mse";
    EXPECT_EQ(r["accuracy"].size(), is_mse ? 0U : 4U);
    EXPECT_EQ(r["mean_absolute_error"].size(), is_mse ? 4U : 0U);
    EXPECT_LT(r["test_loss"][3].get<double>(), 0.5 * r["loss"][0].get<double>()) << loss;
    EXPECT_GT(r["checks"]["done"].get<int>(), 0);
  }
}

TEST_F(ProcessTest, AWorkerKilledInTheMiddleOfAStepCostsNothing) {
  const std::string model = make_model("resnet20");
  const json calm = train(model, {"--steps", "2"});
  const json killed = train(
      model, {"--steps", "2", "--worker-program", program("tempo-worker-lab") + " --die-after 60"});
  EXPECT_LT(largest_difference(calm["loss"], killed["loss"]), 1e-3);
  EXPECT_TRUE(killed["workers"][0]["lost"].get<bool>());
  EXPECT_FALSE(killed["workers"][1]["lost"].get<bool>());
  EXPECT_EQ(killed["checks"]["failed"], 0);
  ASSERT_EQ(killed["events"].size(), 1U);
}

TEST_F(ProcessTest, GoesOnWithoutAnyWorker) {
  const std::string model = make_model("mlp");
  const json calm = train(model, {"--epochs", "1"});
  const std::string dying = program("tempo-worker-lab") + " --die-after 30";
  const json alone =
      train(model, {"--epochs", "1", "--worker-program", dying, "--worker-program", dying});
  EXPECT_LT(largest_difference(calm["loss"], alone["loss"]), 1e-4);
  EXPECT_TRUE(alone["workers"][0]["lost"].get<bool>());
  EXPECT_TRUE(alone["workers"][1]["lost"].get<bool>());
}

TEST_F(ProcessTest, ACheatingWorkerIsCaughtAndNamed) {
  const std::string model = make_model("resnet20");
  const json honest = train(model, {"--steps", "2"});
  for (const char* column : {"smallest", "largest"}) {
    const std::string log = (work_ / "cheats.jsonl").string();
    const json cheated = train(model, {"--steps", "2", "--worker-program",
                                       program("tempo-worker-lab") +
                                           " --cheat-every 50 --cheat-size 0.01 --cheat-column " +
                                           column + " --cheat-log " + log});
    EXPECT_LT(largest_difference(honest["loss"], cheated["loss"]), 1e-3);
    EXPECT_EQ(cheated["checks"]["failed"], 1) << column;
    ASSERT_EQ(cheated["events"].size(), 1U);
    EXPECT_EQ(cheated["events"][0]["worker"], 0);
    const json& event = cheated["events"][0];
    EXPECT_NE(event["operator"].get<std::string>(), "");
    EXPECT_GT(event["positions"][1], event["positions"][0]);
    EXPECT_GT(event["out_features"][1], event["out_features"][0]);
    EXPECT_EQ(event["refused_rows"], 1);
    EXPECT_GE(event["rows"], 1);
    EXPECT_LT(event["tolerance"], event["deviation"]);
    EXPECT_LT(event["deviation"], 1);
    EXPECT_NE(read_file(log), "");
    std::filesystem::remove(log);
  }
}

TEST_F(ProcessTest, PrintsWhatItPromisesAndReportsWhatItReached) {
  const std::string model = make_model("mlp");
  for (const char* check : {"uniform", "gaussian", "binary"}) {
    SCOPED_TRACE(check);
    const ProgramResult run = work_.run(
        train_command(model, {"--steps", "2", "--integrity", "e=0.02,t=1e-7", "--check", check}));
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_NE(run.err.find("integrity: t=1e-07, e=0.02: "), std::string::npos) << run.err;
    EXPECT_NE(run.err.find(std::string(check) + " rounds: forward "), std::string::npos) << run.err;
    EXPECT_EQ(run.err.find("Theorem V.2") != std::string::npos, check == std::string("binary"));
    const json soundness = report()["soundness"];
    EXPECT_EQ(soundness["t"], 1e-7);
    EXPECT_EQ(soundness["e"], 0.02);
    EXPECT_EQ(soundness["check"], check);
    EXPECT_GT(soundness["checks_done"], 0);
    EXPECT_LE(soundness["checks_done"].get<double>(), soundness["checks_planned"].get<double>());
    EXPECT_EQ(soundness["checks_done"], report()["checks"]["done"]);
    EXPECT_EQ(report()["checks"]["failed"], 0);
    EXPECT_LT(soundness["t_reached"].get<double>(), 1e-6) << "first steps may exceed their share";
    EXPECT_NE(soundness["worst"]["operator"].get<std::string>(), "");
    EXPECT_LE(soundness["worst"]["miss"].get<double>(), soundness["t_reached"].get<double>());
  }
}

// Whatever the workers share of an operator, and who of them dies or lies: the same training.
TEST_F(ProcessTest, EveryParallelismGivesTheSameLosses) {
  const std::string model = make_model("mlp");
  const json local = train(model, {"--epochs", "1", "--scheme", "local"});
  const std::string lab = program("tempo-worker-lab");
  for (const char* parallelism : {"data", "out-features", "in-features"}) {
    const json calm =
        train(model, {"--epochs", "1", "--workers", "local:3", "--parallelism", parallelism});
    EXPECT_LT(largest_difference(local["loss"], calm["loss"]), 1e-4) << parallelism;
    EXPECT_EQ(calm["checks"]["failed"], 0) << parallelism;
    EXPECT_EQ(calm["parallelism"], json({parallelism}));
  }
  const json bad = train(model, {"--epochs", "1", "--workers", "local:3", "--parallelism",
                                 "in-features", "--worker-program", lab + " --die-after 60",
                                 "--worker-program", lab + " --cheat-every 20 --cheat-size 0.1"});
  EXPECT_LT(largest_difference(local["loss"], bad["loss"]), 1e-4);
  EXPECT_EQ(bad["checks"]["failed"], 1);
  EXPECT_EQ(bad["events"].size(), 2U);
  EXPECT_FALSE(bad["workers"][2]["lost"].get<bool>());
}

TEST_F(ProcessTest, AbortsOnTamperWhenAsked) {
  const std::string model = make_model("mlp");
  const ProgramResult run = work_.run(
      train_command(model, {"--epochs", "2", "--on-tamper", "abort", "--worker-program",
                            program("tempo-worker-lab") + " --cheat-every 20 --cheat-size 0.1"}));
  EXPECT_EQ(run.exit_code, 9) << run.err;
  EXPECT_NE(run.err.find("worker 0"), std::string::npos) << run.err;
}

// ---- the off-loader as the attacker ------------------------------------------------------------

// tests/lying_offloader.cc in place of tempo-offloader; its workers are its own.
class LyingOffloaderTest : public ProcessTest {
 protected:
  std::vector<std::string> lies(const std::string& lie, const std::string& on_tamper) const {
    return {"--steps",
            "6",
            "--on-tamper",
            on_tamper,
            "--workers",
            "unix:nobody",
            "--offloader-program",
            std::string(TEMPO_LYING_OFFLOADER) + " --lie " + lie};
  }
  static int count(const json& report, const char* kind) {
    return static_cast<int>(
        std::count_if(report["events"].begin(), report["events"].end(),
                      [&](const json& event) { return event["kind"] == kind; }));
  }
};

TEST_F(LyingOffloaderTest, ChangesNoLoss) {
  const std::string model = make_model("cnn");
  const json inside = train(model, {"--steps", "6", "--scheme", "local"});
  struct Lie {
    const char* name;
    bool is_tampering;
    bool loses_a_worker;  // index 0; else the off-loader itself, or nobody
    bool loses_offloader;
  };
  for (const Lie& lie : {Lie{"nothing", false, false, false}, Lie{"replay", true, false, false},
                         Lie{"swap", true, false, false}, Lie{"unwritten", true, false, false},
                         Lie{"bury", false, true, false}, Lie{"repeat", false, false, true},
                         Lie{"stall", false, false, false}}) {
    SCOPED_TRACE(lie.name);
    const json lied = train(model, lies(lie.name, "quarantine"));
    ASSERT_EQ(lied["loss"].size(), 6U);
    EXPECT_LT(largest_difference(inside["loss"], lied["loss"]), 1e-4);
    EXPECT_GT(lied["checks"]["done"], 0);
    EXPECT_EQ(lied["checks"]["failed"].get<int>() > 0, lie.is_tampering);
    EXPECT_EQ(count(lied, "tampered") > 0, lie.is_tampering);
    int lost_workers = 0;
    int lost_offloaders = 0;
    for (const json& event : lied["events"]) {
      if (event["kind"] != "lost") continue;
      ++(event["worker"].is_null() ? lost_offloaders : lost_workers);
    }
    EXPECT_EQ(lost_workers > 0, lie.loses_a_worker) << lied["events"];
    EXPECT_EQ(lost_offloaders > 0, lie.loses_offloader) << lied["events"];
    EXPECT_EQ(count(lied, "joined") > 0, lie.loses_a_worker) << lied["events"];
  }
}

TEST_F(LyingOffloaderTest, EndsTheJobWhereThatWasAsked) {
  const std::string model = make_model("cnn");
  for (const char* lie : {"replay", "swap", "unwritten"}) {
    const ProgramResult run = work_.run(train_command(model, lies(lie, "abort")));
    EXPECT_EQ(run.exit_code, 9) << run.err;
    EXPECT_NE(run.err.find("a worker returned a wrong result"), std::string::npos) << run.err;
  }
}

TEST_F(ProcessTest, AnInterruptKeepsTheModelSoFar) {
  const std::string model = make_model("resnet20");
  const ProgramResult run =
      work_.run(train_command(model, {"--epochs", "1000"}), 120, [&](pid_t pid) {
        for (int i = 0; i < 6000 && read_file(work_ / "stderr").find("step ") == std::string::npos;
             ++i) {
          std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        ::kill(pid, SIGINT);
      });
  EXPECT_EQ(run.exit_code, 10) << run.err;
  EXPECT_TRUE(std::filesystem::exists(work_ / "out.onnx"));
  EXPECT_GT(report()["loss"].size(), 0U);
}

TEST_F(ProcessTest, ASmallOddBatchAtTheEndIsTrainedToo) {
  const std::string model = make_model("mlp");
  const json r = train(model, {"--epochs", "1", "--batch", "300"});
  EXPECT_EQ(r["loss"].size(), 2U);
  EXPECT_EQ(r["images"], kTrainSamples);
}

// ---- memory ------------------------------------------------------------------------------------

// Sanitizers multiply memory.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_F(ProcessTest, TheEnclaveTakesTheMemoryThatWasPlanned) {
  const std::string model = make_model("resnet20");
  for (const char* scheme : {"local", "tempo"}) {
    for (const char* offload : {"all", "auto"}) {
      const json r = train(
          model, {"--batch", "320", "--steps", "2", "--scheme", scheme, "--offload", offload});
      const double planned = r["planned_enclave_bytes"];
      EXPECT_GT(planned, 1e8) << "more than the program";
      const double ratio = r["peak_enclave_bytes"].get<double>() / planned;
      EXPECT_GT(ratio, 0.9) << scheme << " " << offload;
      EXPECT_LT(ratio, 1.1) << scheme << " " << offload;
    }
  }
}
#endif

// ---- --insecure-key-reuse ----------------------------------------------------------------------

TEST_F(ProcessTest, ReusedKeysChangeNoPredictionAndAreWarnedOf) {
  const std::string model = make_model("mlp");
  const auto infer = [&](const std::string& output, const std::vector<std::string>& more) {
    std::vector<std::string> command = {
        program("tempo"), "infer",   "--model", model,       "--data",
        data(),           "--batch", "16",      "--offload", "all",
        "--on-tamper",    "abort",   "-o",      output,      "--report",
        report_path()};
    command.insert(command.end(), more.begin(), more.end());
    const ProgramResult run = work_.run(command);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return run;
  };
  infer((work_ / "fresh.npy").string(), {});
  const json fresh = json::parse(read_file(report_path()));
  const ProgramResult run = infer((work_ / "reused.npy").string(), {"--insecure-key-reuse"});
  const json reused = json::parse(read_file(report_path()));
  EXPECT_NE(run.err.find("warning: --insecure-key-reuse"), std::string::npos) << run.err;
  EXPECT_EQ(fresh["warnings"].size(), 0U);
  EXPECT_EQ(reused["warnings"].size(), 1U);
  EXPECT_EQ(reused["keys"]["reused"], true);
  EXPECT_EQ(reused["checks"]["done"], fresh["checks"]["done"]);
  EXPECT_LT(reused["bytes"]["to_workers"], fresh["bytes"]["to_workers"]);
  EXPECT_EQ(reused["accuracy"], fresh["accuracy"]);

  std::vector<std::string> command = {
      program("tempo"), "plan",    "--inference", "--model",   model, "--data",
      data(),           "--batch", "16",          "--offload", "all", "--insecure-key-reuse"};
  const ProgramResult plan = work_.run(command);
  EXPECT_NE(plan.out.find("warning: --insecure-key-reuse"), std::string::npos) << plan.out;
  EXPECT_NE(plan.out.find("\nwith the first batch, weights that stay there: "), std::string::npos)
      << plan.out;
  command.emplace_back("--json");
  const json planned = json::parse(work_.run(command).out);
  EXPECT_EQ(
      reused["bytes"]["to_workers"],
      planned["bytes_to_workers"].get<std::uint64_t>() * planned["batches"].get<std::uint64_t>() +
          planned["bytes_to_workers_once"].get<std::uint64_t>());
}

// ---- bad input
// -----------------------------------------------------------------------------------

TEST_F(ProcessTest, BadInputGetsOneClearLineAndItsExitCode) {
  const std::string mlp = make_model("mlp");
  const std::string unsupported = make_unsupported_model();
  std::ofstream(work_ / "not.onnx") << "this is not a model";
  write_npy(work_ / "y_bad.npy", "<i8", "(320,)", std::vector<std::int64_t>(kTrainSamples, 17));
  write_npy(work_ / "x_wide.npy", "|u1", "(320, 1, 12, 13)",
            std::vector<std::uint8_t>(kTrainSamples * 12 * 13));
  const std::string whole = read_file(work_ / "x.npy");
  std::ofstream(work_ / "x_short.npy", std::ios::binary) << whole.substr(0, whole.size() - 100);
  const auto npy = [&](const std::string& x, const std::string& y) {
    return "npy:" + (work_ / x).string() + "," + (work_ / y).string();
  };
  struct Case {
    const char* what;
    std::vector<std::string> flags;  // after the usual ones; later flags win
    int exit_code;
    std::string says;
  };
  const std::vector<Case> cases{
      {"missing model", {"--model", (work_ / "none.onnx").string()}, 3, "none.onnx"},
      {"not ONNX", {"--model", (work_ / "not.onnx").string()}, 4, "ONNX"},
      {"unsupported operators", {"--model", unsupported}, 5, "LRN"},
      {"missing data", {"--data", npy("none.npy", "y.npy")}, 3, "none.npy"},
      {"wrong data shape", {"--data", npy("x_wide.npy", "y.npy")}, 6, "13"},
      {"label out of range", {"--data", npy("x.npy", "y_bad.npy")}, 6, "17"},
      {"truncated data", {"--data", npy("x_short.npy", "y.npy")}, 6, "truncated"},
      {"unknown data", {"--data", "imagenet"}, 2, "imagenet"},
      {"unknown scheme", {"--scheme", "magic"}, 2, "magic"},
      {"no such flag", {"--learning-speed", "3"}, 2, "learning-speed"},
      {"no worker", {"--workers", "local:0"}, 7, "local:0"},
      {"enclave out of memory", {"--tee-memory", "10M"}, 8, "got 10 MiB"},
      {"worker out of memory", {"--worker-memory", "100K"}, 8, "memory"},
      {"worker that does not start", {"--worker-program", "/bin/false"}, 7, "worker"},
      {"output not writable", {"-o", "/nonexistent/out.onnx"}, 13, "/nonexistent"},
      {"diverging", {"--lr", "1e6"}, 12, "loss"},
      {"pattern without a parameter", {"--freeze", "fc0.*"}, 2, "fc1.weight"},
      {"nothing to train", {"--freeze", "*"}, 2, "nothing is left"},
      {"labels of another loss", {"--loss", "mse"}, 6, "float32"},
      {"goal out of reach", {"--integrity", "e=1e-6"}, 2, "--integrity"},
      {"no such operator", {"--parallelism", "fc9=data"}, 2, "fc9"},
      {"operator inside", {"--parallelism", "fc1=data", "--offload", "none"}, 2, "not offloaded"},
  };
  for (const Case& c : cases) {
    const ProgramResult run = work_.run(train_command(mlp, c.flags));
    EXPECT_EQ(run.exit_code, c.exit_code) << c.what << ": " << run.err;
    EXPECT_NE(run.err.find(c.says), std::string::npos) << c.what << ": " << run.err;
    EXPECT_EQ(run.out, "") << c.what;
    std::istringstream lines(run.err);
    std::string line;
    int errors = 0;
    while (std::getline(lines, line)) errors += line.rfind("tempo: ", 0) == 0 ? 1 : 0;
    EXPECT_EQ(errors, 1) << c.what << ": " << run.err;
    EXPECT_EQ(work_.leftovers(kBin), "") << c.what;
  }
}

TEST_F(ProcessTest, UnsupportedOperatorsAreNamedAllAtOnce) {
  const ProgramResult run = work_.run(train_command(make_unsupported_model(), {}));
  EXPECT_EQ(run.exit_code, 5);
  for (const char* op : {"Det", "LRN"}) {
    EXPECT_NE(run.err.find(op), std::string::npos) << run.err;
  }
}

TEST_F(ProcessTest, AModelGoesBackInTheFormThatWasAskedFor) {
  constexpr std::size_t kSamples = 16;
  const std::string fixtures = TEMPO_SOURCE_DIR "/tests/fixtures/onnx/";
  write_npy(work_ / "x.npy", "<f4", "(16, 3, 12, 10)", std::vector<float>(kSamples * 360, 0.5F));
  write_npy(work_ / "y.npy", "<i8", "(16,)", std::vector<std::int64_t>(kSamples, 1));
  const auto norm_results = [&](const std::string& model, const std::string& form) {
    const json r =
        train(fixtures + model,
              {"--data", "npy:" + (work_ / "x.npy").string() + "," + (work_ / "y.npy").string(),
               "--batch", "16", "--scheme", "local", "--mean", "0,0,0", "--std", "1,1,1",
               "--export-form", form});
    EXPECT_EQ(r["export_form"], form);
    EXPECT_EQ(r["model"]["notes"].size(), model == "cnn_opset18.onnx" ? 1U : 0U);
    onnx::ModelProto out;
    out.ParseFromString(read_file(work_ / "out.onnx"));
    std::vector<int> results;
    for (const onnx::NodeProto& node : out.graph().node()) {
      if (node.op_type() == "BatchNormalization") results.push_back(node.output_size());
    }
    return results;
  };
  EXPECT_EQ(norm_results("cnn_opset17.onnx", "inference"), (std::vector{1, 1}));
  EXPECT_EQ(norm_results("cnn_opset17.onnx", "training"), (std::vector{3, 3}));
  EXPECT_EQ(norm_results("cnn_opset18.onnx", "training"), (std::vector{1, 1}));  // as it came
}

TEST_F(ProcessTest, APlanTellsWhatWasFusedAndFolded) {
  const auto plan = [&](const std::string& model) {
    const ProgramResult run =
        work_.run({program("tempo"), "plan", "--model",
                   TEMPO_SOURCE_DIR "/tests/fixtures/onnx/" + model, "--scheme", "local"});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return run.out;
  };
  EXPECT_NE(plan("patterns_opset13.onnx")
                .find("\nfused: 5 Gelu, 2 HardSwish, 3 LayerNormalization, 1 MatMul, 1 Swish\n"),
            std::string::npos);
  EXPECT_NE(plan("cnn_fixed_opset13.onnx").find("\nnote: the export has folded 2 batch"),
            std::string::npos);
  const std::string plain = plan("cnn_opset17.onnx");
  EXPECT_EQ(plain.find("\nnote: "), std::string::npos) << plain;
  EXPECT_EQ(plain.find("\nfused: "), std::string::npos) << plain;
}

// ---- what leaves the enclave
// ---------------------------------------------------------------------

std::vector<float> floats_of(const std::filesystem::path& path) {
  const std::string bytes = read_file(path);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// What a step did, when nothing may differ between two runs: all outputs and gradients of linear
// operators, in clear, and the trained model.
struct ReplayRun {
  ProgramResult program;
  json report;
  std::string operands;
  std::string model;
};

class ReplayTest : public ProcessTest {
 protected:
  // Steps that are all the same, for `samples` equal samples.
  ReplayRun run(const std::string& model, int samples, const std::string& worker, int workers = 1,
                int batch = 4) {
    const std::string n = std::to_string(samples);
    std::vector<std::uint8_t> image(kSide * kSide);
    for (std::size_t i = 0; i < image.size(); ++i) {
      image[i] = static_cast<std::uint8_t>(i * 73 % 251);
    }
    std::vector<std::uint8_t> pixels;
    for (int s = 0; s < samples; ++s) pixels.insert(pixels.end(), image.begin(), image.end());
    const std::string side = std::to_string(kSide);
    write_npy(work_ / "same.npy", "|u1", "(" + n + ", 1, " + side + ", " + side + ")", pixels);
    write_npy(work_ / "label.npy", "<i8", "(" + n + ",)", std::vector<std::int64_t>(samples, 2));
    const auto dump = work_ / "dump";
    std::filesystem::remove_all(dump);
    std::filesystem::create_directory(dump);
    std::vector<std::string> command = train_command(
        model,
        {"--data", "npy:" + (work_ / "same.npy").string() + "," + (work_ / "label.npy").string(),
         "--lr", "0", "--batch", std::to_string(batch), "--epochs", "1", "--workers",
         "local:" + std::to_string(workers), "--worker-threads", "1", "--scheme", "tempo",
         "--enclave-program",
         program("tempo-enclave-lab") + " --insecure-repeat-steps --insecure-dump " + dump.string(),
         "--worker-program", worker});
    for (int i = 1; i < workers; ++i) command.insert(command.end(), {"--worker-program", worker});
    command.emplace_back("--verbose");
    ReplayRun result;
    result.program = work_.run(command, 240);
    EXPECT_EQ(result.program.exit_code, 0) << result.program.err;
    result.report = report();
    result.operands = read_file(dump / "plain.f32");
    result.model = read_file(work_ / "out.onnx");
    return result;
  }

  static std::string replaying_worker(const std::string& device = TEMPO_DEVICES
                                      "/rtx4090-pcie4.toml") {
    return program("tempo-worker-lab") + " --device replay --replay-model " + device;
  }
};

TEST_F(ReplayTest, AReplayedStepIsBitForBitTheComputedOne) {
  const std::string model = make_model("resnet20");
  const ReplayRun computed = run(model, 4 * 8, program("tempo-worker-lab"));
  const ReplayRun replayed = run(model, 4 * 8, replaying_worker());
  EXPECT_GT(replayed.operands.size(), 1000000U);
  EXPECT_TRUE(replayed.operands == computed.operands);
  EXPECT_TRUE(replayed.model == computed.model);
  EXPECT_EQ(replayed.report["loss"], computed.report["loss"]);
  EXPECT_EQ(replayed.report["checks"]["done"], computed.report["checks"]["done"]);
  EXPECT_EQ(replayed.report["checks"]["failed"], 0);
  EXPECT_EQ(replayed.report["events"], json::array());
  EXPECT_NE(replayed.program.err.find("the recording is complete"), std::string::npos)
      << replayed.program.err;
  EXPECT_NE(replayed.program.err.find(" replayed, 0 mismatches"), std::string::npos)
      << replayed.program.err;
  EXPECT_NE(replayed.program.err.find("protects nothing"), std::string::npos);
}

// Though their speeds differ from step to step, each is asked for the same again. With more samples
// than features they get rows of their own, of which nothing is added up in the order of arrival.
TEST_F(ReplayTest, SeveralWorkersReplayTheirSharesEach) {
  const ReplayRun replayed = run(make_model("mlp"), 600 * 10, replaying_worker(), 2, 600);
  EXPECT_EQ(replayed.report["checks"]["failed"], 0);
  const std::string& log = replayed.program.err;
  const std::regex none_differ("[1-9][0-9]* replayed, 0 mismatches");
  EXPECT_EQ(std::distance(std::sregex_iterator(log.begin(), log.end(), none_differ),
                          std::sregex_iterator()),
            2)
      << log;
  for (const json& worker : replayed.report["workers"]) EXPECT_GT(worker["products"], 0);
}

TEST_F(ReplayTest, AStepThatWasNotRecordedIsNoticedAndComputed) {
  const std::string model = make_model("resnet20");
  const ReplayRun computed = run(model, 4 * 8 + 2, program("tempo-worker-lab"));
  const ReplayRun replayed = run(model, 4 * 8 + 2, replaying_worker());  // the last batch is small
  EXPECT_TRUE(replayed.operands == computed.operands);
  EXPECT_EQ(replayed.report["loss"], computed.report["loss"]);
  EXPECT_EQ(replayed.report["checks"]["failed"], 0);
  EXPECT_NE(replayed.program.err.find("replay: mismatch 1: a product of "), std::string::npos)
      << replayed.program.err;
}

TEST_F(ReplayTest, ResultsComeNoSoonerThanTheModelledDeviceHasThem) {
  const std::string device = (work_ / "slow.toml").string();
  std::ofstream(device) << "tflops = 1000\nmemory_gb_s = 1000\nlaunch_us = 2000\n"
                           "link_to_device_gb_s = 1000\nlink_from_device_gb_s = 1000\n"
                           "link_latency_us = 0\n";
  const ReplayRun slow = run(make_model("resnet20"), 4 * 4, replaying_worker(device));
  EXPECT_EQ(slow.report["checks"]["failed"], 0);
  const std::string& log = slow.program.err;
  const auto at = log.find(" products computed, ");
  ASSERT_NE(at, std::string::npos) << log;
  const double replayed = std::stod(log.substr(at + std::strlen(" products computed, ")));
  EXPECT_GT(replayed, 100);
  EXPECT_GE(slow.report["train_s"].get<double>(), 2e-3 * replayed);
}

TEST_F(ProcessTest, AReplayingWorkerHasOneLink) {
  const ProgramResult refused =
      work_.run({program("tempo-worker-lab"), "--listen", "tcp://127.0.0.1:0", "--listen",
                 "unix:" + (work_ / "w").string(), "--device", "replay", "--replay-model",
                 TEMPO_DEVICES + std::string("/rtx4090-pcie4.toml")});
  EXPECT_EQ(refused.exit_code, static_cast<int>(ErrorCode::kUsage));
  EXPECT_NE(refused.err.find("--device replay"), std::string::npos) << refused.err;
  const ProgramResult product = work_.run({program("tempo-worker"), "--listen",
                                           "unix:" + (work_ / "w").string(), "--device", "replay"});
  EXPECT_EQ(product.exit_code, static_cast<int>(ErrorCode::kUsage)) << product.err;
}

TEST_F(ProcessTest, AWorkerSeesNoOperandBiasLabelLossOrNameInClear) {
  const std::string model = make_model("resnet20");
  std::map<std::string, double> share;  // of non-zero floats that are also in clear, by scheme
  std::map<std::string, double> by_chance;
  for (const std::string scheme : {"plain", "tempo"}) {
    const auto plain_dir = work_ / ("plain-" + scheme);
    std::filesystem::create_directory(plain_dir);
    std::vector<std::string> more{
        "--steps",
        "8",
        "--batch",
        "8",
        "--scheme",
        scheme,
        "--enclave-program",
        program("tempo-enclave-lab") + " --insecure-dump " + plain_dir.string()};
    for (int w = 0; w < 2; ++w) {
      more.insert(more.end(),
                  {"--worker-program", program("tempo-worker-lab") + " --record " +
                                           (work_ / (scheme + std::to_string(w))).string()});
      std::filesystem::create_directory(work_ / (scheme + std::to_string(w)));
    }
    std::vector<std::string> command = train_command(model, more);
    command.emplace_back("--verbose");
    const ProgramResult run = work_.run(command, 240);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const json r = report();

    std::vector<float> clear = floats_of(plain_dir / "plain.f32");
    for (float& v : clear) v = std::fabs(v);
    std::sort(clear.begin(), clear.end());
    ASSERT_GT(clear.size(), 100000U);
    const auto in_clear = [&](float v) {
      return std::binary_search(clear.begin(), clear.end(), std::fabs(v));
    };
    std::set<float> losses;
    for (const json& loss : r["loss"]) losses.insert(loss.get<float>());
    std::size_t sent = 0;
    std::size_t hits = 0;
    std::size_t chance = 0;
    std::set<float> losses_seen;
    for (int w = 0; w < 2; ++w) {
      const auto view = work_ / (scheme + std::to_string(w));
      const auto payload = floats_of(view / "payloads.f32");
      for (std::size_t i = 0; i < payload.size(); ++i) {
        const float v = payload[i];
        if (v == 0) continue;
        if (losses.count(v) > 0) losses_seen.insert(v);
        if (i % 8 != 0) continue;  // the shares below need no more than a sample
        ++sent;
        hits += in_clear(v) ? 1 : 0;
        chance += in_clear(v * 1.2345F) ? 1 : 0;  // some value has these bits, whatever is sent
      }
      const std::string text = read_file(view / "tasks.jsonl") + read_file(view / "payloads.f32");
      for (const char* name : {"stage1", "stem", "conv", "logits", "resnet"}) {
        EXPECT_EQ(text.find(name), std::string::npos) << name;
      }
    }
    // Names do not appear in what the programs log either.
    EXPECT_EQ(run.err.find("stage1"), std::string::npos) << run.err;
    ASSERT_GT(sent, 100000U);
    // Whoever sends the loss sends it every step. By chance, one in ten losses has the bits of one
    // of the millions of floats that are sent.
    ASSERT_EQ(losses.size(), 8U);
    EXPECT_LT(losses_seen.size(), losses.size());
    share[scheme] = static_cast<double>(hits) / static_cast<double>(sent);
    by_chance[scheme] = static_cast<double>(chance) / static_cast<double>(sent);
  }
  EXPECT_GT(share["plain"], 0.99) << "the test recognises what is in clear";
  // c_n = c_p leaves a value as it is, once in 1024; half a percent on top of chance is that and
  // more.
  EXPECT_LT(share["tempo"], by_chance["tempo"] + 0.005);
}

}  // namespace
}  // namespace tempo
