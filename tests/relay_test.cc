// Both ends of the relay: cores over a network that cuts everything into pieces, and channel and
// service over loopback, honest and not.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "offloader/relay_client.h"
#include "offloader/worker_finder.h"
#include "wire/event.h"
#include "worker/cpu_device.h"
#include "worker/relay_server.h"
#include "worker/tcp_service.h"

namespace tempo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPatienceMs = 20000;

Task put(std::uint64_t request, std::uint64_t id, std::uint32_t rows, std::uint32_t cols) {
  Task task;
  task.request = request;
  task.result = id;
  task.rows = rows;
  task.cols = cols;
  return task;
}

// [id] as a row times itself as a column: the sum of squares.
Task square(std::uint64_t request, std::uint64_t id) {
  Task task = put(request, 0, 1, 1);
  task.verb = Verb::kMultiply;
  task.a = task.b = id;
  task.flags = kTransposeB | kReturn;
  return task;
}

TEST(RelayCores, CarryEverythingOverANetworkOfAnyPieces) {
  constexpr RelayLimits kLimits{16 * 4096, 8 * 4096, 6};
  constexpr std::uint64_t kTasks = 2000;
  std::mt19937 random(5);
  const auto below = [&](std::size_t bound) { return random() % bound; };
  RelayMemory memory = RelayMemory::reserve(kLimits.window_bytes).value();
  RelayClient client(kLimits);
  RelayServer server(kLimits, memory.bytes());
  std::deque<std::byte> there, back;
  // Moves some bytes from a core to the network or from the network to a core.
  const auto send = [&](RelayCore& core, std::deque<std::byte>& network) {
    const RelayWrites writes = core.want_write();
    std::size_t left = writes.count == 0 ? 0 : 1 + below(9000), sent = 0;
    for (std::size_t i = 0; i < writes.count && left > 0; ++i) {
      const auto part = writes.spans[i].first(std::min(left, writes.spans[i].size()));
      network.insert(network.end(), part.begin(), part.end());
      left -= part.size();
      sent += part.size();
    }
    core.did_write(sent);
  };
  const auto receive = [&](RelayCore& core, std::deque<std::byte>& network) {
    const auto place = core.want_read();
    const std::size_t n = std::min({place.size(), network.size(), std::size_t{1} + below(9000)});
    std::copy_n(network.begin(), n, place.begin());
    network.erase(network.begin(), network.begin() + static_cast<std::ptrdiff_t>(n));
    if (n == 0) return;
    ASSERT_TRUE(core.did_read(n).ok());
  };
  struct Sent {
    std::vector<std::byte> payload, reply;
  };
  std::deque<Sent> open;
  std::uint64_t next = 1, done = 1;
  while (done <= kTasks) {
    switch (below(7)) {
      case 0: {  // a put of random bytes, or a product whose reply the server fills with its number
        if (next > kTasks) break;
        Task task = put(next, 0, 1, 1 + static_cast<std::uint32_t>(below(8 * 1024)));
        if (below(2) == 0) {
          task.verb = Verb::kMultiply;
          task.flags = kReturn;
        }
        Sent sent{std::vector(task.payload_bytes(), std::byte(next)),
                  std::vector<std::byte>(task.reply_bytes())};
        open.push_back(std::move(sent));
        if (client.submit(task, open.back().payload.data(), open.back().reply.data())) {
          ++next;
        } else {
          open.pop_back();
        }
        break;
      }
      case 1:
        send(client, there);
        break;
      case 2:
        receive(server, there);
        break;
      case 3: {
        const auto job = server.take();
        if (!job) break;
        const auto number = std::byte(job->task.request);
        const std::span<std::byte> payload(job->payload, job->task.payload_bytes());
        ASSERT_TRUE(
            std::all_of(payload.begin(), payload.end(), [&](std::byte b) { return b == number; }));
        const std::uint64_t bytes = job->task.reply_bytes();
        if (bytes > 0) std::memset(job->reply, static_cast<int>(number), bytes);
        server.finish(*job, {job->task.request, TaskStatus::kOk, 0, bytes, 0});
        break;
      }
      case 4:
        send(server, back);
        break;
      case 5:
        receive(client, back);
        break;
      default: {
        if (below(20) == 0) client.say_alive();
        if (below(20) == 0) server.say_alive();
        const auto completion = client.take();
        if (!completion) break;
        ASSERT_EQ(completion->request, done);
        const auto& reply = open.front().reply;
        ASSERT_EQ(std::count(reply.begin(), reply.end(), std::byte(done)), std::ssize(reply));
        open.pop_front();
        ++done;
      }
    }
  }
}

// Computes, and says that it will be done later.
class LateDevice final : public Device {
 public:
  explicit LateDevice(std::chrono::milliseconds late) : late_(late) {}
  std::string name() const override { return cpu_.name(); }
  std::uint64_t default_memory_bytes() const override { return cpu_.default_memory_bytes(); }
  std::unique_ptr<DeviceMatrix> allocate(std::uint32_t rows, std::uint32_t cols) override {
    return cpu_.allocate(rows, cols);
  }
  void upload(const std::byte* host, DeviceMatrix& matrix) override {
    cpu_.upload(host, matrix);
    done_at_ = Clock::now() + late_;
  }
  void download(const DeviceMatrix& matrix, std::byte* host) override {
    cpu_.download(matrix, host);
    done_at_ = Clock::now() + late_;
  }
  void multiply(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b, Transpose trans_b,
                bool accumulate, DeviceMatrix& out) override {
    cpu_.multiply(a, trans_a, b, trans_b, accumulate, out);
  }
  bool multiply_to_host(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                        Transpose trans_b, std::byte* host) override {
    done_at_ = Clock::now() + late_;
    return cpu_.multiply_to_host(a, trans_a, b, trans_b, host);
  }
  Time done_at() const override { return done_at_; }

 private:
  const std::chrono::milliseconds late_;
  CpuDevice cpu_{1};
  Time done_at_;
};

// A worker's service on a thread of its own.
class Worker {
 public:
  explicit Worker(RelayLimits limits = {1 << 20, 1 << 20, 64}, std::uint16_t port = 0,
                  std::chrono::milliseconds late = {})
      : late_(late) {
    TcpServiceOptions options;
    options.listen = {parse_worker_address("tcp://127.0.0.1:" + std::to_string(port)).value()};
    options.limits = limits;
    options.info.memory_limit_bytes = kMemory;
    auto started = TcpService::start(std::move(options), serving_);
    if (!started) throw std::runtime_error(started.error().one_line());
    service_ = std::move(*started);
    thread_ = std::thread([this] { run(); });
  }
  ~Worker() { stop(); }
  void stop() {
    stop_.raise();
    if (thread_.joinable()) thread_.join();
    service_.reset();
  }
  std::uint16_t port() const { return service_->ports()[0]; }
  std::string address() const { return "tcp://127.0.0.1:" + std::to_string(port()); }

 private:
  static constexpr std::uint64_t kMemory = 1 << 20;
  void run() {
    LateDevice device(late_);
    TaskExecutor executor(device, {kMemory}, nullptr);
    for (;;) {
      pollfd entries[2] = {{stop_.fd(), POLLIN, 0}, {service_->wait_fd(), POLLIN, 0}};
      ::poll(entries, 2, -1);
      if (entries[0].revents != 0) return;
      if (service_->serve(executor, device, stop_.fd()) == SessionEnd::kStopped) return;
      executor.clear();
    }
  }

  const std::chrono::milliseconds late_;
  Serving serving_;
  Event stop_;
  std::unique_ptr<TcpService> service_;
  std::thread thread_;
};

std::unique_ptr<WorkerFinder> find(const std::vector<std::string>& addresses) {
  return std::move(*WorkerFinder::start(parse_worker_list(addresses).value()));
}

// The next news, if there are any in time.
std::optional<WorkerNews> next_news(WorkerFinder& finder, int timeout_ms = kPatienceMs) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  do {
    if (auto news = finder.take()) return news;
    pollfd entry = {finder.wait_fd(), POLLIN, 0};
    ::poll(&entry, 1, 50);
  } while (Clock::now() < deadline);
  return std::nullopt;
}

std::unique_ptr<TcpChannel> next_channel(WorkerFinder& finder) {
  auto news = next_news(finder);
  return news ? std::move(news->remote) : nullptr;
}

Result<Completion> next_completion(WorkerChannel& channel) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(kPatienceMs);
  while (Clock::now() < deadline) {
    auto received = channel.receive();
    if (!received) return received.error();
    if (received->has_value()) return **received;
    if (channel.begin_wait()) {
      pollfd entry = {channel.wait_fd(), POLLIN, 0};
      ::poll(&entry, 1, 100);
    }
    if (Status alive = channel.end_wait(); !alive.ok()) return alive.error();
  }
  return Error{ErrorCode::kInternal, "no completion in time"};
}

void expect_served(WorkerChannel& channel) {
  const float values[2] = {3, 4};
  float reply = 0;
  ASSERT_TRUE(*channel.send(put(1, 9, 1, 2), reinterpret_cast<const std::byte*>(values), nullptr));
  ASSERT_TRUE(*channel.send(square(2, 9), nullptr, reinterpret_cast<std::byte*>(&reply)));
  const auto first = next_completion(channel);
  ASSERT_TRUE(first) << first.error().one_line();
  EXPECT_EQ(first->request, 1U);
  const auto second = next_completion(channel);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->status, TaskStatus::kOk);
  EXPECT_EQ(reply, 25.0F);
}

TEST(Relay, ServesOneOffloaderAndTellsOthersThatItIsBusy) {
  Worker worker;
  const auto first_finder = find({worker.address()});
  auto first = next_channel(*first_finder);
  ASSERT_NE(first, nullptr);
  expect_served(*first);
  const auto finder = find({worker.address()});
  EXPECT_FALSE(next_news(*finder, 500));
  first.reset();
  // It goes on trying, and finds nothing of what the first one left.
  const auto channel = next_channel(*finder);
  ASSERT_NE(channel, nullptr);
  float reply = 0;
  ASSERT_TRUE(*channel->send(square(1, 9), nullptr, reinterpret_cast<std::byte*>(&reply)));
  EXPECT_EQ(next_completion(*channel)->status, TaskStatus::kUnknownId);
}

TEST(Relay, AnswersLeaveWhenTheDeviceIsDone) {
  constexpr std::chrono::milliseconds kLate{30};
  Worker worker({64 * 1024, 32 * 1024, 8}, 0, kLate);
  const auto finder = find({worker.address()});
  const auto channel = next_channel(*finder);
  ASSERT_NE(channel, nullptr);
  for (int i = 0; i < 3; ++i) {
    const auto begin = Clock::now();
    expect_served(*channel);
    EXPECT_GE(Clock::now() - begin, kLate);
  }
}

TEST(Relay, ManyTasksThroughASmallWindow) {
  Worker worker({64 * 1024, 32 * 1024, 8});
  const auto finder = find({worker.address()});
  const auto channel = next_channel(*finder);
  ASSERT_NE(channel, nullptr);
  constexpr std::uint64_t kTasks = 400;
  const std::vector<float> values(8 * 1024, 0.5F);  // 32 KiB
  const auto* payload = reinterpret_cast<const std::byte*>(values.data());
  std::vector<float> replies(kTasks + 1);
  std::uint64_t next = 1, done = 1;
  while (done <= kTasks) {
    while (next <= kTasks) {
      const bool is_put = next % 2 == 1;
      auto sent = is_put ? channel->send(put(next, 1, 1, 8 * 1024), payload, nullptr)
                         : channel->send(square(next, 1), nullptr,
                                         reinterpret_cast<std::byte*>(&replies[next]));
      ASSERT_TRUE(sent);
      if (!*sent) break;
      ++next;
    }
    const auto completion = next_completion(*channel);
    ASSERT_TRUE(completion) << completion.error().one_line();
    ASSERT_EQ(completion->request, done);
    ASSERT_EQ(completion->status, TaskStatus::kOk);
    if (done % 2 == 0) {
      EXPECT_EQ(replies[done], 2048.0F);
    }
    ++done;
  }
}

TEST(Relay, ALostWorkerIsFoundAgain) {
  auto worker = std::make_unique<Worker>();
  const std::uint16_t port = worker->port();
  const auto finder = find({worker->address()});
  auto news = next_news(*finder);
  ASSERT_TRUE(news && news->remote);
  expect_served(*news->remote);
  worker.reset();
  EXPECT_FALSE(next_completion(*news->remote));
  news->remote.reset();
  finder->lost(news->id);
  worker = std::make_unique<Worker>(RelayLimits{1 << 20, 1 << 20, 64}, port);
  auto again = next_news(*finder);
  ASSERT_TRUE(again && again->remote);
  EXPECT_EQ(again->id, news->id);
  expect_served(*again->remote);
}

TEST(Relay, AChannelCanBeDroppedInTheMiddleOfEverything) {
  Worker worker({256 << 10, 256 << 10, 64});
  const std::vector<std::byte> payload(256 << 10);
  for (int i = 0; i < 5; ++i) {
    const auto finder = find({worker.address()});
    const auto channel = next_channel(*finder);
    ASSERT_NE(channel, nullptr);
    ASSERT_TRUE(*channel->send(put(1, 1, 1, 64 << 10), payload.data(), nullptr));
  }
}

// A TCP peer by hand.
class RawPeer {
 public:
  explicit RawPeer(std::uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const sockaddr_in address = loopback(port);
    connected_ =
        ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  }
  explicit RawPeer(Fd socket) : socket_(std::move(socket)), connected_(socket_.valid()) {}
  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }
  bool connected() const { return connected_; }
  void say(std::span<const std::byte> bytes) const {
    (void)!::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  // What arrives before the other end closes, or enough; nothing in time: empty.
  std::vector<std::byte> hear(std::size_t enough = SIZE_MAX) const {
    std::vector<std::byte> all;
    while (all.size() < enough) {
      pollfd entry = {socket_.get(), POLLIN, 0};
      if (::poll(&entry, 1, kPatienceMs) <= 0) return {};
      std::byte bytes[4096];
      const ssize_t got =
          ::recv(socket_.get(), bytes, std::min(sizeof(bytes), enough - all.size()), 0);
      if (got <= 0) break;
      all.insert(all.end(), bytes, bytes + got);
    }
    closed_ = all.size() < enough;
    return all;
  }
  // Whether the other end closes the connection, whatever it says before.
  bool is_closed() const {
    (void)hear();
    return closed_;
  }

 private:
  Fd socket_;
  bool connected_ = false;
  mutable bool closed_ = false;
};

// A payload that comes in pieces too small to be worth waking for, for longer than silence may
// last.
TEST(Relay, ASlowLinkIsNotASilentOne) {
  constexpr int kPieces = 16;
  constexpr std::uint32_t kPieceFloats = 2048;
  Worker worker;
  const RawPeer peer(worker.port());
  peer.say(encode_relay_hello());
  ASSERT_EQ(peer.hear(kRelayWelcomeBytes).size(), kRelayWelcomeBytes);
  peer.say(encode_relay_task(put(1, 9, 1, kPieces * kPieceFloats)));
  const std::vector<float> piece(kPieceFloats, 1.0F);
  for (int i = 0; i < kPieces; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2 * kRelaySilenceMs / kPieces));
    peer.say(std::as_bytes(std::span(piece)));
  }
  std::optional<Completion> answer;
  while (!answer) {
    const auto bytes = peer.hear(kRelayDoneBytes);
    RelayDoneFrame frame;
    ASSERT_EQ(bytes.size(), frame.size()) << "the session has ended";
    std::copy(bytes.begin(), bytes.end(), frame.begin());
    const auto done = decode_relay_done(frame);
    ASSERT_TRUE(done);
    answer = *done;
  }
  EXPECT_EQ(answer->request, 1U);
  EXPECT_EQ(answer->status, TaskStatus::kOk);
}

TEST(HostileOffloader, IsTurnedAwayAndTheWorkerServesOn) {
  Worker worker;
  std::mt19937 random(3);
  std::vector<std::byte> garbage(100000);
  for (std::byte& b : garbage) b = std::byte(random());
  RawPeer loris(worker.port());
  loris.say(std::span(garbage).first(1));  // and never another byte
  RawPeer mute(worker.port());
  for (int i = 0; i < 20; ++i) {
    RawPeer peer(worker.port());
    peer.say(std::span(garbage).subspan(0, 10 + 1000 * i));
  }
  std::vector<RawPeer> crowd;  // more than are let in at a time
  for (std::size_t i = 0; i < 2 * TcpService::kMaxHandshakes; ++i)
    crowd.emplace_back(worker.port());
  EXPECT_TRUE(loris.is_closed());
  EXPECT_TRUE(mute.is_closed());
  for (const RawPeer& peer : crowd) EXPECT_TRUE(peer.is_closed());
  const auto finder = find({worker.address()});
  const auto channel = next_channel(*finder);
  ASSERT_NE(channel, nullptr);
  expect_served(*channel);
}

TEST(HostileOffloader, EndsItsOwnSessionOnly) {
  Worker worker;
  Task huge = put(1, 1, ~0U, ~0U);
  Task beyond = put(1, 1, 1, (1 << 18) + 1);
  Task watch = put(1, 1, 1, 16);
  watch.verb = Verb::kWatch;
  for (const Task& task : {huge, beyond, watch}) {
    RawPeer peer(worker.port());
    peer.say(encode_relay_hello());
    RelayWelcomeFrame frame;
    // The session before may be about to end: it is busy for a moment.
    for (int tries = 0; tries < 100; ++tries) {
      const auto bytes = peer.hear(frame.size());
      ASSERT_EQ(bytes.size(), frame.size());
      std::copy(bytes.begin(), bytes.end(), frame.begin());
      if (decode_relay_welcome(frame)) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      peer = RawPeer(worker.port());
      peer.say(encode_relay_hello());
    }
    ASSERT_TRUE(decode_relay_welcome(frame));
    peer.say(encode_relay_task(task));
    EXPECT_TRUE(peer.is_closed());
  }
  const auto finder = find({worker.address()});
  const auto channel = next_channel(*finder);
  ASSERT_NE(channel, nullptr);
  expect_served(*channel);
}

TEST(HostileOffloader, OfAnotherVersionIsToldSo) {
  Worker worker;
  RawPeer peer(worker.port());
  peer.say(encode_relay_hello(kRelayVersion + 1));
  const auto bytes = peer.hear();
  ASSERT_EQ(bytes.size(), kRelayWelcomeBytes);
  RelayWelcomeFrame frame;
  std::copy(bytes.begin(), bytes.end(), frame.begin());
  EXPECT_FALSE(decode_relay_welcome(frame));
}

// A worker's listening socket by hand.
class RawWorker {
 public:
  RawWorker() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = RawPeer::loopback(0);
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(socket_.get(), 8), 0);
    socklen_t size = sizeof(address);
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  std::string address() const { return "tcp://127.0.0.1:" + std::to_string(port_); }
  RawPeer accept() const { return RawPeer(Fd(::accept(socket_.get(), nullptr, nullptr))); }

 private:
  Fd socket_;
  std::uint16_t port_ = 0;
};

TEST(HostileWorker, IsNotFoundBeforeItAnswersSensibly) {
  RawWorker worker;
  const auto finder = find({worker.address()});
  RawPeer mute = worker.accept();
  EXPECT_TRUE(mute.is_closed());  // given up after a while
  RawPeer liar = worker.accept();
  liar.say(std::vector(4096, std::byte{0xFF}));
  EXPECT_TRUE(liar.is_closed());
  RelayWelcome absurd;
  absurd.limits.window_bytes = ~0ULL;
  RawPeer boaster = worker.accept();
  boaster.say(encode_relay_welcome(absurd));
  EXPECT_TRUE(boaster.is_closed());
  EXPECT_FALSE(next_news(*finder, 0));
  RawPeer honest = worker.accept();
  honest.say(encode_relay_welcome({}));
  EXPECT_NE(next_channel(*finder), nullptr);
}

TEST(HostileWorker, WrongAnswersLoseItAndTouchNoReply) {
  std::vector<std::vector<std::byte>> answers;
  const auto say = [&](const Completion& completion) {
    const auto frame = encode_relay_done(completion);
    std::vector<std::byte> bytes(frame.begin(), frame.end());
    bytes.resize(bytes.size() + 4096, std::byte{0xEE});
    answers.push_back(std::move(bytes));
  };
  say({1, TaskStatus::kOk, 0, 8, 0});
  say({1, TaskStatus::kOk, 0, ~0ULL, 0});
  say({2, TaskStatus::kOk, 0, 4, 0});
  say({1, TaskStatus::kWorkerLost, 0, 4, 0});
  answers.emplace_back(4096, std::byte{0xEE});
  for (const auto& answer : answers) {
    RawWorker worker;
    const auto finder = find({worker.address()});
    RawPeer peer = worker.accept();
    peer.say(encode_relay_welcome({}));
    const auto channel = next_channel(*finder);
    ASSERT_NE(channel, nullptr);
    float reply = 0;
    ASSERT_TRUE(*channel->send(square(1, 1), nullptr, reinterpret_cast<std::byte*>(&reply)));
    EXPECT_EQ(peer.hear(kRelayHelloBytes + kRelayTaskBytes).size(),
              kRelayHelloBytes + kRelayTaskBytes);
    peer.say(answer);
    const auto completion = next_completion(*channel);
    ASSERT_FALSE(completion);
    EXPECT_EQ(completion.error().code, ErrorCode::kProtocol);
    EXPECT_EQ(reply, 0.0F);
    EXPECT_TRUE(peer.is_closed());
  }
}

TEST(HostileWorker, ThatFallsSilentIsLost) {
  RawWorker worker;
  const auto finder = find({worker.address()});
  RawPeer peer = worker.accept();
  peer.say(encode_relay_welcome({}));
  const auto channel = next_channel(*finder);
  ASSERT_NE(channel, nullptr);
  const auto completion = next_completion(*channel);
  ASSERT_FALSE(completion);
  EXPECT_EQ(completion.error().what, "the peer is silent");
}

}  // namespace
}  // namespace tempo
