// The enclave's end of the ring against real off-loaders and workers: right numbers, and what
// happens when one of them dies, is out of memory, or is sent garbage.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/child_process.h"
#include "tests/ring_fixture.h"
#include "wire/shared_words.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

namespace fs = std::filesystem;

struct Matrix {
  std::uint32_t rows = 0, cols = 0;
  std::vector<float> values;
};

std::set<std::string> shared_memory_files() {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator("/dev/shm")) names.insert(entry.path());
  return names;
}

class WorkersTest : public RingTest {
 protected:
  void TearDown() override {
    leave();
    workers_.clear();
  }

  std::string worker_path(std::size_t i) const { return path("worker" + std::to_string(i)); }

  void start_worker(const std::vector<std::string>& flags = {},
                    const char* binary = "tempo-worker") {
    std::vector<std::string> arguments = {
        program(binary), "--listen", "unix:" + worker_path(workers_.size()), "--threads", "1",
        "--log-level",   "error"};
    if (flags.empty()) arguments.insert(arguments.end(), {"--memory", "64M"});
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    workers_.emplace_back(arguments);
  }
  void wait_for_worker(std::size_t index) const {
    for (int tries = 0; tries < 6000 && !fs::exists(worker_path(index)); ++tries) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  void start_offloader(const std::vector<std::string>& flags = {}, int connect_ms = kPatienceMs) {
    std::string addresses;
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      addresses += (i > 0 ? ",unix:" : "unix:") + worker_path(i);
    }
    RingTest::start_offloader(addresses, flags, connect_ms);
  }
  void start(std::size_t workers) {
    for (std::size_t i = 0; i < workers; ++i) start_worker();
    start_offloader();
    attach();
  }

  Matrix random_matrix(std::uint32_t rows, std::uint32_t cols) {
    Matrix m{rows, cols, std::vector<float>(std::size_t{rows} * cols)};
    for (float& x : m.values) x = normal_(random_);
    return m;
  }

  void take(const Result<std::optional<Completion>>& completion) {
    if (!completion) throw std::runtime_error(completion.error().one_line());
    if (!completion->has_value()) throw std::runtime_error("no completion in time");
    completed_[(*completion)->request] = **completion;
  }
  // Waits until this request is completed; others are kept for later.
  Completion wait(std::uint64_t request) {
    while (!completed_.contains(request)) {
      take(link_->poll(kPatienceMs));
    }
    return completed_[request];
  }
  std::uint64_t submit(const Task& task, const Slot* payload, const Slot* reply) {
    for (;;) {
      auto request = link_->submit(task, payload, reply);
      if (!request) throw std::runtime_error(request.error().one_line());
      if (request->has_value()) return **request;
      take(link_->poll(kPatienceMs));
    }
  }
  std::uint64_t submit_put(std::uint32_t worker, std::uint64_t id, const Matrix& m) {
    Task task;
    task.verb = Verb::kPut;
    task.worker = worker;
    task.result = id;
    task.rows = m.rows;
    task.cols = m.cols;
    std::optional<Slot> slot;
    while (!(slot = link_->reserve(task.payload_bytes()))) take(link_->poll(kPatienceMs));
    copy_out(slot->data, m.values.data(), task.payload_bytes());
    return submit(task, &*slot, nullptr);
  }
  TaskStatus put(std::uint32_t worker, std::uint64_t id, const Matrix& m) {
    return wait(submit_put(worker, id, m)).status;
  }
  static Task product(std::uint32_t worker, std::uint64_t a, std::uint64_t b, std::uint32_t flags,
                      std::uint32_t rows, std::uint32_t cols, std::uint64_t result = 0) {
    Task task;
    task.verb = Verb::kMultiply;
    task.worker = worker;
    task.a = a;
    task.b = b;
    task.result = result;
    task.flags = flags;
    task.rows = rows;
    task.cols = cols;
    return task;
  }
  Completion multiply(const Task& task, Matrix* out = nullptr) {
    const bool returned = (task.flags & kReturn) != 0;
    std::optional<Slot> slot;
    if (returned) slot = link_->reserve(task.reply_bytes());
    const Completion done = wait(submit(task, nullptr, returned ? &*slot : nullptr));
    if (returned && done.status == TaskStatus::kOk) {
      *out = {task.rows, task.cols, std::vector<float>(std::size_t{task.rows} * task.cols)};
      copy_in(out->values.data(), slot->data, task.reply_bytes());
    }
    if (returned) link_->release(*slot);
    return done;
  }
  void expect_served(std::uint32_t worker) {
    ASSERT_EQ(put(worker, 1, {1, 2, {3, 4}}), TaskStatus::kOk);
    Matrix out;
    ASSERT_EQ(multiply(product(worker, 1, 1, kTransposeB | kReturn, 1, 1), &out).status,
              TaskStatus::kOk);
    EXPECT_EQ(out.values[0], 25.0F);
  }

  std::vector<Child> workers_;
  std::map<std::uint64_t, Completion> completed_;
  std::mt19937 random_{11};
  std::normal_distribution<float> normal_;
};

// sums += op(a) op(b) and magnitudes += the same of absolute values, in float64.
void add_product(const Matrix& a, const Matrix& b, std::uint32_t flags, std::vector<double>& sums,
                 std::vector<double>& magnitudes) {
  const bool ta = (flags & kTransposeA) != 0, tb = (flags & kTransposeB) != 0;
  const std::uint32_t rows = ta ? a.cols : a.rows, inner = ta ? a.rows : a.cols;
  const std::uint32_t cols = tb ? b.rows : b.cols;
  sums.resize(std::size_t{rows} * cols);
  magnitudes.resize(sums.size());
  for (std::uint32_t r = 0; r < rows; ++r) {
    for (std::uint32_t c = 0; c < cols; ++c) {
      for (std::uint32_t i = 0; i < inner; ++i) {
        const double x = ta ? a.values[i * a.cols + r] : a.values[r * a.cols + i];
        const double y = tb ? b.values[c * b.cols + i] : b.values[i * b.cols + c];
        sums[r * cols + c] += x * y;
        magnitudes[r * cols + c] += std::abs(x * y);
      }
    }
  }
}

TEST_F(WorkersTest, ProductsOfAllTransposesAccumulateAndStay) {
  start(2);
  ASSERT_EQ(link_->workers().size(), 2U);
  EXPECT_STREQ(link_->workers()[0].device, "cpu, 1 thread");
  EXPECT_EQ(link_->workers()[1].memory_limit_bytes, 64U << 20);
  constexpr std::uint32_t kRows = 67, kInner = 31, kCols = 45;
  for (std::uint32_t worker = 0; worker < 2; ++worker) {
    for (std::uint32_t transposes = 0; transposes < 4; ++transposes) {
      const bool ta = (transposes & kTransposeA) != 0, tb = (transposes & kTransposeB) != 0;
      std::vector<double> sums, magnitudes;
      for (int tile = 0; tile < 2; ++tile) {
        const Matrix a = ta ? random_matrix(kInner, kRows) : random_matrix(kRows, kInner);
        const Matrix b = tb ? random_matrix(kCols, kInner) : random_matrix(kInner, kCols);
        add_product(a, b, transposes, sums, magnitudes);
        ASSERT_EQ(put(worker, 1, a), TaskStatus::kOk);
        ASSERT_EQ(put(worker, 2, b), TaskStatus::kOk);
        // First tile: keep. Second: add to it, return the sum.
        const std::uint32_t flags = transposes | (tile == 0 ? kKeep : kAccumulate | kReturn);
        Matrix out;
        ASSERT_EQ(multiply(product(worker, 1, 2, flags, kRows, kCols, 3), &out).status,
                  TaskStatus::kOk);
        if (tile == 0) continue;
        for (std::size_t i = 0; i < sums.size(); ++i) {
          // Each term and each addition rounds once.
          ASSERT_NEAR(out.values[i], sums[i], (2 * kInner + 2) * 0x1p-23 * magnitudes[i]);
        }
      }
    }
  }
}

TEST_F(WorkersTest, ManyTilesOnSeveralWorkersThroughAFullRing) {
  start(2);
  // 300 puts and products of 256 KiB: far more than ring and shared memory hold at once.
  const Matrix big = random_matrix(256, 256);
  std::vector<std::uint64_t> requests;
  for (std::uint32_t i = 0; i < 150; ++i) {
    requests.push_back(submit_put(i % 2, 1, big));
    requests.push_back(
        submit(product(i % 2, 1, 1, kTransposeB | kKeep, 256, 256, 2), nullptr, nullptr));
  }
  for (const std::uint64_t request : requests) ASSERT_EQ(wait(request).status, TaskStatus::kOk);
  EXPECT_TRUE(link_->reserve(link_->max_slot_bytes()).has_value());  // all payloads came back
}

TEST_F(WorkersTest, APayloadMayFillTheWholeRing) {
  start(1);
  // But for the slab of the watch.
  Matrix whole{1008, 1024, std::vector<float>(1008 * 1024, 0.5F)};
  ASSERT_EQ(std::uint64_t{1008} * 1024 * 4, link_->max_slot_bytes());
  EXPECT_EQ(put(0, 1, whole), TaskStatus::kOk);
  EXPECT_EQ(put(0, 1, whole), TaskStatus::kOk);
}

TEST_F(WorkersTest, AKilledWorkerIsReportedAndTheOtherGoesOn) {
  start(2);
  expect_served(0);
  workers_[0].send_signal(SIGKILL);
  // Tasks that were sent just now, and those that come later.
  for (int i = 0; i < 20; ++i) {
    const TaskStatus status = put(0, 5, random_matrix(10, 10));
    ASSERT_TRUE(status == TaskStatus::kWorkerLost || (i == 0 && status == TaskStatus::kOk));
  }
  expect_served(1);
}

TEST_F(WorkersTest, AWorkerThatDiesInAProductLosesAllThatItHeld) {
  start_worker({"--die-after", "3", "--memory", "64M"}, "tempo-worker-lab");
  start_worker();
  start_offloader();
  attach();
  const Matrix m = random_matrix(64, 64);
  std::vector<std::uint64_t> requests;
  requests.push_back(submit_put(0, 1, m));
  for (int i = 0; i < 8; ++i) {
    requests.push_back(submit(product(0, 1, 1, kKeep, 64, 64, 2), nullptr, nullptr));
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(wait(requests[i]).status, i < 3 ? TaskStatus::kOk : TaskStatus::kWorkerLost) << i;
  }
  EXPECT_EQ(workers_[0].wait(), -SIGKILL);
  expect_served(1);
}

TEST_F(WorkersTest, AStalledWorkerDoesNotHoldUpTheOther) {
  start_worker({"--stall-after", "1", "--memory", "64M"}, "tempo-worker-lab");
  start_worker();
  start_offloader();
  attach();
  ASSERT_EQ(put(0, 1, random_matrix(8, 8)), TaskStatus::kOk);
  const auto stuck = submit(product(0, 1, 1, kKeep, 8, 8, 2), nullptr, nullptr);
  for (int i = 0; i < 10; ++i) submit_put(0, 2, random_matrix(8, 8));
  expect_served(1);
  EXPECT_FALSE(completed_.contains(stuck));
  workers_[0].send_signal(SIGTERM);
  EXPECT_EQ(workers_[0].wait(), 0);
  EXPECT_EQ(wait(stuck).status, TaskStatus::kOk);  // it was told to end, and answered at last
}

TEST_F(WorkersTest, AKilledOffloaderBreaksTheLinkAndWorkersServeTheNext) {
  start(2);
  expect_served(0);
  ASSERT_EQ(put(0, 77, random_matrix(4, 4)), TaskStatus::kOk);
  offloader_.send_signal(SIGKILL);
  ASSERT_EQ(offloader_.wait(), -SIGKILL);
  EXPECT_EQ(link_->poll(kPatienceMs).error().code, ErrorCode::kProtocol);
  EXPECT_EQ(link_->submit(product(0, 1, 1, kKeep, 1, 1), nullptr, nullptr).error().code,
            ErrorCode::kProtocol);
  completed_.clear();
  start_offloader();  // over the dead one's socket file
  attach();
  expect_served(0);
  expect_served(1);
  const Completion forgotten = multiply(product(0, 77, 77, kKeep, 4, 4, 1));
  EXPECT_EQ(forgotten.status, TaskStatus::kUnknownId);
  EXPECT_EQ(forgotten.detail, 77U);
}

TEST_F(WorkersTest, EverythingEndsCleanlyWhenTheEnclaveLeaves) {
  const auto before = shared_memory_files();
  start(2);
  expect_served(0);
  EXPECT_FALSE(fs::exists(path("ring")));  // one enclave only: nobody else can knock
  EXPECT_EQ(shared_memory_files(), before);
  link_.reset();
  EXPECT_EQ(offloader_.wait(), 0);
  for (Child& worker : workers_) {
    worker.send_signal(SIGTERM);
    EXPECT_EQ(worker.wait(), 0);
  }
  EXPECT_TRUE(fs::is_empty(path("")));
  EXPECT_EQ(shared_memory_files(), before);
}

TEST_F(WorkersTest, InterruptsEndTheProgramsCleanlyInTheMiddle) {
  start(1);
  expect_served(0);
  offloader_.send_signal(SIGINT);
  EXPECT_EQ(offloader_.wait(), 0);
  workers_[0].send_signal(SIGINT);
  EXPECT_EQ(workers_[0].wait(), 0);
  EXPECT_TRUE(fs::is_empty(path("")));
}

TEST_F(WorkersTest, AWorkerOutOfMemorySaysByHowMuch) {
  start_worker({"--memory", "1000"});
  start_offloader();
  attach();
  EXPECT_EQ(put(0, 1, random_matrix(10, 20)), TaskStatus::kOk);
  const Completion refused = wait(submit_put(0, 2, random_matrix(10, 10)));
  EXPECT_EQ(refused.status, TaskStatus::kOutOfMemory);
  EXPECT_EQ(refused.detail, 200U);
  Task drop;
  drop.verb = Verb::kDrop;
  drop.a = 0;
  drop.b = ~std::uint64_t{0};
  EXPECT_EQ(wait(submit(drop, nullptr, nullptr)).status, TaskStatus::kOk);
  EXPECT_EQ(put(0, 2, random_matrix(10, 10)), TaskStatus::kOk);
}

TEST_F(WorkersTest, MalformedTasksAreRefusedAndTheRestGoesOn) {
  start(1);
  EXPECT_EQ(multiply(product(0, 1, 1, kTransposeA, 4, 4)).status, TaskStatus::kBadTask);
  EXPECT_EQ(multiply(product(0, 1, 1, kKeep | 1024, 4, 4)).status, TaskStatus::kBadTask);
  EXPECT_EQ(multiply(product(0, 1, 1, kKeep, 0, 4)).status, TaskStatus::kBadTask);
  expect_served(0);
}

TEST_F(WorkersTest, ARingBeyondTheMemoryLimitIsRefused) {
  start_worker();
  start_offloader({"--memory-limit", "1M"});
  const auto refused = RingLink::attach(path("ring"), kGeometry, kPatienceMs);
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory) << refused.error().one_line();
  const auto small = RingLink::attach(path("ring"), {4, 4, 4096}, kPatienceMs);
  EXPECT_TRUE(small) << small.error().one_line();
}

TEST_F(WorkersTest, WithoutWorkersTheOffloaderSaysSo) {
  offloader_ =
      Child({program("tempo-offloader"), "--listen", "unix:" + path("ring"), "--workers",
             "unix:" + path("nobody"), "--log-level", "off", "--connect-timeout-ms", "100"});
  EXPECT_EQ(offloader_.wait(), static_cast<int>(ErrorCode::kNoWorker));
  EXPECT_TRUE(fs::is_empty(path("")));
}

TEST_F(WorkersTest, ASilentWorkerIsLeftOut) {
  auto mute = UnixListener::open(worker_path(0));  // accepts and never says a word
  ASSERT_TRUE(mute);
  workers_.emplace_back();
  start_worker();
  wait_for_worker(1);
  start_offloader({}, 5000);
  attach();
  EXPECT_EQ(link_->workers().size(), 1U);
  expect_served(0);
}

TEST_F(WorkersTest, GarbageOnEverySocketIsSurvived) {
  start_worker();
  start_worker();
  // Workers first: nobody serves them yet.
  std::mt19937 bytes(3);
  const auto throw_garbage = [&](const std::string& target) {
    for (int i = 0; i < 30; ++i) {
      Fd socket;
      for (int tries = 0; tries < 2000 && !(socket = connect_unix(target)).valid(); ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
      ASSERT_TRUE(socket.valid());
      Bytes garbage(1 + bytes() % 400);
      for (std::byte& b : garbage) b = std::byte(i % 3 == 0 ? 0 : bytes());
      if (i % 3 == 1) {  // a good header before it
        const auto header = encode_frame_header({static_cast<FrameType>(1 + i % 6), 64});
        std::copy_n(header.begin(), std::min(header.size(), garbage.size()), garbage.begin());
      }
      const int null_fd[1] = {0};
      if (i % 5 == 0) {
        (void)send_frame(socket.get(), static_cast<FrameType>(1 + i % 6), garbage, null_fd,
                         deadline_in_ms(1000));
      } else {
        (void)::send(socket.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      }
    }
  };
  for (std::size_t i = 0; i < 2; ++i) throw_garbage(worker_path(i));
  start_offloader();
  throw_garbage(path("ring"));
  attach();
  expect_served(0);
  expect_served(1);
}

TEST_F(WorkersTest, ProgramsEndWithTheirParentWhenAsked) {
  const std::string socket = worker_path(0);
  {
    // A shell starts the worker in the background and is killed.
    const Child shell({"/bin/sh", "-c",
                       program("tempo-worker") +
                           " --log-level off --exit-with-parent --listen unix:" + socket +
                           " & wait"});
    for (int tries = 0; tries < 4000 && !fs::exists(socket); ++tries) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ASSERT_TRUE(fs::exists(socket));
  }
  for (int tries = 0; tries < 4000 && fs::exists(socket); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_FALSE(fs::exists(socket));
}

TEST_F(WorkersTest, BadFlagsAreUsageErrors) {
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--listen", "tcp:9"},
        {"--listen", "unix:" + path("w"), "--memory", "12Q"},
        {"--listen", "unix:" + path("w"), "--device", "abacus"},
        {"--listen", "unix:" + path("w"), "--cheat-every", "2"},
        {}}) {
    std::vector<std::string> arguments = {program("tempo-worker")};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    EXPECT_EQ(Child(arguments).wait(), static_cast<int>(ErrorCode::kUsage));
  }
}

TEST_F(WorkersTest, TheLabWorkerCheatsAndRecordsWhereAskedAndTheProductHasNoneOfIt) {
  const std::string log = path("cheats");
  const std::string view = path("view");
  start_worker({"--cheat-every", "2", "--cheat-size", "0.5", "--cheat-column", "largest",
                "--cheat-log", log, "--record", view},
               "tempo-worker-lab");
  start_offloader();
  attach();
  ASSERT_EQ(put(0, 1, {2, 2, {1, 0, 0, 4}}), TaskStatus::kOk);
  for (int i = 0; i < 4; ++i) {
    Matrix out;
    ASSERT_EQ(multiply(product(0, 1, 1, kReturn, 2, 2), &out).status, TaskStatus::kOk);
    const std::vector<float> honest = {1, 0, 0, 16};
    EXPECT_EQ(out.values == honest, i % 2 == 0) << i;
  }
  std::ifstream cheats(log);
  EXPECT_EQ(std::count(std::istreambuf_iterator<char>(cheats), {}, '\n'), 2);
  EXPECT_EQ(fs::file_size(view + "/payloads.f32"), 16U);

  std::ifstream file(program("tempo-worker"), std::ios::binary);
  const std::string binary((std::istreambuf_iterator<char>(file)), {});
  ASSERT_GT(binary.size(), 1000U);
  for (const char* trace :
       {"cheat", "die-after", "stall-after", "record-limit", "throttled", "LabHooks"}) {
    EXPECT_EQ(binary.find(trace), std::string::npos) << trace;
  }
}

}  // namespace
}  // namespace tempo
