#include "wire/relay_frame.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "wire/worker_address.h"

namespace tempo {
namespace {

TEST(RelayFrame, HelloCarriesAnyVersionAndRefusesOthersProtocols) {
  EXPECT_EQ(decode_relay_hello(encode_relay_hello()).value(), kRelayVersion);
  EXPECT_EQ(decode_relay_hello(encode_relay_hello(99)).value(), 99U);
  RelayHelloFrame frame{};
  std::memcpy(frame.data(), "GET / HTTP/1.1\r\n", 16);
  EXPECT_EQ(decode_relay_hello(frame).error().code, ErrorCode::kProtocol);
}

TEST(RelayFrame, WelcomeCarriesWhatAWorkerOffers) {
  RelayWelcome welcome;
  welcome.limits = {8192, 4096, 7};
  welcome.worker.memory_limit_bytes = 123;
  std::memset(welcome.worker.device, 'x', sizeof(welcome.worker.device));
  welcome.worker.device[1] = '\n';
  const auto got = decode_relay_welcome(encode_relay_welcome(welcome));
  ASSERT_TRUE(got);
  EXPECT_EQ(got->limits.window_bytes, 8192U);
  EXPECT_EQ(got->limits.max_payload_bytes, 4096U);
  EXPECT_EQ(got->limits.max_tasks, 7U);
  EXPECT_EQ(got->worker.memory_limit_bytes, 123U);
  EXPECT_EQ(got->worker.device[1], '?');
  EXPECT_EQ(std::strlen(got->worker.device), sizeof(got->worker.device) - 1);
}

TEST(RelayFrame, WelcomesThatMakeNoSenseAreRefused) {
  const std::function<void(RelayWelcome&)> changes[] = {
      [](RelayWelcome& w) { w.answer = RelayAnswer::kBusy; },
      [](RelayWelcome& w) { w.answer = static_cast<RelayAnswer>(77); },
      [](RelayWelcome& w) { w.version = kRelayVersion + 1; },
      [](RelayWelcome& w) { w.element_types = 2; },
      [](RelayWelcome& w) { w.limits.window_bytes = kRelayBlockBytes - 1; },
      [](RelayWelcome& w) { w.limits.window_bytes = kMaxRelayWindow + 1; },
      [](RelayWelcome& w) { w.limits.max_payload_bytes = 0; },
      [](RelayWelcome& w) { w.limits.max_payload_bytes = w.limits.window_bytes + 1; },
      [](RelayWelcome& w) { w.limits.max_tasks = 0; },
      [](RelayWelcome& w) { w.limits.max_tasks = kMaxRelayTasks + 1; }};
  for (const auto& change : changes) {
    RelayWelcome welcome;
    ASSERT_TRUE(decode_relay_welcome(encode_relay_welcome(welcome)));
    change(welcome);
    EXPECT_EQ(decode_relay_welcome(encode_relay_welcome(welcome)).error().code,
              ErrorCode::kProtocol);
  }
}

TEST(RelayFrame, TasksAndCompletionsComeBackAsTheyWere) {
  Task task;
  task.request = 5;
  task.verb = Verb::kDrop;
  task.b = ~0ULL;
  const auto got = decode_relay_task(encode_relay_task(task));
  ASSERT_TRUE(got && got->has_value());
  EXPECT_EQ(std::memcmp(&**got, &task, sizeof(task)), 0);
  const Completion done{9, TaskStatus::kUnknownId, 1, 2, 3};
  const auto back = decode_relay_done(encode_relay_done(done));
  ASSERT_TRUE(back && back->has_value());
  EXPECT_EQ(std::memcmp(&**back, &done, sizeof(done)), 0);
  EXPECT_FALSE(decode_relay_task(relay_alive_to_worker())->has_value());
  EXPECT_FALSE(decode_relay_done(relay_alive_to_offloader())->has_value());
  auto wrong = encode_relay_task(task);
  wrong[4] = std::byte{3};  // what the other direction says
  EXPECT_FALSE(decode_relay_task(wrong));
  wrong[0] = std::byte{0};
  EXPECT_FALSE(decode_relay_task(wrong));
}

TEST(RelayFrame, CostsAreWholeBlocks) {
  Task task;
  task.rows = 1;
  task.cols = 1;
  EXPECT_EQ(relay_cost(task), 4096U);
  task.cols = 1024;
  EXPECT_EQ(relay_cost(task), 4096U);
  task.cols = 1025;
  EXPECT_EQ(relay_cost(task), 8192U);
  task.verb = Verb::kDrop;
  EXPECT_EQ(relay_cost(task), 0U);
}

TEST(WorkerAddress, TakesTcpAndUnix) {
  const auto tcp = parse_worker_address("tcp://gpu-1.example:7000");
  ASSERT_TRUE(tcp);
  EXPECT_TRUE(tcp->is_tcp());
  EXPECT_EQ(tcp->host, "gpu-1.example");
  EXPECT_EQ(tcp->port, 7000);
  const auto v6 = parse_worker_address("tcp://[fe80::1%eth0]:1");
  ASSERT_TRUE(v6);
  EXPECT_EQ(v6->host, "fe80::1%eth0");
  const auto local = parse_worker_address("unix:/run/w.sock");
  ASSERT_TRUE(local);
  EXPECT_FALSE(local->is_tcp());
  EXPECT_EQ(local->path, "/run/w.sock");
}

TEST(WorkerAddress, RefusesWhatIsNone) {
  for (const char* text :
       {"", "tcp://", "tcp://a", "tcp://a:", "tcp://:7", "tcp://a:65536", "tcp://a:-1",
        "tcp://a:7x", "tcp://fe80::1:7", "tcp://[a]:7", "tcp://[::1]", "tcp://[::1]7",
        "tcp://a b:7", "a:7", "unix:", "http://a:7"}) {
    const auto address = parse_worker_address(text);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(address.error().code, ErrorCode::kUsage);
  }
}

}  // namespace
}  // namespace tempo
