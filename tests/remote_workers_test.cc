// Workers over TCP as real processes: training through the command line, workers that die, stop and
// come back, a list that changes, TLS, and health.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/log_limit.h"
#include "tests/child_process.h"
#include "tests/loopback.h"
#include "tests/npy_file.h"
#include "tests/ring_fixture.h"
#include "wire/fd.h"
#include "wire/frame.h"
#include "wire/relay_frame.h"
#include "wire/shared_words.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

using nlohmann::json;

// Within 20 s.
bool in_time(const std::function<bool()>& condition) {
  for (int tries = 0; tries < 2000; ++tries) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

std::string get(std::uint16_t port, const std::string& target) {
  const Fd socket = connect_to(port);
  const std::string request = "GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n";
  (void)!::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL);
  std::string answer;
  char bytes[4096];
  for (ssize_t got; (got = ::recv(socket.get(), bytes, sizeof(bytes), 0)) > 0;) {
    answer.append(bytes, static_cast<std::size_t>(got));
  }
  return answer;
}

class RemoteWorkersTest : public RingTest {
 protected:
  void TearDown() override {
    leave();
    workers_.clear();
  }

  std::string address(std::size_t i) const {
    return "tcp://" + host_ + ":" + std::to_string(ports_[i]);
  }
  void start_worker(const std::vector<std::string>& flags = {}) {
    ports_.push_back(free_port());
    flags_.push_back(flags);
    workers_.emplace_back();
    restart_worker(workers_.size() - 1);
  }
  void restart_worker(std::size_t i) {
    std::vector<std::string> arguments = {
        program("tempo-worker"), "--listen", address(i), "--threads", "1", "--memory", "64M",
        "--log-level",           "warn"};
    arguments.insert(arguments.end(), flags_[i].begin(), flags_[i].end());
    workers_[i] = start_logged("worker" + std::to_string(i), arguments);
    ASSERT_TRUE(in_time([&] { return connect_to(ports_[i], host_).valid(); }));
  }
  void start(std::size_t workers) {
    std::string list;
    for (std::size_t i = 0; i < workers; ++i) {
      start_worker();
      if (i > 0) list += ",";
      list += address(i);
    }
    start_offloader(list);
    attach();
  }

  Completion run(const Task& task, const Slot* payload, const Slot* reply) {
    const auto request = link_->submit(task, payload, reply);
    if (!request || !request->has_value()) throw std::runtime_error("cannot submit");
    for (;;) {
      auto completion = link_->poll(kPatienceMs);
      if (!completion) throw std::runtime_error(completion.error().one_line());
      if (!completion->has_value()) throw std::runtime_error("no completion in time");
      if ((*completion)->request == **request) return **completion;
    }
  }
  TaskStatus put(std::uint32_t worker) {
    const float values[2] = {3, 4};
    Task task;
    task.worker = worker;
    task.result = 1;
    task.rows = 1;
    task.cols = 2;
    const Slot slot = *link_->reserve(sizeof(values));
    copy_out(slot.data, values, sizeof(values));
    return run(task, &slot, nullptr).status;
  }
  TaskStatus square(std::uint32_t worker, float* out = nullptr) {
    Task task;
    task.verb = Verb::kMultiply;
    task.worker = worker;
    task.a = task.b = 1;
    task.flags = kTransposeB | kReturn;
    task.rows = task.cols = 1;
    const Slot slot = *link_->reserve(4);
    const TaskStatus status = run(task, nullptr, &slot).status;
    if (out != nullptr) copy_in(out, slot.data, sizeof(*out));
    link_->release(slot);
    return status;
  }
  void expect_served(std::uint32_t worker) {
    float sum = 0;
    ASSERT_EQ(put(worker), TaskStatus::kOk);
    ASSERT_EQ(square(worker, &sum), TaskStatus::kOk);
    EXPECT_EQ(sum, 25.0F);
  }
  WorkerJoin next_join() {
    std::vector<WorkerJoin> joins;
    const bool joined = in_time([&] {
      (void)link_->poll(0);
      joins = link_->joins();
      return !joins.empty();
    });
    if (!joined) throw std::runtime_error("nobody joins");
    return joins[0];
  }

  std::string host_ = "127.0.0.1";  // of workers
  std::vector<std::uint16_t> ports_;
  std::vector<std::vector<std::string>> flags_;
  std::vector<Child> workers_;
};

TEST_F(RemoteWorkersTest, AKilledWorkerJoinsAgainWithNothingOfItsOldSelf) {
  start(2);
  expect_served(0);
  expect_served(1);
  workers_[0].send_signal(SIGKILL);
  EXPECT_EQ(workers_[0].wait(), -SIGKILL);
  EXPECT_EQ(square(0), TaskStatus::kWorkerLost);
  restart_worker(0);
  // The enclave has not asked for joins since: what it sends is for the worker that died.
  EXPECT_EQ(put(0), TaskStatus::kWorkerLost);
  const WorkerJoin join = next_join();
  EXPECT_EQ(join.worker, 0U);
  EXPECT_EQ(join.epoch, 1U);
  EXPECT_EQ(join.info.memory_limit_bytes, 64U << 20);
  EXPECT_EQ(square(0), TaskStatus::kUnknownId);
  expect_served(0);
  expect_served(1);
}

TEST_F(RemoteWorkersTest, AStoppedWorkerIsLostAndJoinsWhenItGoesOn) {
  start(1);
  expect_served(0);
  workers_[0].send_signal(SIGSTOP);
  EXPECT_EQ(square(0), TaskStatus::kWorkerLost);
  workers_[0].send_signal(SIGCONT);
  EXPECT_EQ(next_join().epoch, 1U);
  expect_served(0);
}

TEST_F(RemoteWorkersTest, OneThatWasNotThereAtTheStartJoinsBehindThoseThatWere) {
  const std::uint16_t late = free_port();
  start_worker();
  start_offloader("tcp://127.0.0.1:" + std::to_string(late) + "," + address(0), {}, 1500);
  attach();
  EXPECT_EQ(link_->workers().size(), 1U);
  expect_served(0);
  ports_.push_back(late);
  flags_.emplace_back();
  workers_.emplace_back();
  restart_worker(1);
  const WorkerJoin join = next_join();
  EXPECT_EQ(join.worker, 1U);
  EXPECT_EQ(join.epoch, 1U);
  expect_served(1);
}

TEST_F(RemoteWorkersTest, WorkersOnThisHostJoinAgainToo) {
  start_worker();
  const std::string local = "unix:" + path("w");
  const auto start_local = [&] {
    return Child({program("tempo-worker"), "--listen", local, "--threads", "1", "--memory", "1M",
                  "--log-level", "error"});
  };
  Child worker = start_local();
  start_offloader(local + "," + address(0));
  attach();
  EXPECT_EQ(link_->workers().size(), 2U);
  expect_served(0);
  worker.send_signal(SIGKILL);
  EXPECT_EQ(worker.wait(), -SIGKILL);
  worker = start_local();
  EXPECT_EQ(next_join().worker, 0U);
  expect_served(0);
  expect_served(1);
}

TEST_F(RemoteWorkersTest, AListInAFileIsWatched) {
  start_worker();
  start_worker();
  const auto write_list = [&](const std::string& text) {
    std::ofstream(path("new")) << text;
    std::filesystem::rename(path("new"), path("list"));
  };
  write_list("# the workers\n " + address(0) + "  # the first\n\n");
  start_offloader("file:" + path("list"));
  attach();
  EXPECT_EQ(link_->workers().size(), 1U);
  write_list(address(0) + "\n" + address(1) + "\n");
  EXPECT_EQ(next_join().worker, 1U);
  expect_served(1);
  write_list("nonsense\n");  // changes nothing
  write_list(address(1) + "\n");
  EXPECT_TRUE(in_time([&] { return put(0) == TaskStatus::kWorkerLost; }));
  expect_served(1);
  write_list(address(0) + "\n" + address(1) + "\n");
  EXPECT_EQ(next_join().worker, 0U);
  expect_served(0);
}

TEST_F(RemoteWorkersTest, OneOffloaderIsServedAtATimeHoweverItComes) {
  start_worker({"--listen", "unix:" + path("w")});
  start_offloader(address(0));
  attach();
  expect_served(0);
  link_.reset();
  EXPECT_EQ(offloader_.wait(), 0);
  start_offloader("unix:" + path("w"));
  attach();
  EXPECT_EQ(square(0), TaskStatus::kUnknownId);
  expect_served(0);
}

// In kB, from /proc/PID/status.
long peak_memory(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stol(line.substr(6));
  }
  return 0;
}

TEST_F(RemoteWorkersTest, ACrowdOfGarbageCostsAWorkerLittleMemoryAndNobodyElse) {
  start(1);
  expect_served(0);
  const long before = peak_memory(workers_[0].pid());
  const std::string garbage(1 << 16, 'x');
  std::vector<Fd> crowd;
  for (int i = 0; i < 300; ++i) {
    crowd.push_back(connect_to(ports_[0]));
    (void)!::send(crowd.back().get(), garbage.data(), i % 3 == 0 ? 1 : garbage.size(),
                  MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  expect_served(0);
  crowd.clear();
  expect_served(0);
  EXPECT_LT(peak_memory(workers_[0].pid()) - before, 32 << 10);
}

TEST_F(RemoteWorkersTest, AnswerAtNamesAndAtAddressesOfBothKinds) {
  for (const char* host : {"[::1]", "localhost"}) {
    if (host[0] == '[' && !has_ipv6()) continue;
    host_ = host;
    start_worker();
    start_offloader(address(workers_.size() - 1));
    attach();
    expect_served(0);
    link_.reset();
    EXPECT_EQ(offloader_.wait(), 0);
  }
}

TEST_F(RemoteWorkersTest, HealthSaysWhatTheWorkerDoes) {
  const std::uint16_t health = free_port();
  start_worker({"--health", "127.0.0.1:" + std::to_string(health)});
  ASSERT_TRUE(in_time([&] { return connect_to(health).valid(); }));
  EXPECT_TRUE(get(health, "/readyz").starts_with("HTTP/1.1 200 "));
  const std::string idle = get(health, "/healthz");
  EXPECT_TRUE(idle.starts_with("HTTP/1.1 200 ")) << idle;
  EXPECT_NE(idle.find("\"state\":\"idle\""), std::string::npos) << idle;
  EXPECT_NE(idle.find("\"device\":\"cpu, 1 thread\""), std::string::npos) << idle;
  EXPECT_NE(idle.find("\"memory_limit_bytes\":67108864"), std::string::npos) << idle;
  start_offloader(address(0));
  attach();
  expect_served(0);
  EXPECT_TRUE(get(health, "/readyz").starts_with("HTTP/1.1 503 "));
  const std::string serving = get(health, "/healthz");
  EXPECT_NE(serving.find("\"state\":\"serving\""), std::string::npos) << serving;
  EXPECT_NE(serving.find("\"tasks_done\":2"), std::string::npos) << serving;
  EXPECT_NE(serving.find("\"memory_in_use_bytes\":8"), std::string::npos) << serving;
  EXPECT_TRUE(get(health, "/").starts_with("HTTP/1.1 404 "));
  std::vector<Fd> loris;
  for (int i = 0; i < 50; ++i) {
    loris.push_back(connect_to(health));
    (void)!::send(loris.back().get(), "G", 1, MSG_NOSIGNAL);
  }
  EXPECT_TRUE(get(health, "/healthz").starts_with("HTTP/1.1 200 "));
  EXPECT_FALSE(get(health, "/" + std::string(100000, 'x')).starts_with("HTTP/1.1 200"));
}

TEST_F(RemoteWorkersTest, AWorkerChecksItselfWithoutStarting) {
  const std::uint16_t port = free_port();
  const std::string where = "tcp://127.0.0.1:" + std::to_string(port);
  const std::vector<std::string> command = {
      program("tempo-worker"), "--listen", where, "--threads", "1", "--memory", "1M", "--check"};
  const ProgramResult good = workspace_.run(command);
  EXPECT_EQ(good.exit_code, 0) << good.err;
  for (const char* line : {"device: ok: cpu, 1 thread", "memory: ok: limit 1 MiB", "tls: none"}) {
    EXPECT_NE(good.out.find(line), std::string::npos) << good.out;
  }
  EXPECT_NE(good.out.find("listen: ok: " + where), std::string::npos) << good.out;
  start_worker();
  auto taken = command;
  taken[2] = address(0);
  EXPECT_EQ(workspace_.run(taken).exit_code, 13);
  auto no_certificate = command;
  no_certificate.insert(no_certificate.end(),
                        {"--tls-cert", "no.pem", "--tls-key", "no.key", "--tls-ca", "no-ca.pem"});
  EXPECT_EQ(workspace_.run(no_certificate).exit_code, 3);
  auto greedy = command;
  greedy[6] = "1000T";
  EXPECT_EQ(workspace_.run(greedy).exit_code, 8);
}

class TlsWorkersTest : public RemoteWorkersTest {
 protected:
  void SetUp() override {
    for (const char* ca : {"ca", "other-ca"}) {
      openssl({"-keyout", path(ca) + ".key", "-out", path(ca) + ".pem", "-subj", "/CN=test CA"});
    }
    certify("worker", "ca", "IP:127.0.0.1");
    certify("offloader", "ca", "DNS:offloader");
    certify("stranger", "other-ca", "DNS:offloader");
    certify("elsewhere", "ca", "IP:127.0.0.2");
  }
  void openssl(const std::vector<std::string>& more) {
    std::vector<std::string> command = {"/usr/bin/openssl",
                                        "req",
                                        "-x509",
                                        "-newkey",
                                        "ec",
                                        "-pkeyopt",
                                        "ec_paramgen_curve:prime256v1",
                                        "-nodes",
                                        "-days",
                                        "2"};
    command.insert(command.end(), more.begin(), more.end());
    const ProgramResult made = workspace_.run(command);
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  void certify(const std::string& name, const std::string& ca, const std::string& subject) {
    openssl({"-CA", path(ca) + ".pem", "-CAkey", path(ca) + ".key", "-keyout", path(name) + ".key",
             "-out", path(name) + ".pem", "-subj", "/CN=" + name, "-addext",
             "subjectAltName=" + subject, "-addext", "basicConstraints=critical,CA:FALSE"});
  }
  std::vector<std::string> tls(const std::string& name, const std::string& ca = "ca") const {
    return {"--tls-cert",        path(name) + ".pem", "--tls-key",
            path(name) + ".key", "--tls-ca",          path(ca) + ".pem"};
  }
  void expect_refused(const std::vector<std::string>& flags) {
    start_offloader(address(0), flags, 1500);
    EXPECT_EQ(offloader_.wait(), 7);
  }
};

TEST_F(TlsWorkersTest, ServeOnlyWhoTheirCaVouchesFor) {
  start_worker(tls("worker"));
  expect_refused({});
  expect_refused(tls("stranger"));
  expect_refused(tls("stranger", "other-ca"));
  start_offloader(address(0), tls("offloader"));
  attach();
  expect_served(0);
  restart_worker(0);
  EXPECT_EQ(next_join().worker, 0U);
  expect_served(0);
}

TEST_F(TlsWorkersTest, AreNotTakenForAnotherHostOrWithoutTls) {
  start_worker(tls("elsewhere"));
  expect_refused(tls("offloader"));
  flags_[0] = {};
  restart_worker(0);
  expect_refused(tls("offloader"));
}

TEST_F(TlsWorkersTest, AnswerAtTheNamesAndAddressesOfTheirCertificates) {
  certify("named", "ca", "DNS:localhost");
  certify("v6", "ca", "IP:::1");
  for (const auto& [host, certificate] : {std::pair{"localhost", "named"}, {"[::1]", "v6"}}) {
    if (host[0] == '[' && !has_ipv6()) continue;
    host_ = host;
    start_worker(tls(certificate));
    start_offloader(address(workers_.size() - 1), tls("offloader"));
    attach();
    expect_served(0);
    link_.reset();
    EXPECT_EQ(offloader_.wait(), 0);
  }
}

// Peers that come to a worker, or to the off-loader in place of one, and mean no good.
class Crowd {
 public:
  explicit Crowd(std::vector<Fd> sockets) : sockets_(std::move(sockets)) {
    for (std::size_t i = 0; i < sockets_.size(); ++i) speak(i);
    loris_ = std::thread([this] { drip(); });
  }
  ~Crowd() {
    is_over_ = true;
    loris_.join();
  }

 private:
  void say(std::size_t i, const void* bytes, std::size_t count) const {
    (void)!::send(sockets_[i].get(), bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  void speak(std::size_t i) const {
    const RelayHelloFrame hello = encode_relay_hello();
    // A TLS record, and a hello in it, that announce more than may be in them.
    const unsigned char tls[] = {0x16, 3, 1, 0xFF, 0xFF, 1, 0xFF, 0xFF, 0xFF, 3, 3};
    Task huge;
    huge.rows = huge.cols = ~0U;
    const RelayTaskFrame task = encode_relay_task(huge);
    const std::string garbage(1 << 16, 'x');
    switch (i % kKinds) {
      case 0:
        return say(i, garbage.data(), garbage.size());
      case 1:
        return say(i, tls, sizeof(tls));
      case 2:
        return say(i, hello.data(), hello.size() / 2);
      case 3:  // one that is served as soon as nobody else is, and asks for too much
        say(i, hello.data(), hello.size());
        return say(i, task.data(), task.size());
      default:  // silent, or a byte at a time
        return;
    }
  }
  void drip() const {
    const RelayHelloFrame hello = encode_relay_hello();
    for (std::size_t byte = 0; !is_over_; byte = (byte + 1) % hello.size()) {
      for (std::size_t i = kKinds - 1; i < sockets_.size(); i += kKinds) say(i, &hello[byte], 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }

  static constexpr std::size_t kKinds = 6;
  const std::vector<Fd> sockets_;
  std::atomic<bool> is_over_ = false;
  std::thread loris_;
};

constexpr int kCrowd = 200;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr long kLittleMemory = 1 << 20;  // kB: what was freed is kept for a while
#else
constexpr long kLittleMemory = 32 << 10;
#endif

std::ptrdiff_t lines_with(const std::string& text, const std::string& log) {
  std::istringstream lines(log);
  std::ptrdiff_t count = 0;
  for (std::string line; std::getline(lines, line);) {
    count += line.find(text) != std::string::npos ? 1 : 0;
  }
  return count;
}

class HostilePeersTest : public TlsWorkersTest {
 protected:
  const LogLimit::Clock::time_point begin_ = LogLimit::Clock::now();

  void expect_refused_but_not_noisily(const std::string& name) {
    const std::string log = read_file(log_path(name));
    EXPECT_GT(lines_with("was turned away", log), 0) << log;
    // A burst, and a line an interval, of strangers and of who is served.
    const auto intervals = (LogLimit::Clock::now() - begin_) / LogLimit::kInterval;
    EXPECT_LE(lines_with("", log), 2 * (LogLimit::kBurst + intervals + 1)) << log;
  }
  // Crowds come before the real off-loader, and while it is served.
  void besiege(const std::vector<std::string>& offloader_tls) {
    const long before = peak_memory(workers_[0].pid());
    const auto crowd = [&] {
      std::vector<Fd> sockets;
      for (int i = 0; i < kCrowd; ++i) sockets.push_back(connect_to(ports_[0]));
      return std::make_unique<Crowd>(std::move(sockets));
    };
    auto first = crowd();
    start_offloader(address(0), offloader_tls);
    attach();
    expect_served(0);
    const auto second = crowd();
    expect_served(0);
    first.reset();
    for (int i = 0; i < 20; ++i) {
      expect_served(0);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_LT(peak_memory(workers_[0].pid()) - before, kLittleMemory);
    expect_refused_but_not_noisily("worker0");
  }
};

TEST_F(HostilePeersTest, DoNotKeepAWorkerFromServing) {
  start_worker();
  besiege({});
}

TEST_F(HostilePeersTest, DoNotKeepAWorkerWithTlsFromServing) {
  start_worker(tls("worker"));
  besiege(tls("offloader"));
}

TEST_F(HostilePeersTest, DoNotKeepTheOffloaderFromItsEnclave) {
  start_worker();
  start_offloader(address(0));
  const auto connect = [&] {
    Fd socket;
    const bool connected = in_time([&] { return (socket = connect_unix(path("ring"))).valid(); });
    EXPECT_TRUE(connected);
    return socket;
  };
  (void)connect();  // it listens
  const long before = peak_memory(offloader_.pid());
  // Half a frame takes a peer's whole time; the others are refused at once.
  const auto whole = encode_frame_header({FrameType::kAttach, 64});
  const auto huge = encode_frame_header({FrameType::kAttach, ~0U});
  const std::string garbage(4096, 'x');
  const Fd half = connect();
  (void)!::send(half.get(), whole.data(), whole.size(), MSG_NOSIGNAL);
  for (int i = 0; i < kCrowd; ++i) {
    const Fd peer = connect();
    if (i % 2 == 0) (void)!::send(peer.get(), huge.data(), huge.size(), MSG_NOSIGNAL);
    if (i % 2 == 1) (void)!::send(peer.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
  }
  attach();
  expect_served(0);
  EXPECT_LT(peak_memory(offloader_.pid()) - before, kLittleMemory);
  expect_refused_but_not_noisily("offloader");
}

TEST_F(HostilePeersTest, InPlaceOfWorkersLeaveTheOthersServed) {
  start_worker();
  std::vector<Fd> listeners;
  std::string list = address(0);
  for (int i = 0; i < 6; ++i) {
    const std::uint16_t port = free_port();
    list += ",tcp://127.0.0.1:" + std::to_string(port);
    const sockaddr_in at = loopback(port);
    listeners.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(listeners[i].get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)), 0);
    ASSERT_EQ(::listen(listeners[i].get(), 8), 0);
  }
  start_offloader(list, {}, 5000);
  std::vector<Fd> sockets;
  for (const Fd& listener : listeners) {
    sockets.emplace_back(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  const Crowd crowd(std::move(sockets));
  attach();
  EXPECT_EQ(link_->workers().size(), 1U);
  expect_served(0);
  EXPECT_LT(peak_memory(offloader_.pid()), 3 * kLittleMemory);
  const std::string log = read_file(log_path("offloader"));
  EXPECT_GT(lines_with("worker tcp://127.0.0.1:", log), 3) << log;
  EXPECT_LT(log.size(), 10000U);
}

class RemoteTrainingTest : public TlsWorkersTest {
 protected:
  static constexpr int kSamples = 96, kSide = 8;

  void SetUp() override {
    TlsWorkersTest::SetUp();
    std::vector<std::uint8_t> pixels;
    for (int i = 0; i < kSamples * kSide * kSide; ++i) {
      pixels.push_back(static_cast<std::uint8_t>(i * 37 % 251 + (i / 64 % 4) * 3));
    }
    std::vector<std::int64_t> labels;
    for (std::int64_t i = 0; i < kSamples; ++i) labels.push_back(i % 4);
    write_npy(path("x.npy"), "|u1", "(96, 1, 8, 8)", pixels);
    write_npy(path("y.npy"), "<i8", "(96,)", labels);
    const ProgramResult made =
        workspace_.run({program("tempo"), "model", "mlp", "--image", "1x8x8", "--classes", "4",
                        "--seed", "3", "-o", path("m.onnx")});
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  json train(const std::string& workers, const std::string& scheme,
             const std::vector<std::string>& flags = {}) {
    std::vector<std::string> command = {program("tempo"),
                                        "train",
                                        "--model",
                                        path("m.onnx"),
                                        "--data",
                                        "npy:" + path("x.npy") + "," + path("y.npy"),
                                        "--epochs",
                                        "2",
                                        "--batch",
                                        "32",
                                        "--offload",
                                        "all",
                                        "--scheme",
                                        scheme,
                                        "--threads",
                                        "1",
                                        "--seed",
                                        "7",
                                        "--workers",
                                        workers,
                                        "-o",
                                        path("o.onnx"),
                                        "--report",
                                        path("r.json")};
    command.insert(command.end(), flags.begin(), flags.end());
    const ProgramResult result = workspace_.run(command);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(read_file(path("r.json")));
  }
};

// Sums of floats in another order apart.
void expect_same_losses(const json& a, const json& b) {
  ASSERT_EQ(a["loss"].size(), b["loss"].size());
  ASSERT_EQ(a["loss"].size(), 6U);  // one a step
  for (std::size_t i = 0; i < a["loss"].size(); ++i) {
    EXPECT_NEAR(a["loss"][i].get<double>(), b["loss"][i].get<double>(), 1e-4);
  }
}

TEST_F(RemoteTrainingTest, GivesTheSameLossesAsInsideTheEnclave) {
  start_worker();
  start_worker(tls("worker"));
  const json inside = train("local:1", "local");
  const json plain = train(address(0), "tempo");
  expect_same_losses(plain, inside);
  EXPECT_GT(plain["checks"]["done"].get<int>(), 0);
  std::vector<std::string> pass_on;
  for (const std::string& flag : tls("offloader")) {
    pass_on.push_back(flag.starts_with("--tls") ? std::string("--worker").append(flag, 1) : flag);
  }
  expect_same_losses(train(address(1), "tempo", pass_on), inside);
  const json mixed = train("local:1," + address(0), "tempo");
  expect_same_losses(mixed, inside);
  EXPECT_EQ(mixed["workers"].size(), 2U);
}

}  // namespace
}  // namespace tempo
