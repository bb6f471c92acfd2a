// `tempo` as a user meets it: help, bad flags, job files, outputs, exit codes, signals, leftovers.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <thread>

#include "client/child_process.h"
#include "client/temporary_directory.h"

namespace tempo {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr const char* kTempo = TEMPO_BIN_DIR "/tempo";

struct Outcome {
  int code = -1;
  std::string out;  // stdout and stderr together
};

class CliTest : public testing::Test {
 protected:
  CliTest() {
    directory_.write("m.onnx", "model");
    directory_.write("x.npy", "samples");
    directory_.write("y.npy", "labels");
    std::filesystem::create_directory(directory_.file("run"));
  }
  // Every run has a directory of its own to leave nothing in.
  ~CliTest() override {
    EXPECT_TRUE(std::filesystem::is_empty(directory_.file("run"))) << "a run left something there";
  }

  ChildProcess spawn(const std::vector<std::string>& arguments) {
    ChildOptions options;
    options.name = "tempo";
    options.arguments = {kTempo};
    options.arguments.insert(options.arguments.end(), arguments.begin(), arguments.end());
    options.environment = {"XDG_RUNTIME_DIR=" + directory_.file("run")};
    options.log_path = directory_.file("log");
    std::filesystem::remove(options.log_path);
    auto child = ChildProcess::start(options);
    EXPECT_TRUE(child.ok());
    return std::move(*child);
  }
  Outcome finish(ChildProcess& child) {
    EXPECT_TRUE(child.wait(seconds(60)));
    return {child.exit_code().value_or(-1), directory_.read("log")};
  }
  Outcome run(const std::vector<std::string>& arguments) {
    ChildProcess child = spawn(arguments);
    return finish(child);
  }
  std::string npy() const {
    return "npy:" + directory_.file("x.npy") + "," + directory_.file("y.npy");
  }
  std::vector<std::string> job(const std::string& command, std::vector<std::string> more) const {
    std::vector<std::string> arguments = {
        command,    "--model", directory_.file("m.onnx"), "--data",          npy(),
        "--scheme", "local",   "--enclave-program",       TEMPO_FAKE_ENCLAVE};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // One line "tempo: ...", and nothing else.
  static void expect_one_line_error(const Outcome& outcome, ErrorCode code) {
    EXPECT_EQ(outcome.code, static_cast<int>(code)) << outcome.out;
    EXPECT_TRUE(outcome.out.starts_with("tempo: ")) << outcome.out;
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1) << outcome.out;
  }
  std::size_t programs_left() const {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::ifstream file(entry.path() / "cmdline");
      const std::string command{std::istreambuf_iterator<char>(file), {}};
      count += command.find(directory_.file("run")) != std::string::npos ? 1 : 0;
    }
    return count;
  }

  TemporaryDirectory directory_;
};

TEST_F(CliTest, HelpAndVersionEverywhere) {
  const Outcome all = run({"--help"});
  EXPECT_EQ(all.code, 0);
  for (const char* command : {"model", "train", "infer", "plan", "ops", "doctor"}) {
    EXPECT_TRUE(std::regex_search(all.out, std::regex(std::string("\n  ") + command + " +[A-Z]")))
        << command;
    const Outcome help = run({command, "--help"});
    EXPECT_EQ(help.code, 0) << command;
    EXPECT_NE(help.out.find("Usage: tempo " + std::string(command)), std::string::npos) << help.out;
    const Outcome version = run({command, "--version"});
    EXPECT_EQ(version.code, 0);
    EXPECT_TRUE(std::regex_match(version.out, std::regex("tempo [0-9.]+\n"))) << version.out;
  }
}

// The flags stand in docs/reference.md, and the document names no others.
TEST_F(CliTest, TheReferenceListsExactlyTheFlags) {
  std::ifstream file(TEMPO_SOURCE_DIR "/docs/reference.md");
  const std::string reference{std::istreambuf_iterator<char>(file), {}};
  std::set<std::string> known = {"--help", "--version"};
  const std::regex flag("--[a-z][a-z-]+");
  for (const char* command : {"model", "train", "infer", "plan", "ops", "doctor"}) {
    const std::string help = run({command, "--help"}).out;
    for (std::sregex_iterator it(help.begin(), help.end(), flag), end; it != end; ++it) {
      known.insert(it->str());
      EXPECT_NE(reference.find("`" + it->str()), std::string::npos) << command << " " << it->str();
    }
  }
  const std::regex row("\n\\| `(--[a-z-]+)");
  for (std::sregex_iterator it(reference.begin(), reference.end(), row), end; it != end; ++it) {
    EXPECT_TRUE(known.contains((*it)[1])) << (*it)[1];
  }
}

TEST_F(CliTest, HelpSaysWhatASchemeProtects) {
  const std::string help = run({"train", "--help"}).out;
  EXPECT_NE(help.find("obfuscation only"), std::string::npos);
  EXPECT_NE(help.find("everything stays in the enclave"), std::string::npos);
  EXPECT_NE(help.find("no protection of confidentiality"), std::string::npos);
}

TEST_F(CliTest, BadFlagsAreOneLineAndCode2) {
  const std::vector<std::vector<std::string>> all = {
      {"frob"},
      {"train", "--modle", "m.onnx"},
      {"train"},
      job("train", {}),  // no -o
      job("train", {"-o", "o", "--batch", "many"}),
      job("train", {"-o", "o", "--batch", "0"}),
      job("train", {"-o", "o", "--lr", "nan"}),
      job("train", {"-o", "o", "--optimizer", "lion"}),
      job("train", {"-o", "o", "--loss", "hinge"}),
      job("train", {"-o", "o", "--loss", "mse", "--label-smoothing", "0.1"}),
      job("train", {"-o", "o", "--accumulate", "0"}),
      job("train", {"-o", "o", "--beta2", "1"}),
      job("train", {"-o", "o", "--freeze", ""}),
      job("infer", {"--freeze", "stem.*"}),
      job("train", {"-o", "o", "--schedule", "linear"}),
      job("train", {"-o", "o", "--augment", "crop,blur"}),
      job("train", {"-o", "o", "--workers", "2"}),
      job("train", {"-o", "o", "--workers", "local:-1"}),
      job("train", {"-o", "o", "--worker-memory", "lots"}),
      job("train", {"-o", "o", "--insecure-key-reuse"}),
      job("train", {"-o", "o", "--mean", "0.5"}),
      job("train", {"-o", "o", "--on-tamper", "cry"}),
      job("train", {"-o", "o", "--on-tamper", "continue"}),
      job("train", {"-o", "o", "--check", "lottery"}),
      job("train", {"-o", "o", "--integrity", ""}),
      job("train", {"-o", "o", "--integrity", "1e-6"}),
      job("train", {"-o", "o", "--integrity", "t=1e-6,"}),
      job("train", {"-o", "o", "--integrity", "t=1e-6,t=1e-7"}),
      job("train", {"-o", "o", "--integrity", "t=1e-6,k=3"}),
      job("train", {"-o", "o", "--integrity", "t=1e-6 e=0.02"}),
      job("train", {"-o", "o", "--integrity", "t=nan"}),
      job("train", {"-o", "o", "--integrity", "t=0"}),
      job("train", {"-o", "o", "--integrity", "e=-1"}),
      job("train", {"-o", "o", "--parallelism", "rows"}),
      job("train", {"-o", "o", "--parallelism", "=data"}),
      job("train", {"-o", "o", "--master", "tcp:1"}),
      job("infer", {"--epochs", "3"}),
      job("plan", {"--link", "100"}),
      job("plan", {"--link", "100MB/s"}),
      job("plan", {"--link", "-1Gbit"}),
      job("plan", {"--link", "0GBps"}),
      job("plan", {"--link", "infMBps"}),
      job("plan", {"--link", "1e9GBps"}),
      job("train", {"-o", "o", "--link", "1Gbit"}),
      {"model", "cnn", "--image", "3x32", "--classes", "10", "-o", "m"},
      {"model", "cnn", "--image", "3x32x32x", "--classes", "10", "-o", "m"},
      {"model", "gan", "--image", "3x32x32", "--classes", "10", "-o", "m"},
      {"model", "cnn", "--classes", "10", "-o", "m"},
  };
  for (const auto& arguments : all) {
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_one_line_error(run(arguments), ErrorCode::kUsage);
  }
  EXPECT_EQ(run({}).code, static_cast<int>(ErrorCode::kUsage));
}

TEST_F(CliTest, ErrorsNameTheFlagAndTheHelp) {
  const auto says = [&](std::vector<std::string> flags, const std::string& text) {
    flags.insert(flags.begin(), {"-o", "o"});
    const Outcome outcome = run(job("train", flags));
    expect_one_line_error(outcome, ErrorCode::kUsage);
    EXPECT_NE(outcome.out.find(text), std::string::npos) << outcome.out;
  };
  says({"--lr", "-1"}, "--lr");
  says({"--mean", "0.5"}, "--mean");
  says({"--step-epochs", "0"}, "--step-epochs");
  says({"--clip-norm", "-1"}, "--clip-norm");
  says({"--integrity", "e=0.02,t=one"}, "--integrity; expected t=T,e=E");
  says({"--integrity", "e=0.02,t=one"}, "got t=one");
  says({"--integrity", "t=0.9"}, "--integrity, t; expected 1e-30 to 0.5, got 0.9");
  says({"--loss", "mse", "--label-smoothing", "0.1"}, "--label-smoothing");
  says({"--train-only", std::string(300, 'x')}, "--train-only");
  says({"--parallelism", "fc1"}, "--parallelism");
  says({"--no-such-flag", "0"}, "tempo train --help");
  EXPECT_NE(run(job("plan", {"--link", "1e9GBps"})).out.find("where: --link;"), std::string::npos);
}

TEST_F(CliTest, MissingThingsHaveTheirCodes) {
  const std::string out = directory_.file("o.onnx");
  auto without_model = job("train", {"-o", out});
  without_model[2] = "/nonexistent.onnx";
  expect_one_line_error(run(without_model), ErrorCode::kNotFound);
  auto without_data = job("train", {"-o", out});
  without_data[4] = "npy:/nonexistent.npy,/nonexistent.npy";
  expect_one_line_error(run(without_data), ErrorCode::kNotFound);
  expect_one_line_error(run(job("train", {"-o", "/nonexistent/o.onnx"})), ErrorCode::kIo);
  expect_one_line_error(run(job("train", {"-o", out, "--report", "/nonexistent/r"})),
                        ErrorCode::kIo);
  expect_one_line_error(run(job("train", {"-o", out, "--report", out})), ErrorCode::kUsage);
  auto without_workers = job("train", {"-o", out, "--workers=local:0"});
  without_workers[6] = "tempo";
  expect_one_line_error(run(without_workers), ErrorCode::kNoWorker);
  auto without_enclave = job("train", {"-o", out});
  without_enclave[8] = "/nonexistent";
  expect_one_line_error(run(without_enclave), ErrorCode::kNotFound);
  expect_one_line_error(
      run(job("train", {"-o", out, "--master", "unix:" + directory_.file("nobody")})),
      ErrorCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(CliTest, TrainWritesModelReportAndSummary) {
  const std::string out = directory_.file("o.onnx");
  const std::string report = directory_.file("r.json");
  const Outcome outcome = run(job("train", {"-o", out, "--report", report, "--steps", "3"}));
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_EQ(directory_.read("o.onnx"), "trained:model");
  EXPECT_TRUE(nlohmann::json::parse(directory_.read("r.json")).contains("checks"));
  for (const char* line : {"\nProtected  scheme local: ", "\nChecked ", "\nModel ", "\nReport "}) {
    EXPECT_NE(outcome.out.find(line), std::string::npos) << line;
  }
  EXPECT_EQ(programs_left(), 0U);
}

TEST_F(CliTest, InferWritesPredictionsAndPlanPrints) {
  const std::string out = directory_.file("p.npy");
  EXPECT_EQ(run(job("infer", {"-o", out})).code, 0);
  EXPECT_EQ(directory_.read("p.npy"), "samples");
  EXPECT_TRUE(run(job("plan", {})).out.ends_with("\nconv1 worker\n"));
  EXPECT_TRUE(run(job("plan", {"--json"})).out.ends_with("\n{\"ops\": []}\n"));
  for (const char* link : {"100MBps", "1.25GBps", "800Mbit", "10Gbit"}) {
    EXPECT_EQ(run(job("plan", {"--link", link})).code, 0) << link;
  }
}

TEST_F(CliTest, AFailedJobKeepsItsReportAndCode) {
  const std::string out = directory_.file("o.onnx");
  const std::string report = directory_.file("r.json");
  const Outcome failed = run(job("train", {"-o", out, "--seed", "1001"}));
  expect_one_line_error(failed, ErrorCode::kBadData);
  // The enclave says y.npy; the user's file has a path.
  EXPECT_NE(failed.out.find(directory_.file("y.npy")), std::string::npos) << failed.out;
  expect_one_line_error(run(job("train", {"-o", out, "--report", report, "--seed", "1002"})),
                        ErrorCode::kTampered);
  EXPECT_FALSE(directory_.read("r.json").empty());
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(CliTest, AJobFileDoesWhatFlagsDoAndFlagsOverrideIt) {
  const std::string out = directory_.file("o.onnx");
  const std::string file = directory_.write(
      "job.toml",
      "model = '" + directory_.file("m.onnx") + "'\ndata = '" + npy() +
          "'\nscheme = 'local'\nenclave_program = '" TEMPO_FAKE_ENCLAVE "'\noutput = '" + out +
          "'\nseed = 1001\nkey_real = true\nmean = [0.5]\nstd = [0.25]\n"
          "optimizer = 'adamw'\nbeta1 = 0.8\nfreeze = ['stem.*', 'b']\n"
          "freeze_statistics = true\nparallelism = ['in-features', 'a=data']\n");
  EXPECT_EQ(run({"train", "--job", file}).code, static_cast<int>(ErrorCode::kBadData));
  const Outcome overridden = run({"train", "--job", file, "--seed", "7"});
  EXPECT_EQ(overridden.code, 0) << overridden.out;
  EXPECT_EQ(directory_.read("o.onnx"), "trained:model");
  // A plan has no use for them, and takes the file all the same.
  EXPECT_EQ(run({"plan", "--job", file, "--seed", "7"}).code, 0);
  const auto refused = [&](const std::string& text, const std::string& where) {
    const Outcome outcome = run({"train", "--job", directory_.write("bad.toml", text)});
    expect_one_line_error(outcome, ErrorCode::kUsage);
    EXPECT_NE(outcome.out.find(where), std::string::npos) << outcome.out;
  };
  refused("bacth = 3\n", "bacth");
  refused("momentum = true\n", "momentum");
  refused("key_real = 1\n", "key_real");
  refused("job = 'other.toml'\n", "job");
  refused("[data]\n", "data");
  expect_one_line_error(run({"train", "--job", "/nonexistent.toml"}), ErrorCode::kNotFound);
}

class SignalTest : public CliTest, public testing::WithParamInterface<int> {
 protected:
  // A job without end that has begun.
  ChildProcess spawn_running(const std::string& out) {
    ChildProcess child = spawn(job("train", {"-o", out, "--steps", "1000000000"}));
    for (int i = 0; i < 5000 && directory_.read("log").find("step ") == std::string::npos; ++i) {
      std::this_thread::sleep_for(milliseconds(2));
    }
    return child;
  }
};

TEST_P(SignalTest, OnceKeepsTheModelSoFar) {
  ChildProcess child = spawn_running(directory_.file("o.onnx"));
  ::kill(child.pid(), GetParam());
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.code, static_cast<int>(ErrorCode::kInterrupted)) << outcome.out;
  EXPECT_EQ(directory_.read("o.onnx"), "trained:model");
  EXPECT_EQ(programs_left(), 0U);
}

INSTANTIATE_TEST_SUITE_P(All, SignalTest, testing::Values(SIGINT, SIGTERM, SIGHUP));

TEST_F(SignalTest, AKilledClientTakesItsProgramsAlongAndTheNextRunTidiesUp) {
  {
    ChildProcess child = spawn_running(directory_.file("o.onnx"));
    child.kill();
    EXPECT_TRUE(child.wait(seconds(20)));
  }
  for (int i = 0; i < 5000 && programs_left() > 0; ++i) {
    std::this_thread::sleep_for(milliseconds(2));
  }
  EXPECT_EQ(programs_left(), 0U);
  EXPECT_EQ(run(job("plan", {})).code, 0);  // and ~CliTest() looks
}

}  // namespace
}  // namespace tempo
