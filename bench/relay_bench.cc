// Throughput of the relay on this host: the off-loader's TcpChannel to the worker's service, whose
// device does nothing, beside a plain TCP connection that carries the same messages with the same
// window, one after the other in each round. Both ends run in this process; CPU time is that of
// both. Prints medians over rounds, and the ratios that docs/internals.md records.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "offloader/worker_finder.h"
#include "wire/event.h"
#include "worker/task_executor.h"
#include "worker/tcp_service.h"

namespace tempo {
namespace {

class NullMatrix final : public DeviceMatrix {
 public:
  using DeviceMatrix::DeviceMatrix;
};

// Leaves payloads where they arrived.
class NullDevice final : public Device {
 public:
  std::string name() const override { return "none"; }
  std::uint64_t default_memory_bytes() const override { return std::uint64_t{1} << 40; }
  std::unique_ptr<DeviceMatrix> allocate(std::uint32_t rows, std::uint32_t cols) override {
    return std::make_unique<NullMatrix>(rows, cols);
  }
  void upload(const std::byte*, DeviceMatrix&) override {}
  void download(const DeviceMatrix&, std::byte*) override {}
  void multiply(const DeviceMatrix&, Transpose, const DeviceMatrix&, Transpose, bool,
                DeviceMatrix&) override {}
  bool multiply_to_host(const DeviceMatrix&, Transpose, const DeviceMatrix&, Transpose,
                        std::byte*) override {
    return true;
  }
};

struct Load {
  std::uint64_t message_bytes = 0;
  int window = 0;  // messages under way
  int messages = 0;
};

struct Measured {
  double gb_per_s = 0;
  double cpu_s_per_gb = 0;
};

double cpu_seconds() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

template <class Work>
Measured measure(const Load& load, Work work) {
  const double cpu = cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const double gb = 1e-9 * static_cast<double>(load.message_bytes) * load.messages;
  return {gb / took.count(), (cpu_seconds() - cpu) / gb};
}

// The worker's service on a thread of its own, and the off-loader's channel to it.
class Relay {
 public:
  explicit Relay(const Load& load)
      : load_(load), payloads_(load.message_bytes * static_cast<std::uint64_t>(load.window)) {
    TcpServiceOptions options;
    options.listen = {parse_worker_address("tcp://127.0.0.1:0").value()};
    options.limits.window_bytes = payloads_.size();
    options.limits.max_payload_bytes = load.message_bytes;
    service_ = std::move(TcpService::start(std::move(options), serving_).value());
    worker_ = std::thread([this] { serve(); });
    const std::string address = "tcp://127.0.0.1:" + std::to_string(service_->ports()[0]);
    finder_ = std::move(WorkerFinder::start(parse_worker_list({address}).value()).value());
    while (channel_ == nullptr) {
      pollfd entry = {finder_->wait_fd(), POLLIN, 0};
      ::poll(&entry, 1, -1);
      if (auto news = finder_->take()) channel_ = std::move(news->remote);
    }
  }
  ~Relay() {
    channel_.reset();
    finder_.reset();
    stop_.raise();
    worker_.join();
  }

  void run() {
    int sent = 0, done = 0;
    while (done < load_.messages) {
      while (sent < load_.messages && send(sent)) ++sent;
      auto received = channel_->receive();
      if (!received) throw std::runtime_error(received.error().one_line());
      if (received->has_value()) {
        ++done;
        continue;
      }
      if (channel_->begin_wait()) {
        pollfd entry = {channel_->wait_fd(), POLLIN, 0};
        ::poll(&entry, 1, -1);
      }
      if (Status alive = channel_->end_wait(); !alive.ok()) {
        throw std::runtime_error(alive.error().one_line());
      }
    }
  }

 private:
  void serve() {
    NullDevice device;
    TaskExecutor executor(device, {device.default_memory_bytes()}, nullptr);
    pollfd entries[2] = {{stop_.fd(), POLLIN, 0}, {service_->wait_fd(), POLLIN, 0}};
    ::poll(entries, 2, -1);
    service_->serve(executor, device, stop_.fd());
  }
  bool send(int number) {
    Task task;
    task.request = static_cast<std::uint64_t>(number) + 1;
    task.rows = 1;
    task.cols = static_cast<std::uint32_t>(load_.message_bytes / sizeof(float));
    const auto place = static_cast<std::uint64_t>(number % load_.window) * load_.message_bytes;
    auto sent = channel_->send(task, payloads_.data() + place, nullptr);
    if (!sent) throw std::runtime_error(sent.error().one_line());
    return *sent;
  }

  const Load load_;
  AlignedBuffer<std::byte> payloads_;
  Serving serving_;
  Event stop_;
  std::unique_ptr<TcpService> service_;
  std::thread worker_;
  std::unique_ptr<WorkerFinder> finder_;
  std::unique_ptr<TcpChannel> channel_;
};

// The same over a plain connection: blocking calls, a thread an end, an acknowledgement a message.
class PlainTcp {
 public:
  explicit PlainTcp(const Load& load)
      : load_(load),
        out_(load.message_bytes * static_cast<std::uint64_t>(load.window)),
        in_(out_.size()) {
    const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    client_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const bool connected =
        ::bind(listener.get(), any, size) == 0 && ::listen(listener.get(), 1) == 0 &&
        ::getsockname(listener.get(), any, &size) == 0 && ::connect(client_.get(), any, size) == 0;
    if (!connected) throw std::runtime_error("no TCP connection on this host");
    server_ = Fd(::accept(listener.get(), nullptr, nullptr));
    tune_relay_socket(client_.get());
    tune_relay_socket(server_.get());
  }

  void run() {
    std::thread server([this] {
      char ack[kAckBytes] = {};
      for (int i = 0; i < load_.messages; ++i) {
        receive(server_, place(in_, i), load_.message_bytes);
        transmit(server_, ack, sizeof(ack));
      }
    });
    char ack[kAckBytes];
    for (int sent = 0, done = 0; done < load_.messages; ++done) {
      for (; sent < load_.messages && sent - done < load_.window; ++sent) {
        transmit(client_, place(out_, sent), load_.message_bytes);
      }
      receive(client_, ack, sizeof(ack));
    }
    server.join();
  }

 private:
  static constexpr std::size_t kAckBytes = 64;
  void* place(AlignedBuffer<std::byte>& buffer, int number) const {
    return buffer.data() + static_cast<std::uint64_t>(number % load_.window) * load_.message_bytes;
  }
  static void receive(const Fd& socket, void* to, std::size_t bytes) {
    if (::recv(socket.get(), to, bytes, MSG_WAITALL) != static_cast<ssize_t>(bytes)) {
      throw std::runtime_error("the plain connection broke");
    }
  }
  static void transmit(const Fd& socket, const void* from, std::size_t bytes) {
    if (::send(socket.get(), from, bytes, MSG_NOSIGNAL) != static_cast<ssize_t>(bytes)) {
      throw std::runtime_error("the plain connection broke");
    }
  }

  const Load load_;
  AlignedBuffer<std::byte> out_, in_;
  Fd client_, server_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void compare(const Load& load, int rounds) {
  Relay relay(load);
  PlainTcp plain(load);
  std::vector<double> relay_speed, relay_cpu, plain_speed, plain_cpu, speed_ratio, cpu_ratio;
  for (int round = 0; round <= rounds; ++round) {
    const Measured a = measure(load, [&] { relay.run(); });
    const Measured b = measure(load, [&] { plain.run(); });
    if (round == 0) continue;  // touches the memory, opens the windows
    relay_speed.push_back(a.gb_per_s);
    relay_cpu.push_back(a.cpu_s_per_gb);
    plain_speed.push_back(b.gb_per_s);
    plain_cpu.push_back(b.cpu_s_per_gb);
    speed_ratio.push_back(a.gb_per_s / b.gb_per_s);
    cpu_ratio.push_back(a.cpu_s_per_gb / b.cpu_s_per_gb);
  }
  std::printf(
      "%6.1f MB  relay %5.2f GB/s %5.3f CPU s/GB   plain TCP %5.2f GB/s %5.3f CPU s/GB   "
      "ratios %4.2f and %4.2f\n",
      1e-6 * static_cast<double>(load.message_bytes), median(relay_speed), median(relay_cpu),
      median(plain_speed), median(plain_cpu), median(speed_ratio), median(cpu_ratio));
}

}  // namespace
}  // namespace tempo

int main(int argc, char** argv) {
  int rounds = 9;
  int window = 4;
  double gigabytes = 2;
  CLI::App app("Throughput of the relay beside plain TCP, on this host.");
  app.add_option("--rounds", rounds)->capture_default_str();
  app.add_option("--window", window, "messages under way")->capture_default_str();
  app.add_option("--gb", gigabytes, "a round and connection")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  spdlog::set_level(spdlog::level::warn);
  for (const std::uint64_t bytes : {std::uint64_t{1} << 20, std::uint64_t{16} << 20}) {
    tempo::compare({bytes, window, static_cast<int>(gigabytes * 1e9 / static_cast<double>(bytes))},
                   rounds);
  }
}
