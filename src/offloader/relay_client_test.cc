#include "offloader/relay_client.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace tempo {
namespace {

constexpr RelayLimits kLimits{4 * 4096, 2 * 4096, 3};

// Plays connection and worker by hand.
class RelayClientTest : public testing::Test {
 protected:
  static Task put(std::uint64_t request, std::uint32_t floats) {
    Task task;
    task.request = request;
    task.cols = floats;
    task.rows = 1;
    return task;
  }
  static Task product(std::uint64_t request, std::uint32_t floats) {
    Task task = put(request, floats);
    task.verb = Verb::kMultiply;
    task.flags = kReturn;
    return task;
  }
  // All that is to be written, in pieces of at most `piece` bytes.
  std::vector<std::byte> written(std::size_t piece = SIZE_MAX) {
    std::vector<std::byte> out;
    for (;;) {
      const RelayWrites writes = client_.want_write();
      if (writes.count == 0) return out;
      const auto first = writes.spans[0].first(std::min(piece, writes.spans[0].size()));
      out.insert(out.end(), first.begin(), first.end());
      client_.did_write(first.size());
    }
  }
  Status arrive(std::span<const std::byte> bytes, std::size_t piece = SIZE_MAX) {
    while (!bytes.empty()) {
      const auto place = client_.want_read();
      const std::size_t n = std::min({place.size(), bytes.size(), piece});
      std::memcpy(place.data(), bytes.data(), n);
      bytes = bytes.subspan(n);
      if (Status status = client_.did_read(n); !status.ok()) return status;
    }
    return {};
  }
  Status answer(const Completion& completion) { return arrive(encode_relay_done(completion)); }

  RelayClient client_{kLimits};
  std::vector<std::byte> payload_ = std::vector<std::byte>(16384, std::byte{7});
  std::vector<std::byte> reply_ = std::vector<std::byte>(16384);
};

TEST_F(RelayClientTest, WritesTasksWithTheirPayloadsAndReadsRepliesIntoTheirPlaces) {
  ASSERT_TRUE(client_.submit(put(1, 5), payload_.data(), nullptr));
  ASSERT_TRUE(client_.submit(product(2, 3), nullptr, reply_.data()));
  const auto bytes = written(7);
  ASSERT_EQ(bytes.size(), 2 * kRelayTaskBytes + 20);
  EXPECT_EQ(std::memcmp(bytes.data() + kRelayTaskBytes, payload_.data(), 20), 0);
  ASSERT_TRUE(answer({1, TaskStatus::kOk, 0, 0, 0}).ok());
  ASSERT_TRUE(answer({2, TaskStatus::kOk, 0, 12, 0}).ok());
  EXPECT_EQ(client_.take()->request, 1U);
  EXPECT_FALSE(client_.has_completion());  // its reply is not here yet
  EXPECT_EQ(client_.want_read().data(), reply_.data());
  EXPECT_EQ(client_.want_read().size(), 12U);
  ASSERT_TRUE(arrive(std::vector(12, std::byte{9}), 5).ok());
  EXPECT_EQ(client_.take()->request, 2U);
  EXPECT_EQ(reply_[11], std::byte{9});
  EXPECT_EQ(reply_[12], std::byte{0});
}

TEST_F(RelayClientTest, KeepsWithinTheCreditThatItWasGiven) {
  ASSERT_TRUE(client_.submit(put(1, 2048), payload_.data(), nullptr));
  ASSERT_TRUE(client_.submit(product(2, 1025), nullptr, reply_.data()));
  EXPECT_FALSE(client_.submit(put(3, 1), payload_.data(), nullptr));  // the window is full
  Task drop = put(3, 0);
  drop.verb = Verb::kDrop;
  ASSERT_TRUE(client_.submit(drop, nullptr, nullptr));   // which costs nothing
  EXPECT_FALSE(client_.submit(drop, nullptr, nullptr));  // but three tasks are open
  written();
  ASSERT_TRUE(answer({1, TaskStatus::kOk, 0, 0, 0}).ok());
  EXPECT_TRUE(client_.submit(put(4, 2048), payload_.data(), nullptr));
}

TEST_F(RelayClientTest, TasksThatCanNeverFitAreRefusedInTheirTurn) {
  ASSERT_TRUE(client_.submit(put(1, 1), payload_.data(), nullptr));
  ASSERT_TRUE(client_.submit(put(2, 2049), payload_.data(), nullptr));
  EXPECT_EQ(written().size(), kRelayTaskBytes + 4);
  EXPECT_FALSE(client_.has_completion());
  ASSERT_TRUE(answer({1, TaskStatus::kOk, 0, 0, 0}).ok());
  EXPECT_EQ(client_.take()->request, 1U);
  const auto refused = client_.take();
  EXPECT_EQ(refused->request, 2U);
  EXPECT_EQ(refused->status, TaskStatus::kOutOfMemory);
  EXPECT_EQ(refused->detail, 4U);
}

TEST_F(RelayClientTest, AnswersToWhatIsStillBeingWrittenAreRefused) {
  ASSERT_TRUE(client_.submit(put(1, 100), payload_.data(), nullptr));
  client_.did_write(kRelayTaskBytes + 399);
  EXPECT_FALSE(answer({1, TaskStatus::kOk, 0, 0, 0}).ok());
}

TEST_F(RelayClientTest, WrongAnswersAreRefusedBeforeAByteOfThemIsStored) {
  const Completion wrong[] = {{2, TaskStatus::kOk, 0, 12, 0},         // out of order
                              {7, TaskStatus::kOk, 0, 12, 0},         // to nothing
                              {1, TaskStatus::kOk, 0, 16, 0},         // too long
                              {1, TaskStatus::kOk, 0, ~0ULL, 0},      // absurd
                              {1, TaskStatus::kOk, 0, 0, 0},          // too short
                              {1, TaskStatus::kWorkerLost, 0, 0, 0},  // not for a worker to say
                              {1, static_cast<TaskStatus>(9), 0, 0, 0}};
  for (const Completion& completion : wrong) {
    RelayClient fresh(kLimits);
    ASSERT_TRUE(fresh.submit(product(1, 3), nullptr, reply_.data()));
    ASSERT_TRUE(fresh.submit(product(2, 3), nullptr, reply_.data()));
    fresh.did_write(2 * kRelayTaskBytes);
    const auto frame = encode_relay_done(completion);
    ASSERT_EQ(fresh.want_read().size(), frame.size());
    std::memcpy(fresh.want_read().data(), frame.data(), frame.size());
    EXPECT_EQ(fresh.did_read(frame.size()).error().code, ErrorCode::kProtocol);
  }
}

TEST_F(RelayClientTest, ErrorsHaveNoReply) {
  ASSERT_TRUE(client_.submit(product(1, 3), nullptr, reply_.data()));
  written();
  ASSERT_TRUE(answer({1, TaskStatus::kUnknownId, 0, 999, 5}).ok());
  const auto done = client_.take();
  EXPECT_EQ(done->bytes, 0U);
  EXPECT_EQ(done->detail, 5U);
  EXPECT_EQ(client_.want_read().size(), kRelayDoneBytes);
}

TEST_F(RelayClientTest, SaysThatItIsAliveOnlyWhenThereIsNothingElseToSay) {
  client_.say_alive();
  client_.say_alive();
  EXPECT_EQ(written().size(), kRelayTaskBytes);
  ASSERT_TRUE(client_.submit(put(1, 1), payload_.data(), nullptr));
  client_.say_alive();
  EXPECT_EQ(written().size(), kRelayTaskBytes + 4);
  // A sign of life is no task that could be answered.
  client_.say_alive();
  written();
  ASSERT_TRUE(answer({1, TaskStatus::kOk, 0, 0, 0}).ok());
  EXPECT_FALSE(answer({2, TaskStatus::kOk, 0, 0, 0}).ok());
}

}  // namespace
}  // namespace tempo
