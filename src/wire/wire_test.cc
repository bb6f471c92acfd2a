#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "wire/descriptor_ring.h"
#include "wire/doorbell.h"
#include "wire/frame.h"
#include "wire/ring_layout.h"
#include "wire/shared_region.h"
#include "wire/slab_allocator.h"
#include "wire/task_check.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

TEST(SharedWords, CopiesEveryLengthAndPadsWithZeros) {
  for (std::size_t bytes = 0; bytes <= 33; ++bytes) {
    std::vector<std::byte> source(bytes);
    for (std::size_t i = 0; i < bytes; ++i) source[i] = std::byte(i + 1);
    AlignedBuffer<std::byte> shared(64);
    std::memset(shared.data(), 0xFF, 64);
    copy_out(shared.data(), source.data(), bytes);
    std::vector<std::byte> back(bytes, std::byte{0});
    copy_in(back.data(), shared.data(), bytes);
    EXPECT_EQ(back, source);
    const std::size_t padded = (bytes + 7) / 8 * 8;
    for (std::size_t i = bytes; i < padded; ++i) EXPECT_EQ(shared[i], std::byte{0});
    for (std::size_t i = padded; i < 64; ++i) EXPECT_EQ(shared[i], std::byte{0xFF});
  }
}

struct RingMemory {
  AlignedBuffer<std::byte> memory{4096};
  RingPlace place{memory.data(), memory.data() + 64, memory.data() + 128, memory.data() + 192};
};

TEST(DescriptorRing, KeepsOrderAcrossManyTurns) {
  RingMemory m;
  RingProducer<Completion> producer(m.place, 8);
  RingConsumer<Completion> consumer(m.place, 8);
  std::mt19937 random(1);
  std::uint64_t sent = 0, received = 0;
  while (received < 1000) {
    for (auto n = random() % 9; n > 0 && *producer.room() > 0; --n) {
      producer.push({sent++, TaskStatus::kOk, 0, 0, 7});
    }
    ASSERT_LE(sent - received, 8U);
    Completion completion;
    for (auto n = random() % 9; n > 0 && consumer.pop(completion) == RingRead::kItem; --n) {
      ASSERT_EQ(completion.request, received++);
      ASSERT_EQ(completion.detail, 7U);
    }
  }
}

TEST(DescriptorRing, BreaksForGoodOnImpossibleIndexes) {
  for (const std::uint64_t bad : {std::uint64_t{9}, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    RingMemory m;
    RingConsumer<Completion> consumer(m.place, 8);
    Completion completion;
    EXPECT_EQ(consumer.pop(completion), RingRead::kEmpty);
    store_index(m.place.head, bad);
    EXPECT_EQ(consumer.pop(completion), RingRead::kBroken);
    store_index(m.place.head, 1);  // too late
    EXPECT_EQ(consumer.pop(completion), RingRead::kBroken);
    EXPECT_EQ(consumer.begin_wait(), RingRead::kBroken);
  }
  RingMemory m;
  RingProducer<Completion> producer(m.place, 8);
  ASSERT_EQ(producer.room(), 8U);
  producer.push({});
  store_index(m.place.tail, 2);  // consumed more than was produced
  EXPECT_FALSE(producer.room().has_value());
  store_index(m.place.tail, 1);
  EXPECT_FALSE(producer.room().has_value());
}

TEST(DescriptorRing, WaitingFlagLosesNoWakeUp) {
  RingMemory m;
  int sockets[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  const Fd here(sockets[0]), there(sockets[1]);
  constexpr std::uint64_t kCount = 20000;
  std::thread producing([&] {
    RingProducer<Completion> producer(m.place, 4);
    for (std::uint64_t i = 0; i < kCount;) {
      if (*producer.room() == 0) {
        std::this_thread::yield();
        continue;
      }
      producer.push({i++, TaskStatus::kOk, 0, 0, 0});
      if (producer.peer_waits()) ring_doorbell(there.get());
    }
  });
  RingConsumer<Completion> consumer(m.place, 4);
  for (std::uint64_t i = 0; i < kCount;) {
    Completion completion;
    if (consumer.pop(completion) == RingRead::kItem) {
      ASSERT_EQ(completion.request, i++);
    } else if (consumer.begin_wait() == RingRead::kEmpty) {
      // No time limit: a lost wake-up would hang here.
      std::byte byte;
      ASSERT_EQ(::recv(here.get(), &byte, 1, 0), 1);
      consumer.end_wait();
    }
  }
  producing.join();
}

TEST(Doorbell, NeverBlocksAndSeesTheEnd) {
  int sockets[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  const Fd here(sockets[0]);
  Fd there(sockets[1]);
  EXPECT_TRUE(answer_doorbell(here.get()));                    // silent
  for (int i = 0; i < 100000; ++i) ring_doorbell(here.get());  // fills the buffer and goes on
  there.reset();
  EXPECT_FALSE(answer_doorbell(here.get()));
  ring_doorbell(here.get());  // no SIGPIPE
}

TEST(RingLayout, RefusesGeometriesOutsideTheLimits) {
  EXPECT_TRUE(check_geometry({256, 4096, 65536}).ok());
  EXPECT_TRUE(check_geometry({1, 1, 4096}).ok());
  for (const RingGeometry g :
       {RingGeometry{0, 1, 4096}, RingGeometry{3, 1, 4096},
        RingGeometry{kMaxRingEntries * 2, 1, 4096}, RingGeometry{1, 0, 4096},
        RingGeometry{1, kMaxSlabs + 1, 4096}, RingGeometry{1, 1, 0}, RingGeometry{1, 1, 4097},
        RingGeometry{1, 1, kMaxSlabBytes * 2}, RingGeometry{1, kMaxSlabs, kMaxSlabBytes}}) {
    EXPECT_EQ(check_geometry(g).error().code, ErrorCode::kProtocol);
  }
}

TEST(RingLayout, PartsDoNotOverlapAndFillTheRegion) {
  for (const RingGeometry g :
       {RingGeometry{1, 1, 4096}, RingGeometry{256, 3, 65536}, RingGeometry{64, 7, 8192}}) {
    std::byte* const base = nullptr;
    const auto at = [&](std::byte* p) { return static_cast<std::uint64_t>(p - base); };
    const RingPlace s = ring_submissions(base, g), c = ring_completions(base, g);
    // Parts in order, each with its size.
    const std::vector<std::pair<std::uint64_t, std::uint64_t>> parts = {
        {at(s.head), 8},
        {at(s.tail), 8},
        {at(s.waiting), 8},
        {at(c.head), 8},
        {at(c.tail), 8},
        {at(c.waiting), 8},
        {at(s.slots), g.entries * 64ULL},
        {at(c.slots), g.entries * 32ULL},
        {at(ring_slab(base, g, 0)), g.payload_bytes()}};
    for (std::size_t i = 0; i < parts.size(); ++i) {
      EXPECT_EQ(parts[i].first % 32, 0U);
      const std::uint64_t next = i + 1 < parts.size() ? parts[i + 1].first : ring_region_bytes(g);
      EXPECT_LE(parts[i].first + parts[i].second, next);
    }
    EXPECT_EQ(at(ring_slab(base, g, 0)) % 4096, 0U);
    EXPECT_EQ(at(ring_slab(base, g, g.slabs - 1)) + g.slab_bytes, ring_region_bytes(g));
    EXPECT_EQ(at(request_slab(base, g, g.slabs - 1)) + g.slab_bytes, request_arena_bytes(g));
    EXPECT_EQ(at(reply_slab(base, g, g.slabs - 1)) + g.slab_bytes, reply_arena_bytes(g));
    EXPECT_GE(at(request_slab(base, g, 0)), 4096 + g.entries * 64ULL);
    EXPECT_GE(at(reply_slab(base, g, 0)), 4096 + g.entries * 32ULL);
  }
}

TEST(RingLayout, SlabRunsAreBounded) {
  const RingGeometry g{4, 10, 4096};
  EXPECT_TRUE(slab_run_ok(g, 0, 40960));
  EXPECT_FALSE(slab_run_ok(g, 0, 40961));
  EXPECT_TRUE(slab_run_ok(g, 9, 4096));
  EXPECT_FALSE(slab_run_ok(g, 9, 4097));
  EXPECT_FALSE(slab_run_ok(g, 10, 1));
  EXPECT_FALSE(slab_run_ok(g, 0xFFFFFFFF, 1));
  EXPECT_FALSE(slab_run_ok(g, 1, ~std::uint64_t{0}));
}

TEST(SlabAllocator, RunsNeverOverlapAndMergeAgain) {
  constexpr std::uint32_t kSlabs = 64;
  SlabAllocator allocator(kSlabs);
  std::vector<bool> taken(kSlabs, false);
  std::map<std::uint32_t, std::uint32_t> runs;
  std::mt19937 random(7);
  for (int round = 0; round < 5000; ++round) {
    if (random() % 2 == 0 || runs.empty()) {
      const std::uint32_t count = 1 + random() % 12;
      const auto first = allocator.allocate(count);
      // Oracle: the lowest gap that is long enough.
      std::optional<std::uint32_t> expected;
      for (std::uint32_t at = 0; at + count <= kSlabs && !expected; ++at) {
        bool is_free = true;
        for (std::uint32_t i = at; i < at + count; ++i) is_free = is_free && !taken[i];
        if (is_free) expected = at;
      }
      ASSERT_EQ(first, expected);
      if (!first) continue;
      for (std::uint32_t i = *first; i < *first + count; ++i) taken[i] = true;
      runs[*first] = count;
    } else {
      auto run = std::next(runs.begin(), static_cast<std::ptrdiff_t>(random() % runs.size()));
      for (std::uint32_t i = run->first; i < run->first + run->second; ++i) taken[i] = false;
      allocator.release(run->first);
      runs.erase(run);
    }
  }
  for (const auto& [first, count] : runs) allocator.release(first);
  EXPECT_EQ(allocator.free_slabs(), kSlabs);
  EXPECT_EQ(allocator.allocate(kSlabs), 0U);
}

TEST(SlabAllocatorDeathTest, ReleasingTwiceIsABug) {
  SlabAllocator allocator(4);
  const auto first = allocator.allocate(2);
  allocator.release(*first);
  EXPECT_DEATH(allocator.release(*first), "does not hold");
}

TEST(TaskCheck, KnowsWhatMakesSense) {
  Task task;
  task.verb = Verb::kPut;
  task.rows = 4;
  task.cols = 8;
  EXPECT_TRUE(task_ok(task, 128));
  EXPECT_FALSE(task_ok(task, 127));
  task.flags = kReturn;
  EXPECT_FALSE(task_ok(task, 128));
  task.verb = Verb::kMultiply;
  EXPECT_TRUE(task_ok(task, 128));
  task.flags = kTransposeA;  // goes nowhere
  EXPECT_FALSE(task_ok(task, 128));
  task.flags = kReturn | 32;
  EXPECT_FALSE(task_ok(task, 128));
  task.flags = kReturn;
  task.rows = 0;
  EXPECT_FALSE(task_ok(task, 128));
  task.rows = task.cols = 0xFFFFFFFF;  // four times this overflows 64 bits
  EXPECT_FALSE(task_ok(task, kMaxPayloadBytes));
  task.verb = Verb::kDrop;
  task.flags = 0;
  EXPECT_TRUE(task_ok(task, 128));
  task.verb = static_cast<Verb>(4);
  EXPECT_FALSE(task_ok(task, 128));
}

TEST(Frame, HeadersRoundTripAndRefuseTheRest) {
  auto bytes = encode_frame_header({FrameType::kArenas, 16});
  auto header = decode_frame_header(bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->type, FrameType::kArenas);
  EXPECT_EQ(header->body_bytes, 16U);
  for (std::size_t at : {0U, 4U, 8U, 15U}) {  // magic, version, type, length
    auto broken = bytes;
    broken[at] ^= std::byte{0x40};
    EXPECT_EQ(decode_frame_header(broken).error().code, ErrorCode::kProtocol) << at;
  }
  EXPECT_FALSE(decode_frame_header(std::span(bytes).first(15)));
}

TEST(Frame, BodiesRoundTripAndRefuseTheRest) {
  const RingGeometry geometry{64, 5, 8192};
  auto decoded = decode_geometry(encode_geometry(geometry));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->entries, 64U);
  EXPECT_EQ(decoded->slabs, 5U);
  EXPECT_EQ(decoded->slab_bytes, 8192U);
  EXPECT_FALSE(decode_geometry(encode_geometry({3, 5, 8192})));
  EXPECT_FALSE(decode_geometry({}));

  WorkerInfo worker;
  worker.memory_limit_bytes = 42;
  std::memset(worker.device, 'x', sizeof(worker.device));  // not terminated
  worker.device[3] = '\033';
  const std::vector<WorkerInfo> workers(kMaxWorkers, worker);
  const Bytes body = encode_workers(workers);
  EXPECT_LE(body.size(), kMaxFrameBody);
  auto back = decode_workers(body);
  ASSERT_TRUE(back);
  ASSERT_EQ(back->size(), kMaxWorkers);
  EXPECT_EQ((*back)[63].memory_limit_bytes, 42U);
  EXPECT_EQ(std::string((*back)[63].device), "xxx?" + std::string(51, 'x'));
  EXPECT_FALSE(decode_workers(std::span(body).first(body.size() - 1)));
  EXPECT_FALSE(decode_workers(encode_workers({})));
  Bytes absurd = body;
  std::memset(absurd.data(), 0xFF, 8);
  EXPECT_FALSE(decode_workers(absurd));

  const Error error{ErrorCode::kOutOfMemory, "too\nmuch", "", "", "", ""};
  const Error refusal = decode_refusal(encode_refusal(error));
  EXPECT_EQ(refusal.code, ErrorCode::kOutOfMemory);
  EXPECT_NE(refusal.what.find("too much"), std::string::npos);
  EXPECT_EQ(decode_refusal({}).code, ErrorCode::kProtocol);
}

TEST(SharedRegion, ReceiverChecksSizeAndSeals) {
  auto region = SharedRegion::create("test", 8192, PeerAccess::kReadWrite);
  ASSERT_TRUE(region);
  EXPECT_TRUE(SharedRegion::map(region->fd(), 8192, MapAccess::kReadWrite));
  EXPECT_FALSE(SharedRegion::map(region->fd(), 4096, MapAccess::kReadWrite));
  EXPECT_NE(::ftruncate(region->fd().get(), 4096), 0);
  const Fd unsealed(::memfd_create("test", MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), 8192), 0);
  EXPECT_FALSE(SharedRegion::map(unsealed, 8192, MapAccess::kReadWrite));
  EXPECT_FALSE(SharedRegion::map(Fd(::open("/dev/zero", O_RDWR)), 8192, MapAccess::kReadWrite));
  EXPECT_FALSE(SharedRegion::map(Fd(), 8192, MapAccess::kReadWrite));
}

TEST(SharedRegion, ReadOnlyPeersCannotWrite) {
  auto region = SharedRegion::create("test", 4096, PeerAccess::kReadOnly);
  ASSERT_TRUE(region);
  EXPECT_FALSE(SharedRegion::map(region->fd(), 4096, MapAccess::kReadWrite));
  auto peer = SharedRegion::map(region->fd(), 4096, MapAccess::kReadOnly);
  ASSERT_TRUE(peer);
  region->data()[5] = std::byte{9};  // the creator still can
  EXPECT_EQ(peer->data()[5], std::byte{9});
  EXPECT_NE(::mprotect(peer->data(), 4096, PROT_READ | PROT_WRITE), 0);
  EXPECT_NE(::write(region->fd().get(), "x", 1), 1);
}

class Sockets : public testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    a_ = Fd(fds[0]);
    b_ = Fd(fds[1]);
  }
  static Deadline soon() { return deadline_in_ms(50); }
  static Deadline later() { return deadline_in_ms(20000); }
  Fd a_, b_;
};

TEST_F(Sockets, FramesCarryDescriptors) {
  auto region = SharedRegion::create("test", 4096, PeerAccess::kReadWrite);
  const int fds[1] = {region->fd().get()};
  const Bytes body(100, std::byte{3});
  ASSERT_TRUE(send_frame(a_.get(), FrameType::kAttached, body, fds, later()).ok());
  auto frame = expect_frame(b_.get(), FrameType::kAttached, 1, later());
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->body, body);
  EXPECT_TRUE(SharedRegion::map(frame->fds[0], 4096, MapAccess::kReadWrite));
}

TEST_F(Sockets, SilenceGarbageAndTheEndAreErrors) {
  EXPECT_EQ(receive_frame(b_.get(), soon()).error().code, ErrorCode::kProtocol);
  const auto header = encode_frame_header({FrameType::kHello, 10});
  ASSERT_EQ(::send(a_.get(), header.data(), 16, 0), 16);  // and no body
  EXPECT_EQ(receive_frame(b_.get(), soon()).error().code, ErrorCode::kProtocol);
  ASSERT_EQ(::send(a_.get(), "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
  EXPECT_EQ(receive_frame(b_.get(), soon()).error().code, ErrorCode::kProtocol);
  a_.reset();
  while (receive_frame(b_.get(), soon()).error().what != "the peer closed the connection") continue;
}

TEST_F(Sockets, OtherFramesAndDescriptorsAreErrors) {
  const int fds[2] = {0, 1};
  ASSERT_TRUE(send_frame(a_.get(), FrameType::kHello, {}, {}, later()).ok());
  EXPECT_FALSE(expect_frame(b_.get(), FrameType::kWelcome, 0, later()));
  ASSERT_TRUE(send_frame(a_.get(), FrameType::kHello, {}, fds, later()).ok());
  EXPECT_FALSE(expect_frame(b_.get(), FrameType::kHello, 1, later()));
}

TEST(UnixListener, RefusesWhatIsNotFreeAndCleansUp) {
  char directory[] = "/tmp/tempo-wire-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  const std::string path = std::string(directory) + "/s";
  {
    auto listener = UnixListener::open(path);
    ASSERT_TRUE(listener);
    struct stat info = {};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0077, 0U);
    EXPECT_EQ(UnixListener::open(path).error().code, ErrorCode::kUsage);
    EXPECT_TRUE(connect_unix(path).valid());
  }
  EXPECT_NE(::access(path.c_str(), F_OK), 0);
  EXPECT_FALSE(connect_unix(path).valid());
  {  // What a killed process leaves behind is replaced; another kind of file is not.
    auto listener = UnixListener::open(path);
    ASSERT_TRUE(listener);
    ASSERT_EQ(::rename(path.c_str(), (path + "2").c_str()), 0);
  }
  EXPECT_TRUE(UnixListener::open(path + "2"));
  const Fd file(::open((path + "3").c_str(), O_CREAT | O_RDWR, 0600));
  EXPECT_EQ(UnixListener::open(path + "3").error().code, ErrorCode::kUsage);
  EXPECT_EQ(UnixListener::open(std::string(directory) + "/no/s").error().code, ErrorCode::kIo);
  EXPECT_FALSE(parse_unix_address("tcp:1"));
  EXPECT_FALSE(parse_unix_address("unix:" + std::string(108, 'x')));
  ::unlink((path + "3").c_str());
  ::rmdir(directory);
}

}  // namespace
}  // namespace tempo
