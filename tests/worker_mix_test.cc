// Training on every mix of workers on this host and over TCP: the losses of the enclave alone,
// whoever does the work, and work in proportion to speed.
#include "tests/child_process.h"
#include "tests/loopback.h"
#include "tests/training_fixture.h"

namespace tempo {
namespace {

// Long enough for rectifiers to have amplified differences of rounding, which happens to one run
// sooner than to another.
const Training kResNet{"resnet20", 40, 16, "0.002"};
const Training kTransformer{"vit", 12, 8, "0.001"};

class WorkerMixTest : public TrainingTest {
 protected:
  void TearDown() override {
    workers_.clear();
    TrainingTest::TearDown();
  }

  // Gives its address.
  std::string start_remote(const std::vector<std::string>& flags = {},
                           const char* binary = "tempo-worker") {
    const std::string address = "tcp://127.0.0.1:" + std::to_string(free_port());
    start_remote_at(address, flags, binary);
    return address;
  }
  void start_remote_at(const std::string& address, const std::vector<std::string>& flags,
                       const char* binary = "tempo-worker") {
    std::vector<std::string> command = {program(binary), "--listen", address, "--threads", "1",
                                        "--log-level",   "error"};
    command.insert(command.end(), flags.begin(), flags.end());
    workers_.emplace_back(command);
  }

  void expect_mix_trains(const Training& training, int local, int remote) {
    workers_.clear();
    std::string list = local > 0 ? "local:" + std::to_string(local) : "";
    for (int i = 0; i < remote; ++i) list += (list.empty() ? "" : ",") + start_remote();
    SCOPED_TRACE(list);
    const Json report = train(training, {"--workers", list});
    expect_trained_as_inside(training, report);
    EXPECT_EQ(report["checks"]["failed"], 0);
    EXPECT_TRUE(report["events"].empty()) << report["events"];
    const std::vector<double> work = work_done(report);
    EXPECT_EQ(work.size(), static_cast<std::size_t>(local + remote));
    for (const double done : work) EXPECT_GT(done, 0);
  }

  std::vector<Child> workers_;
};

TEST_F(WorkerMixTest, ThreeWorkersOfBothKinds) {
  expect_mix_trains(kResNet, 1, 2);
}

struct Mix {
  int local, remote;
};

class EveryMix : public WorkerMixTest, public testing::WithParamInterface<Mix> {};

TEST_P(EveryMix, TrainsAResNet) {
  expect_mix_trains(kResNet, GetParam().local, GetParam().remote);
}
TEST_P(EveryMix, TrainsATransformer) {
  expect_mix_trains(kTransformer, GetParam().local, GetParam().remote);
}

INSTANTIATE_TEST_SUITE_P(Workers, EveryMix,
                         testing::Values(Mix{1, 0}, Mix{0, 1}, Mix{1, 1}, Mix{2, 1}, Mix{0, 4},
                                         Mix{3, 2}, Mix{6, 0}, Mix{2, 5}, Mix{4, 4}, Mix{0, 8}),
                         [](const auto& mix) {
                           return "Local" + std::to_string(mix.param.local) + "Remote" +
                                  std::to_string(mix.param.remote);
                         });

// A worker's speed is what it did in the time in which it had tasks; products are slow here, so
// that nothing else takes a noticeable part of that time. The first steps find the speeds out.
class ShareTest : public WorkerMixTest {
 protected:
  void expect_shares(Training training, double rate, int settling) {
    const auto flags = [&](double times) {
      return std::vector<std::string>{"--device", "throttled", "--rate",
                                      std::to_string(times * rate)};
    };
    const std::string slowest =
        program("tempo-worker-lab") + " --device throttled --rate " + std::to_string(rate);
    const std::string list = "local:1," + start_remote(flags(2), "tempo-worker-lab") + "," +
                             start_remote(flags(4), "tempo-worker-lab");
    const auto work_of = [&](int steps) {
      training.steps = steps;
      const Json report = train(training, {"--workers", list, "--worker-program", slowest});
      EXPECT_EQ(report["checks"]["failed"], 0);
      return work_done(report);
    };
    const std::vector<double> all = work_of(training.steps);
    const std::vector<double> first = work_of(settling);
    ASSERT_EQ(all.size(), 3U);
    ASSERT_EQ(first.size(), 3U);
    double sum = 0;
    for (std::size_t w = 0; w < 3; ++w) sum += all[w] - first[w];
    for (std::size_t w = 0; w < 3; ++w) {
      const double wanted = (1 << w) / 7.0;
      const double share = (all[w] - first[w]) / sum;
      std::printf("%s, worker %zu: %.3f of the work, %.3f of the speed\n", training.model.c_str(),
                  w, share, wanted);
      EXPECT_NEAR(share, wanted, 0.15 * wanted) << w;
    }
  }
};

TEST_F(ShareTest, FollowsSpeed) {
  expect_shares({"resnet20", 16, 32, "0.002"}, 2.5e7, 5);
}

using RejoinTest = WorkerMixTest;

// Killed in the middle and started again: it gets its half of the work again. Both are slow enough
// for the training to last until the off-loader has found it.
TEST_F(RejoinTest, AWorkerThatComesBackGetsItsShareAgain) {
  const std::string steps = path("steps");
  const std::vector<std::string> slow = {"--device", "throttled", "--rate", "5e8"};
  const std::string stays = start_remote(slow, "tempo-worker-lab");
  const std::string leaves = start_remote(slow, "tempo-worker-lab");
  const Training training{"resnet20", 50, 16, "0.0005"};
  const Json report = train(training,
                            {"--workers", stays + "," + leaves, "--enclave-program",
                             program("tempo-enclave-lab") + " --step-times " + steps},
                            [&](pid_t pid) {
                              const StepWatch watch(pid, steps);
                              ASSERT_TRUE(watch.wait_for(5));
                              workers_[1] = Child();
                              ASSERT_TRUE(watch.wait_for(10));
                              start_remote_at(leaves, slow, "tempo-worker-lab");
                            });
  expect_trained_as_inside(training, report);
  EXPECT_EQ(report["checks"]["failed"], 0);
  ASSERT_EQ(report["events"].size(), 2U) << report["events"];
  EXPECT_EQ(report["events"][0]["kind"], "lost");
  EXPECT_EQ(report["events"][1]["kind"], "joined");
  EXPECT_EQ(report["events"][1]["worker"], 1);
  EXPECT_FALSE(report["workers"][1]["lost"].get<bool>());
  // More than if it had done all of the steps before alone.
  const std::vector<double> work = work_done(report);
  EXPECT_GT(work[1], 6 * (work[0] + work[1]) / training.steps) << report["events"];
}

}  // namespace
}  // namespace tempo
