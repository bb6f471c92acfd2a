#include "offloader/local_channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <memory>
#include <utility>

#include "base/buffer.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

constexpr RingGeometry kGeometry{4, 8, 4096};

// Plays the worker's end by hand.
class LocalChannelTest : public testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    worker_ = Fd(fds[1]);
    auto channel = LocalChannel::open(Fd(fds[0]), kGeometry);
    ASSERT_TRUE(channel);
    channel_ = std::move(*channel);
    auto frame = expect_frame(worker_.get(), FrameType::kArenas, 2, deadline_in_ms(20000));
    ASSERT_TRUE(frame);
    auto request =
        SharedRegion::map(frame->fds[0], request_arena_bytes(kGeometry), MapAccess::kReadOnly);
    auto reply =
        SharedRegion::map(frame->fds[1], reply_arena_bytes(kGeometry), MapAccess::kReadWrite);
    ASSERT_TRUE(request && reply);
    // The worker must not be able to write where other processes read its requests.
    EXPECT_FALSE(
        SharedRegion::map(frame->fds[0], request_arena_bytes(kGeometry), MapAccess::kReadWrite));
    request_ = std::move(*request);
    reply_ = std::move(*reply);
    tasks_.emplace(arena_submissions(request_.data(), reply_.data()), kGeometry.entries);
    completions_.emplace(arena_completions(request_.data(), reply_.data()), kGeometry.entries);
  }

  static Task put(std::uint64_t request, std::uint32_t elements) {
    Task task;
    task.request = request;
    task.verb = Verb::kPut;
    task.rows = 1;
    task.cols = elements;
    return task;
  }
  static Task product(std::uint64_t request, std::uint32_t elements) {
    Task task = put(request, elements);
    task.verb = Verb::kMultiply;
    task.flags = kReturn;
    return task;
  }
  void answer(const Completion& completion) {
    ASSERT_GT(completions_->room().value_or(0), 0U);
    completions_->push(completion);
  }
  // Nothing was written to where replies go.
  void expect_no_reply() const {
    for (const std::byte b : landing_.span()) ASSERT_EQ(b, std::byte{0});
  }
  Result<std::optional<Completion>> receive() { return channel_->receive(); }

  Fd worker_;
  std::unique_ptr<LocalChannel> channel_;
  SharedRegion request_, reply_;
  std::optional<RingConsumer<Task>> tasks_;
  std::optional<RingProducer<Completion>> completions_;
  AlignedBuffer<std::byte> landing_{8 * 4096};
};

TEST_F(LocalChannelTest, CarriesPayloadsThereAndRepliesBack) {
  const float values[3] = {1.5F, -2, 3};
  EXPECT_TRUE(*channel_->send(put(7, 3), reinterpret_cast<const std::byte*>(values), nullptr));
  EXPECT_TRUE(*channel_->send(product(8, 3), nullptr, landing_.data()));
  Task seen;
  ASSERT_EQ(tasks_->pop(seen), RingRead::kItem);
  const std::byte* payload = request_slab(request_.data(), kGeometry, seen.payload_slab);
  EXPECT_EQ(std::memcmp(payload, values, sizeof(values)), 0);
  answer({7, TaskStatus::kOk, 0, 0, 0});
  ASSERT_EQ(tasks_->pop(seen), RingRead::kItem);
  std::memcpy(reply_slab(reply_.data(), kGeometry, seen.reply_slab), values, sizeof(values));
  answer({8, TaskStatus::kOk, 0, sizeof(values), 0});
  EXPECT_EQ(receive()->value().request, 7U);
  EXPECT_EQ(receive()->value().request, 8U);
  EXPECT_EQ(std::memcmp(landing_.data(), values, sizeof(values)), 0);
  EXPECT_FALSE(receive()->has_value());
}

TEST_F(LocalChannelTest, HasNoRoomUntilCompletionsMakeSome) {
  const AlignedBuffer<std::byte> big(5 * 4096);
  EXPECT_TRUE(*channel_->send(put(1, 5 * 1024), big.data(), nullptr));
  EXPECT_FALSE(
      *channel_->send(put(2, 5 * 1024), big.data(), nullptr));  // five of eight slabs are taken
  EXPECT_TRUE(*channel_->send(put(3, 1), big.data(), nullptr));
  answer({1, TaskStatus::kOk, 0, 0, 0});
  EXPECT_TRUE(receive()->has_value());
  EXPECT_TRUE(*channel_->send(put(2, 5 * 1024), big.data(), nullptr));
  EXPECT_TRUE(*channel_->send(put(4, 1), big.data(), nullptr));
  EXPECT_FALSE(
      *channel_->send(put(5, 1), big.data(), nullptr));  // four descriptors nobody has taken
  Task seen;
  while (tasks_->pop(seen) == RingRead::kItem) continue;
  EXPECT_TRUE(*channel_->send(put(5, 1), big.data(), nullptr));
  ASSERT_EQ(tasks_->pop(seen), RingRead::kItem);
  EXPECT_FALSE(*channel_->send(put(6, 1), big.data(), nullptr));  // four that nobody has answered
}

TEST_F(LocalChannelTest, AnswersOutOfOrderLoseTheWorker) {
  ASSERT_TRUE(*channel_->send(product(1, 4), nullptr, landing_.data()));
  ASSERT_TRUE(*channel_->send(product(2, 4), nullptr, landing_.data()));
  answer({2, TaskStatus::kOk, 0, 16, 0});
  EXPECT_EQ(receive().error().code, ErrorCode::kProtocol);
  expect_no_reply();
}

TEST_F(LocalChannelTest, AnswersToNothingLoseTheWorker) {
  answer({0, TaskStatus::kOk, 0, 0, 0});
  EXPECT_EQ(receive().error().code, ErrorCode::kProtocol);
}

TEST_F(LocalChannelTest, WrongLengthsLoseTheWorker) {
  ASSERT_TRUE(*channel_->send(product(1, 4), nullptr, landing_.data()));
  answer({1, TaskStatus::kOk, 0, 1 << 30, 0});
  EXPECT_EQ(receive().error().code, ErrorCode::kProtocol);
  expect_no_reply();
}

TEST_F(LocalChannelTest, UnknownStatusesLoseTheWorker) {
  ASSERT_TRUE(*channel_->send(product(1, 4), nullptr, landing_.data()));
  answer({1, TaskStatus::kWorkerLost, 0, 16, 0});  // not for a worker to say
  EXPECT_EQ(receive().error().code, ErrorCode::kProtocol);
}

TEST_F(LocalChannelTest, ImpossibleIndexesLoseTheWorker) {
  store_index(arena_submissions(request_.data(), reply_.data()).tail, 99);
  EXPECT_EQ(channel_->send(product(1, 4), nullptr, landing_.data()).error().code,
            ErrorCode::kProtocol);
  store_index(arena_completions(request_.data(), reply_.data()).head, 99);
  EXPECT_EQ(receive().error().code, ErrorCode::kProtocol);
}

TEST_F(LocalChannelTest, ErrorsPassWithoutABody) {
  ASSERT_TRUE(*channel_->send(product(1, 4), nullptr, landing_.data()));
  answer({1, TaskStatus::kUnknownId, 0, 999, 5});
  const Completion done = receive()->value();
  EXPECT_EQ(done.status, TaskStatus::kUnknownId);
  EXPECT_EQ(done.bytes, 0U);
  EXPECT_EQ(done.detail, 5U);
  expect_no_reply();
}

TEST_F(LocalChannelTest, NoticesThatTheWorkerLeft) {
  EXPECT_TRUE(channel_->begin_wait());
  EXPECT_TRUE(channel_->end_wait().ok());
  worker_.reset();
  EXPECT_FALSE(channel_->end_wait().ok());
}

}  // namespace
}  // namespace tempo
