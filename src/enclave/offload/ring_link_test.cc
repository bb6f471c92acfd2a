#include "enclave/offload/ring_link.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "wire/doorbell.h"
#include "wire/shared_words.h"

namespace tempo {
namespace {

constexpr RingGeometry kGeometry{8, 16, 4096};

// The off-loader's end as an honest one would hold it.
struct HonestEnd {
  HonestEnd(std::byte* region_, Fd socket_)
      : region(region_),
        tasks(ring_submissions(region, kGeometry), kGeometry.entries),
        completions(ring_completions(region, kGeometry), kGeometry.entries),
        socket(std::move(socket_)) {}

  std::byte* region;
  RingConsumer<Task> tasks;
  RingProducer<Completion> completions;
  Fd socket;

  void complete(const Completion& completion) {
    ASSERT_GT(completions.room().value_or(0), 0U);
    completions.push(completion);
    if (completions.peer_waits()) ring_doorbell(socket.get());
  }
};

class RingLinkTest : public testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    memory_ = AlignedBuffer<std::byte>(ring_region_bytes(kGeometry));
    link_ = std::make_unique<RingLink>(memory_.span(), kGeometry, std::vector<WorkerInfo>(2),
                                       Fd(fds[0]));
    peer_ = std::make_unique<HonestEnd>(memory_.data(), Fd(fds[1]));
  }

  static Task product(std::uint32_t rows, std::uint32_t cols) {
    Task task;
    task.verb = Verb::kMultiply;
    task.flags = kReturn;
    task.rows = rows;
    task.cols = cols;
    return task;
  }
  static Task put(std::uint32_t rows, std::uint32_t cols) {
    Task task;
    task.verb = Verb::kPut;
    task.rows = rows;
    task.cols = cols;
    return task;
  }
  std::uint64_t submit_product(const Slot& reply) {
    auto request = link_->submit(product(2, 2), nullptr, &reply);
    return request->value();
  }
  void expect_broken() {
    EXPECT_EQ(link_->poll(0).error().code, ErrorCode::kProtocol);
    EXPECT_EQ(link_->poll(100).error().code, ErrorCode::kProtocol);
    const Slot slot = *link_->reserve(16);
    EXPECT_EQ(link_->submit(put(2, 2), &slot, nullptr).error().code, ErrorCode::kProtocol);
  }

  AlignedBuffer<std::byte> memory_;
  std::unique_ptr<RingLink> link_;
  std::unique_ptr<HonestEnd> peer_;
};

TEST_F(RingLinkTest, SlotsAreAlignedDisjointAndReusable) {
  std::vector<Slot> slots;
  while (auto slot = link_->reserve(5000)) {  // two slabs each
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slot->data) % 64, 0U);
    EXPECT_GE(slot->data, ring_slab(memory_.data(), kGeometry, 0));
    EXPECT_LE(slot->data + 8192, memory_.data() + memory_.size());
    for (const Slot& other : slots) EXPECT_GE(std::abs(slot->data - other.data), 8192);
    slots.push_back(*slot);
  }
  EXPECT_EQ(slots.size(), 7U);  // a slab of the 16 is for the watch
  for (const Slot& slot : slots) link_->release(slot);
  EXPECT_TRUE(link_->reserve(link_->max_slot_bytes()).has_value());
}

TEST_F(RingLinkTest, CarriesTasksAndReleasesPayloads) {
  const Slot payload = *link_->reserve(2 * 3 * 4);
  const float values[6] = {1, 2, 3, 4, 5, 6};
  copy_out(payload.data, values, sizeof(values));
  Task task = put(2, 3);
  task.worker = 1;
  task.result = 99;
  const auto request = link_->submit(task, &payload, nullptr)->value();
  Task seen;
  ASSERT_EQ(peer_->tasks.pop(seen), RingRead::kItem);
  EXPECT_EQ(seen.request, request);
  EXPECT_EQ(seen.worker, 1U);
  EXPECT_EQ(seen.result, 99U);
  EXPECT_EQ(std::memcmp(ring_slab(memory_.data(), kGeometry, seen.payload_slab), values, 24), 0);
  EXPECT_FALSE(link_->poll(0)->has_value());
  EXPECT_FALSE(link_->reserve(link_->max_slot_bytes()).has_value());
  peer_->complete({request, TaskStatus::kOutOfMemory, 5, 77, 123});
  const Completion done = link_->poll(0)->value();
  EXPECT_EQ(done.request, request);
  EXPECT_EQ(done.status, TaskStatus::kOutOfMemory);
  EXPECT_EQ(done.detail, 123U);
  EXPECT_EQ(done.bytes, 0U);
  EXPECT_TRUE(link_->reserve(link_->max_slot_bytes()).has_value());
}

TEST_F(RingLinkTest, BoundsWhatIsOutstanding) {
  const Slot reply = *link_->reserve(16);
  std::vector<std::uint64_t> requests;
  for (std::uint32_t i = 0; i < kGeometry.entries; ++i) requests.push_back(submit_product(reply));
  Task seen;
  while (peer_->tasks.pop(seen) == RingRead::kItem) continue;  // taken, but not completed
  EXPECT_FALSE(link_->submit(product(2, 2), nullptr, &reply)->has_value());
  peer_->complete({requests[3], TaskStatus::kOk, 0, 16, 0});
  EXPECT_EQ(link_->poll(0)->value().request, requests[3]);
  EXPECT_TRUE(link_->submit(product(2, 2), nullptr, &reply)->has_value());
}

class JoinTest : public RingLinkTest {
 protected:
  // What the off-loader was asked to do.
  Task seen() {
    Task task;
    EXPECT_EQ(peer_->tasks.pop(task), RingRead::kItem);
    return task;
  }
  Task watch() {
    EXPECT_TRUE(link_->joins().empty());
    const Task task = seen();
    EXPECT_EQ(task.verb, Verb::kWatch);
    return task;
  }
  void report(const Task& watch, std::uint64_t detail, const char* device = "new") {
    WorkerInfo info;
    info.memory_limit_bytes = 77;
    std::strncpy(info.device, device, sizeof(info.device));
    copy_out(ring_slab(memory_.data(), kGeometry, watch.reply_slab), &info, sizeof(info));
    peer_->complete({watch.request, TaskStatus::kOk, 0, sizeof(info), detail});
  }
};

TEST_F(JoinTest, AreReportedOnceAndChangeTheEpochOfTasks) {
  const Task first = watch();
  const Slot reply = *link_->reserve(16);
  submit_product(reply);
  EXPECT_EQ(seen().epoch, 0U);
  report(first, join_detail(0, 3), "evil\n");
  EXPECT_FALSE(link_->poll(0)->has_value());
  submit_product(reply);
  EXPECT_EQ(seen().epoch, 0U);  // the caller does not know yet
  const auto joins = link_->joins();
  ASSERT_EQ(joins.size(), 1U);
  EXPECT_EQ(joins[0].worker, 0U);
  EXPECT_EQ(joins[0].epoch, 3U);
  EXPECT_EQ(joins[0].info.memory_limit_bytes, 77U);
  EXPECT_STREQ(joins[0].info.device, "evil?");
  EXPECT_EQ(seen().verb, Verb::kWatch);  // it is told again
  EXPECT_TRUE(link_->joins().empty());
  submit_product(reply);
  EXPECT_EQ(seen().epoch, 3U);
  Task later = product(2, 2);
  later.worker = kMaxWorkers - 1;
  ASSERT_TRUE(link_->submit(later, nullptr, &reply)->has_value());
  EXPECT_EQ(seen().epoch, 0U);
}

TEST_F(JoinTest, HappenBeyondTheWorkersAtTheStart) {
  report(watch(), join_detail(kMaxWorkers - 1, 1));
  EXPECT_FALSE(link_->poll(0)->has_value());
  EXPECT_EQ(link_->joins().at(0).worker, kMaxWorkers - 1);
}

TEST_F(JoinTest, BreakTheLinkWhenTheyAreImpossible) {
  for (const std::uint64_t detail :
       {join_detail(kMaxWorkers, 1), join_detail(~0U, 1), join_detail(1, 0)}) {
    SetUp();
    report(watch(), detail);
    expect_broken();
    EXPECT_TRUE(link_->joins().empty());
  }
}

TEST_F(JoinTest, OfTheSameEpochOrAnOlderOneBreakTheLink) {
  for (const std::uint32_t epoch : {4U, 5U}) {
    SetUp();
    report(watch(), join_detail(1, 5));
    EXPECT_FALSE(link_->poll(0)->has_value());
    EXPECT_EQ(link_->joins().size(), 1U);
    report(seen(), join_detail(1, epoch));
    expect_broken();
  }
}

TEST_F(JoinTest, OfTheWrongLengthOrStatusBreakTheLink) {
  for (const Completion& bad : {Completion{0, TaskStatus::kOk, 0, 32, join_detail(1, 1)},
                                Completion{0, TaskStatus::kWorkerLost, 0, 0, join_detail(1, 1)}}) {
    SetUp();
    Completion completion = bad;
    completion.request = watch().request;
    peer_->complete(completion);
    expect_broken();
  }
}

TEST_F(JoinTest, AreNotAskedForWithoutACall) {
  const Slot reply = *link_->reserve(16);
  for (std::uint32_t i = 0; i < kGeometry.entries; ++i) {
    submit_product(reply);
    EXPECT_EQ(seen().verb, Verb::kMultiply);
  }
  // No room for a watch now, and no harm.
  EXPECT_TRUE(link_->joins().empty());
}

TEST_F(RingLinkTest, HonestEchoDeliversEverythingOnce) {
  constexpr int kTasks = 3000;
  std::thread echo([&] {
    for (int done = 0; done < kTasks;) {
      Task task;
      if (peer_->tasks.pop(task) != RingRead::kItem) {
        std::byte byte;
        if (peer_->tasks.begin_wait() == RingRead::kEmpty) {
          ASSERT_EQ(::recv(peer_->socket.get(), &byte, 1, 0), 1);
          peer_->tasks.end_wait();
        }
        continue;
      }
      if (task.reply_bytes() > 0) {
        std::byte* out = ring_slab(peer_->region, kGeometry, task.reply_slab);
        for (std::uint64_t i = 0; i < task.reply_bytes(); i += 8) store_word(out + i, task.request);
      }
      peer_->complete({task.request, TaskStatus::kOk, 0, task.reply_bytes(), 0});
      ++done;
    }
  });
  std::mt19937 random(5);
  std::map<std::uint64_t, std::optional<Slot>> open;
  int submitted = 0, received = 0;
  while (received < kTasks) {
    const std::uint32_t rows = 1 + random() % 60, cols = 2 * (1 + random() % 30);
    const std::uint64_t bytes = std::uint64_t{rows} * cols * 4;
    std::optional<Slot> slot;
    if (submitted < kTasks && (slot = link_->reserve(bytes))) {
      const bool is_put = random() % 2 == 0;
      auto request = link_->submit(is_put ? put(rows, cols) : product(rows, cols),
                                   is_put ? &*slot : nullptr, is_put ? nullptr : &*slot);
      ASSERT_TRUE(request);
      if (request->has_value()) {
        open[**request] = is_put ? std::nullopt : slot;
        ++submitted;
        continue;
      }
      link_->release(*slot);
    }
    auto completion = link_->poll(20000);
    ASSERT_TRUE(completion);
    ASSERT_TRUE(completion->has_value());
    const auto entry = open.find((*completion)->request);
    ASSERT_NE(entry, open.end());
    if (entry->second) {
      for (std::uint64_t i = 0; i < (*completion)->bytes; i += 8) {
        ASSERT_EQ(load_word(entry->second->data + i), entry->first);
      }
      link_->release(*entry->second);
    }
    open.erase(entry);
    ++received;
  }
  echo.join();
  EXPECT_TRUE(open.empty());
}

TEST_F(RingLinkTest, CompletionsThatMatchNothingBreakTheLink) {
  const Slot reply = *link_->reserve(16);
  const std::uint64_t request = submit_product(reply);
  peer_->complete({request + 1, TaskStatus::kOk, 0, 16, 0});
  expect_broken();
}

TEST_F(RingLinkTest, ReplayedCompletionsBreakTheLink) {
  const Slot reply = *link_->reserve(16);
  const std::uint64_t request = submit_product(reply);
  peer_->complete({request, TaskStatus::kOk, 0, 16, 0});
  EXPECT_TRUE(link_->poll(0)->has_value());
  peer_->complete({request, TaskStatus::kOk, 0, 16, 0});
  expect_broken();
}

TEST_F(RingLinkTest, WrongLengthsBreakTheLink) {
  const Slot reply = *link_->reserve(16);
  peer_->complete({submit_product(reply), TaskStatus::kOk, 0, 12, 0});
  expect_broken();
}

TEST_F(RingLinkTest, UnknownStatusesBreakTheLink) {
  const Slot reply = *link_->reserve(16);
  peer_->complete({submit_product(reply), static_cast<TaskStatus>(5), 0, 0, 0});
  expect_broken();
}

TEST_F(RingLinkTest, ImpossibleIndexesBreakTheLink) {
  store_index(ring_completions(memory_.data(), kGeometry).head, kGeometry.entries + 1);
  expect_broken();
}

TEST_F(RingLinkTest, ImpossibleConsumptionBreaksTheLink) {
  store_index(ring_submissions(memory_.data(), kGeometry).tail, 1);
  const Slot slot = *link_->reserve(16);
  EXPECT_EQ(link_->submit(put(2, 2), &slot, nullptr).error().code, ErrorCode::kProtocol);
  link_->release(slot);
  expect_broken();
}

TEST_F(RingLinkTest, AnOffloaderThatLeavesBreaksTheLinkAfterItsLastWord) {
  const Slot reply = *link_->reserve(16);
  const std::uint64_t request = submit_product(reply);
  peer_->complete({request, TaskStatus::kOk, 0, 16, 0});
  peer_->socket.reset();
  EXPECT_TRUE(link_->poll(20000)->has_value());
  EXPECT_FALSE(link_->poll(20000));
  expect_broken();
}

TEST_F(RingLinkTest, PollsWithoutWaitingNoticeThatTheOffloaderLeft) {
  peer_->socket.reset();
  int polls = 0;
  while (link_->poll(0).ok()) ASSERT_LT(++polls, 1000);
}

TEST_F(RingLinkTest, WaitsAreBounded) {
  EXPECT_FALSE(link_->poll(1)->has_value());
  // A flood of doorbells is no completion.
  for (int i = 0; i < 10000; ++i) ring_doorbell(peer_->socket.get());
  EXPECT_FALSE(link_->poll(20)->has_value());
}

// A thread that scribbles over indexes and descriptors while the link works. Whatever it does,
// each delivery must belong to a request that was outstanding, once, with the right length, and
// slots must stay inside the region.
TEST(RingLinkHostile, NoForgedDuplicateOrMisplacedDeliveries) {
  const std::uint64_t bytes = ring_region_bytes(kGeometry);
  int broken = 0, delivered = 0;
  for (int round = 0; round < 256; ++round) {
    AlignedBuffer<std::byte> memory(bytes);
    RingLink link(memory.span(), kGeometry, std::vector<WorkerInfo>(1), Fd());
    std::atomic<bool> started{false}, stop{false};
    std::thread hostile([&] {
      std::mt19937_64 random(round);
      const unsigned malice = round % 64;  // of 256 actions
      HonestEnd end(memory.data(), Fd());
      const RingPlace tasks = ring_submissions(memory.data(), kGeometry);
      const RingPlace completions = ring_completions(memory.data(), kGeometry);
      started.store(true);
      while (!stop.load(std::memory_order_relaxed)) {
        if (random() % 256 >= malice) {
          Task task;
          if (end.completions.room().value_or(0) == 0) continue;
          if (end.tasks.pop(task) != RingRead::kItem) {
            std::this_thread::yield();
            continue;
          }
          end.completions.push({task.request, TaskStatus::kOk, 0, 16, 0});
          continue;
        }
        switch (random() % 6) {
          case 0:
            store_index(completions.head, random() % 64);
            break;
          case 1:
            store_index(tasks.tail, random() % 64);
            break;
          case 2:
            store_index(tasks.waiting, random());
            break;
          case 3:
            store_word(completions.slots + random() % 32 * 8, random() % 64);
            break;
          case 4:
            store_word(tasks.slots + random() % 64 * 8, random());
            break;
          default: {  // plausible: an answer to a request that may be open
            if (end.completions.room().value_or(0) == 0) break;
            end.completions.push({1 + random() % 40, static_cast<TaskStatus>(random() % 6), 0,
                                  random() % 2 * 16, random()});
          }
        }
      }
    });
    while (!started.load()) std::this_thread::yield();
    std::set<std::uint64_t> open;
    std::map<std::uint64_t, Slot> replies;
    for (int i = 0; i < 200; ++i) {
      if (const auto slot = link.reserve(16)) {
        ASSERT_GE(slot->data, ring_slab(memory.data(), kGeometry, 0));
        ASSERT_LE(slot->data + 4096, memory.data() + bytes);
        Task task;
        task.verb = Verb::kMultiply;
        task.flags = kReturn;
        task.rows = task.cols = 2;
        auto request = link.submit(task, nullptr, &*slot);
        if (!request) break;
        if (request->has_value()) {
          ASSERT_TRUE(open.insert(**request).second);
          replies[**request] = *slot;
        } else {
          link.release(*slot);
        }
      }
      auto completion = link.poll(0);
      if (!completion) break;
      if (!completion->has_value()) {
        std::this_thread::yield();
        continue;
      }
      ASSERT_EQ(open.erase((*completion)->request), 1U);
      ASSERT_EQ((*completion)->bytes, (*completion)->status == TaskStatus::kOk ? 16U : 0U);
      ASSERT_LE(static_cast<std::uint32_t>((*completion)->status), 4U);
      link.release(replies[(*completion)->request]);
      ++delivered;
    }
    stop.store(true);
    hostile.join();
    broken += link.poll(0).ok() ? 0 : 1;
  }
  // Both happened, or nothing was tested.
  EXPECT_GT(broken, 0);
  EXPECT_GT(delivered, 0);
}

TEST(RingLinkAttach, SaysWhenNobodyIsThere) {
  EXPECT_EQ(RingLink::attach("/tmp/tempo-no-such-socket", kGeometry, 30).error().code,
            ErrorCode::kNoWorker);
  EXPECT_EQ(RingLink::attach("/tmp/x", {3, 1, 4096}, 30).error().code, ErrorCode::kUsage);
  EXPECT_EQ(RingLink::attach("", kGeometry, 30).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tempo
