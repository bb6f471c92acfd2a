#include "worker/relay_server.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace tempo {
namespace {

constexpr RelayLimits kLimits{4 * 4096, 4 * 4096, 4};

// Plays connection, off-loader and executor by hand.
class RelayServerTest : public testing::Test {
 protected:
  static Task put(std::uint64_t request, std::uint32_t floats) {
    Task task;
    task.request = request;
    task.rows = 1;
    task.cols = floats;
    return task;
  }
  static Task product(std::uint64_t request, std::uint32_t floats) {
    Task task = put(request, floats);
    task.verb = Verb::kMultiply;
    task.flags = kReturn;
    return task;
  }
  // False: it does not take more now.
  Result<bool> arrive(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto place = server_.want_read();
      if (place.empty()) return false;
      const std::size_t n = std::min(place.size(), bytes.size());
      std::memcpy(place.data(), bytes.data(), n);
      bytes = bytes.subspan(n);
      if (Status status = server_.did_read(n); !status.ok()) return status.error();
    }
    return true;
  }
  Result<bool> ask(const Task& task) {
    auto head = arrive(encode_relay_task(task));
    if (!head || !*head || task.payload_bytes() == 0) return head;
    return arrive(std::vector(task.payload_bytes(), std::byte{5}));
  }
  std::size_t write_all() {
    std::size_t bytes = 0;
    for (;;) {
      const RelayWrites writes = server_.want_write();
      if (writes.count == 0) return bytes;
      bytes += writes.spans[0].size();
      server_.did_write(writes.spans[0].size());
    }
  }
  void expect_violation(const Task& task) {
    const auto asked = ask(task);
    ASSERT_FALSE(asked);
    EXPECT_EQ(asked.error().code, ErrorCode::kProtocol);
  }

  RelayMemory memory_ = RelayMemory::reserve(kLimits.window_bytes).value();
  RelayServer server_{kLimits, memory_.bytes()};
};

TEST_F(RelayServerTest, HandsTasksOutOnceTheyAreCompleteAndBringsAnswersBack) {
  ASSERT_TRUE(arrive(encode_relay_task(put(1, 3))));
  ASSERT_TRUE(arrive(std::vector(11, std::byte{5})));
  EXPECT_FALSE(server_.has_job());
  ASSERT_TRUE(arrive(std::vector(1, std::byte{5})));
  const auto job = server_.take();
  ASSERT_TRUE(job);
  EXPECT_EQ(job->payload[11], std::byte{5});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(job->payload) % 4096, 0U);
  server_.finish(*job, {1, TaskStatus::kOk, 0, 0, 0});
  EXPECT_EQ(write_all(), kRelayDoneBytes);

  ASSERT_TRUE(ask(product(2, 3)));
  const auto next = server_.take();
  std::memset(next->reply, 6, 12);
  server_.finish(*next, {2, TaskStatus::kOk, 0, 12, 0});
  const RelayWrites writes = server_.want_write();
  ASSERT_EQ(writes.count, 2U);
  EXPECT_EQ(writes.spans[1].size(), 12U);
  EXPECT_EQ(writes.spans[1][11], std::byte{6});
}

TEST_F(RelayServerTest, ErrorsSendNoReply) {
  ASSERT_TRUE(ask(product(1, 3)));
  server_.finish(*server_.take(), {1, TaskStatus::kUnknownId, 0, 0, 4});
  EXPECT_EQ(write_all(), kRelayDoneBytes);
}

TEST_F(RelayServerTest, MalformedTasksAreViolations) {
  Task unknown = put(1, 1);
  unknown.verb = static_cast<Verb>(9);
  expect_violation(unknown);
}

TEST_F(RelayServerTest, AWatchIsNotForAWorker) {
  Task watch = put(1, 16);
  watch.verb = Verb::kWatch;
  expect_violation(watch);
}

TEST_F(RelayServerTest, HugeTasksAreViolationsBeforeAnyMemoryIsTaken) {
  Task huge = put(1, ~0U);
  huge.rows = ~0U;
  expect_violation(huge);
}

TEST_F(RelayServerTest, MoreThanTheWindowIsAViolation) {
  ASSERT_TRUE(ask(product(1, 3 * 1024)));
  ASSERT_TRUE(ask(product(2, 1024)));
  expect_violation(product(3, 1));
}

TEST_F(RelayServerTest, MoreTasksThanAgreedAreAViolation) {
  Task drop = put(1, 0);
  drop.verb = Verb::kDrop;
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(ask(drop));
  expect_violation(drop);
}

TEST_F(RelayServerTest, WaitsForMemoryThatAnswersStillTakeUp) {
  ASSERT_TRUE(ask(product(1, 3 * 1024)));
  server_.finish(*server_.take(), {1, TaskStatus::kOk, 0, 3 * 4096, 0});
  // The off-loader may have read the answer already, and is within its credit.
  ASSERT_TRUE(arrive(encode_relay_task(put(2, 2 * 1024))));
  EXPECT_TRUE(server_.want_read().empty());
  EXPECT_EQ(write_all(), kRelayDoneBytes + 3 * 4096);
  EXPECT_EQ(server_.want_read().size(), 2U * 4096);
}

TEST_F(RelayServerTest, APeerThatReadsNoAnswersIsNotReadFromForEver) {
  Task drop = put(1, 0);
  drop.verb = Verb::kDrop;
  int taken = 0;
  for (; taken < 100 && *ask(drop); ++taken) {
    if (auto job = server_.take()) server_.finish(*job, {1, TaskStatus::kOk, 0, 0, 0});
  }
  EXPECT_LE(taken, 5);
  write_all();
  EXPECT_TRUE(server_.has_job());
  EXPECT_FALSE(server_.want_read().empty());
}

TEST_F(RelayServerTest, SignsOfLifeAreNoTasks) {
  ASSERT_TRUE(arrive(relay_alive_to_worker()));
  EXPECT_FALSE(server_.has_job());
  server_.say_alive();
  EXPECT_EQ(write_all(), kRelayDoneBytes);
}

}  // namespace
}  // namespace tempo
