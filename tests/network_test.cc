// Training across network namespaces: over links of a known speed, and while workers are killed,
// stopped, cut off, start anew and lie. The losses are those of the enclave alone. Needs root.
#include <cstdlib>
#include <memory>

#include "tests/child_process.h"
#include "tests/network_star.h"
#include "tests/training_fixture.h"

namespace tempo {
namespace {

using std::chrono::milliseconds;

class NetworkTest : public TrainingTest {
 protected:
  void SetUp() override {
    // Of programs with AddressSanitizer: what they find, leaks at their end included.
    ::setenv("ASAN_OPTIONS", ("log_path=" + path("sanitizer")).c_str(), 1);
  }
  void TearDown() override {
    workers_.clear();
    TrainingTest::TearDown();
    for (const auto& entry : std::filesystem::directory_iterator(work_.path())) {
      const std::string name = entry.path().filename();
      EXPECT_FALSE(name.starts_with("sanitizer")) << read_file(entry.path());
    }
  }

  void make_star(int spokes) {
    star_ = std::make_unique<NetworkStar>(spokes);
    prefix_ = star_->in_hub();
    workers_.resize(static_cast<std::size_t>(spokes));
  }
  static std::string address(int i, int port = kPort) {
    return "tcp://" + NetworkStar::address(i) + ":" + std::to_string(port);
  }
  // The only worker in its spoke, in place of the one that was there.
  void start_worker(int i, const char* binary = "tempo-worker",
                    const std::vector<std::string>& flags = {}, int port = kPort) {
    std::vector<std::string> command = star_->in_spoke(i);
    // Any address: those of a pulled cable are nobody's.
    command.insert(command.end(),
                   {program(binary), "--listen", "tcp://0.0.0.0:" + std::to_string(port),
                    "--threads", "1", "--memory", "1G", "--log-level", "error"});
    command.insert(command.end(), flags.begin(), flags.end());
    Child& worker = workers_[static_cast<std::size_t>(i)];
    worker = Child();
    worker = Child(command);
  }
  // Flags of a worker whose products take longer than on any machine, so that things happen during
  // them. rate: multiply-adds a second.
  static std::vector<std::string> slow(const std::string& rate) {
    return {"--device", "throttled", "--rate", rate};
  }
  std::string list_of_all() const {
    std::string list;
    for (int i = 0; i < static_cast<int>(workers_.size()); ++i) {
      list += (i > 0 ? "," : "") + address(i);
    }
    return list;
  }

  // With the times of its steps, by which while_running can follow it. Steps take long enough for
  // what is lost to be found again before the end.
  Json train_watched(const Training& training, std::vector<std::string> flags,
                     const std::function<void(const StepWatch&)>& while_running) {
    flags.insert(flags.end(),
                 {"--enclave-program", program("tempo-enclave-lab") +
                                           " --step-pause 150 --step-times " + path("steps")});
    const Json report =
        train(training, flags, [&](pid_t pid) { while_running(StepWatch(pid, path("steps"))); });
    const std::vector<double> times = StepWatch::step_times(path("steps"));
    EXPECT_GE(times.size() + 1, static_cast<std::size_t>(training.steps));
    double longest = 0;
    for (const double time : times) longest = std::max(longest, time);
    std::printf("the longest step took %.1f s\n", longest);
    EXPECT_LT(longest, 30);
    return report;
  }

  static std::size_t count_events(const Json& report, const std::string& kind, int worker) {
    const Json& events = report.at("events");
    return static_cast<std::size_t>(std::count_if(
        events.begin(), events.end(),
        [&](const Json& event) { return event["kind"] == kind && event["worker"] == worker; }));
  }

  static constexpr int kPort = 7000;
  std::unique_ptr<NetworkStar> star_;
  std::vector<Child> workers_;
};

class TwoWorkers : public NetworkTest, public testing::WithParamInterface<Training> {};

TEST_P(TwoWorkers, OverLinksOf100MegabytesASecondTrainAsInside) {
  make_star(2);
  for (int i = 0; i < 2; ++i) {
    star_->limit(i, 100);
    start_worker(i);
  }
  const Json report = train(GetParam(), {"--workers", list_of_all()});
  expect_trained_as_inside(GetParam(), report);
  EXPECT_EQ(report["checks"]["failed"], 0);
  EXPECT_TRUE(report["events"].empty()) << report["events"];
  for (const double work : work_done(report)) EXPECT_GT(work, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, TwoWorkers,
                         testing::Values(Training{"resnet20", 40, 16, "0.002"},
                                         Training{"vit", 12, 8, "0.001"}),
                         [](const auto& training) { return training.param.model; });

// The cable is pulled, and behind it the worker dies and is started again: nothing that it ever
// said to the off-loader ends the connection, and the new one knows of none.
TEST_F(NetworkTest, AHalfOpenConnectionIsFoundOutAndMadeAnew) {
  make_star(2);
  for (int i = 0; i < 2; ++i) start_worker(i, "tempo-worker-lab", slow("5e8"));
  const Training training{"resnet20", 50, 16, "0.0005"};
  const Json report =
      train_watched(training, {"--workers", list_of_all()}, [&](const StepWatch& watch) {
        ASSERT_TRUE(watch.wait_for(5));
        star_->pull_cable(1);
        start_worker(1, "tempo-worker-lab", slow("5e8"));
        ASSERT_TRUE(watch.wait_for(10));  // so it was found out
        star_->plug_in(1);
      });
  expect_trained_as_inside(training, report);
  EXPECT_EQ(report["checks"]["failed"], 0);
  EXPECT_EQ(count_events(report, "lost", 1), 1U) << report["events"];
  EXPECT_EQ(count_events(report, "joined", 1), 1U) << report["events"];
  EXPECT_EQ(count_events(report, "lost", 0), 0U) << report["events"];
  EXPECT_FALSE(report["workers"][1]["lost"].get<bool>());
  // More than if it had done all of the steps before alone.
  const std::vector<double> work = work_done(report);
  EXPECT_GT(work[1], 6 * (work[0] + work[1]) / training.steps) << report["events"];
}

// What happens to an honest worker, until it is repaired.
enum Fault { kKilled, kStopped, kCutOff, kKilledBehindACut, kFaults };
constexpr const char* kFaultNames[] = {"killed", "stopped", "cut off", "killed behind a cut cable"};

// Three workers, one of which cheats in one of a hundred products. It is caught and gets nothing
// any more, so that another cheat takes its place, under a new address. The others
// fail in all the ways that there are, sometimes both at once.
TEST_F(NetworkTest, ChaosChangesNothing) {
  constexpr int kCheat = 2;
  const Training training{"resnet20", 200, 16, "0.0005"};
  const std::vector<std::string> speed = slow("1e9");
  make_star(3);
  const auto start_honest = [&](int i) { start_worker(i, "tempo-worker-lab", speed); };
  for (int i = 0; i < kCheat; ++i) start_honest(i);

  int cheats = 0;
  std::string list = address(0) + "\n" + address(1) + "\n";
  const auto log = [&](int cheat) { return path("cheats" + std::to_string(cheat)); };
  const auto has_cheated = [&](int cheat) { return !read_file(log(cheat)).empty(); };
  const auto start_cheat = [&] {
    std::vector<std::string> flags = {"--cheat-every", "100",      "--cheat-size", "1",
                                      "--cheat-log",   log(cheats)};
    flags.insert(flags.end(), speed.begin(), speed.end());
    start_worker(kCheat, "tempo-worker-lab", flags, kPort + cheats);
    list += address(kCheat, kPort + cheats) + "\n";
    ++cheats;
    std::ofstream(path("new")) << list;
    std::filesystem::rename(path("new"), path("list"));
  };
  start_cheat();

  std::mt19937 random(1);
  std::map<std::string, int> happened;
  const auto fail = [&](int worker, int kind) {
    ++happened[kFaultNames[kind]];
    if (kind == kCutOff || kind == kKilledBehindACut) star_->pull_cable(worker);
    if (kind == kStopped) workers_[static_cast<std::size_t>(worker)].send_signal(SIGSTOP);
    if (kind == kKilled) workers_[static_cast<std::size_t>(worker)] = Child();
    if (kind == kKilledBehindACut) start_honest(worker);
  };
  const auto repair = [&](int worker, int kind) {
    if (kind == kCutOff || kind == kKilledBehindACut) star_->plug_in(worker);
    if (kind == kStopped) workers_[static_cast<std::size_t>(worker)].send_signal(SIGCONT);
    if (kind == kKilled) start_honest(worker);
  };
  const Json report =
      train_watched(training, {"--workers", "file:" + path("list")}, [&](const StepWatch& watch) {
        for (int round = 0; watch.wait_for_more(5); ++round) {
          if (has_cheated(cheats - 1)) start_cheat();
          const int kind = round % kFaults;
          const int worker = static_cast<int>(random() % 2);
          const bool both = random() % 4 == 0;
          const int other_kind = static_cast<int>(random() % kFaults);
          fail(worker, kind);
          if (both) fail(1 - worker, other_kind);
          // Shorter and longer than a silence that is put up with.
          std::this_thread::sleep_for(milliseconds(500 + random() % 4000));
          repair(worker, kind);
          if (both) repair(1 - worker, other_kind);
        }
      });

  for (const auto& [what, times] : happened) std::printf("%s %d times\n", what.c_str(), times);
  EXPECT_EQ(happened.size(), static_cast<std::size_t>(kFaults));
  expect_trained_as_inside(training, report);
  // Every cheat that joined was caught, once, and nobody else. The first two workers are honest.
  int have_cheated = 0;
  for (int cheat = 0; cheat < cheats; ++cheat) have_cheated += has_cheated(cheat) ? 1 : 0;
  std::printf("%d cheats, of which %d cheated and %d were caught\n", cheats, have_cheated,
              report["checks"]["failed"].get<int>());
  EXPECT_GT(have_cheated, 3);
  EXPECT_EQ(report["checks"]["failed"], have_cheated);
  for (const Json& worker : report["workers"]) {
    const bool is_honest = worker["index"] < kCheat;
    EXPECT_LE(worker["tampered"].get<int>(), is_honest ? 0 : 1) << worker;
  }
  for (int worker = 0; worker < kCheat; ++worker) {
    EXPECT_GT(count_events(report, "lost", worker), 0U);
    EXPECT_GT(count_events(report, "joined", worker), 0U);
  }
}

}  // namespace
}  // namespace tempo

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const std::string obstacle = tempo::NetworkStar::obstacle();
  if (!obstacle.empty()) {
    std::printf("skipped: %s\n", obstacle.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
