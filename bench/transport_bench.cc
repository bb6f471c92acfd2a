// Measures the way from the enclave to workers and back: ring, off-loader and tempo-worker as real
// processes on this machine. Payloads are put into the ring once and sent again and again, so that
// the figures are those of the transport; products have an inner length of 1, so that there is
// almost nothing to compute.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "bench/worker_processes.h"
#include "enclave/offload/ring_link.h"
#include "wire/shared_words.h"

namespace tempo {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void fail(const std::string& what) {
  fmt::print(stderr, "transport_bench: {}\n", what);
  std::exit(1);
}

class Bench {
 public:
  Bench(std::unique_ptr<RingLink> link, double seconds)
      : link_(std::move(link)), workers_(link_->workers().size()), seconds_(seconds) {}

  // Payloads of rows x cols floats, `window` at a time over all workers.
  void puts(std::uint32_t rows, std::uint32_t cols, int window) {
    Task task = base(Verb::kPut, rows, cols);
    task.result = 1;
    measure("put", task.payload_bytes(), window, [&](std::uint32_t worker) {
      task.worker = worker;
      auto slot = link_->reserve(task.payload_bytes());
      if (!slot) return false;
      // Encoding writes the payload: here a word a page, so that the pages are there.
      for (std::uint64_t at = 0; at + 8 <= slot->bytes; at += 4096) store_word(slot->data + at, at);
      return submit(task, &*slot, nullptr);
    });
  }

  // Replies of rows x cols floats.
  void products(std::uint32_t rows, std::uint32_t cols, int window) {
    for (std::uint32_t worker = 0; worker < workers_; ++worker) {
      store(worker, 1, rows, 1);
      store(worker, 2, 1, cols);
    }
    Task task = base(Verb::kMultiply, rows, cols);
    task.a = 1;
    task.b = 2;
    task.flags = kReturn;
    const auto reply = link_->reserve(task.reply_bytes());
    measure("multiply", task.reply_bytes(), window, [&](std::uint32_t worker) {
      task.worker = worker;
      return submit(task, nullptr, &*reply);
    });
    link_->release(*reply);
  }

  void round_trips() {
    std::vector<double> us;
    Task task = base(Verb::kDrop, 0, 0);
    const auto start = Clock::now();
    while (seconds_since(start) < seconds_) {
      const auto sent = Clock::now();
      submit(task, nullptr, nullptr);
      wait();
      us.push_back(seconds_since(sent) * 1e6);
    }
    std::sort(us.begin(), us.end());
    fmt::print("{:>10}  {:>8} B  p50 {:.1f} us, p99 {:.1f} us, {} samples\n", "round trip",
               sizeof(Task), us[us.size() / 2], us[us.size() * 99 / 100], us.size());
  }

 private:
  static Task base(Verb verb, std::uint32_t rows, std::uint32_t cols) {
    Task task;
    task.verb = verb;
    task.rows = rows;
    task.cols = cols;
    return task;
  }

  bool submit(const Task& task, const Slot* payload, const Slot* reply) {
    auto request = link_->submit(task, payload, reply);
    if (!request) fail(request.error().one_line());
    if (!request->has_value()) fail("the ring is full: choose a smaller window");
    return true;
  }
  void wait() {
    auto completion = link_->poll(20000);
    if (!completion) fail(completion.error().one_line());
    if (!completion->has_value()) fail("no answer for 20 s");
    if ((*completion)->status != TaskStatus::kOk) {
      fail(fmt::format("status {}", static_cast<int>((*completion)->status)));
    }
  }
  void store(std::uint32_t worker, std::uint64_t id, std::uint32_t rows, std::uint32_t cols) {
    Task task = base(Verb::kPut, rows, cols);
    task.worker = worker;
    task.result = id;
    const auto slot = link_->reserve(task.payload_bytes());
    submit(task, &*slot, nullptr);
    wait();
  }

  template <class Send>
  void measure(const char* name, std::uint64_t bytes, int window, Send send) {
    std::uint64_t sent = 0, done = 0;
    const auto start = Clock::now();
    while (seconds_since(start) < seconds_ || done < sent) {
      const bool more = seconds_since(start) < seconds_;
      if (more && sent - done < static_cast<std::uint64_t>(window) &&
          send(static_cast<std::uint32_t>(sent % workers_))) {
        ++sent;
        continue;
      }
      wait();
      ++done;
    }
    const double elapsed = seconds_since(start);
    fmt::print("{:>10}  {:>8} KiB  {:>7.0f} MB/s  {:>7.0f} tasks/s\n", name, bytes >> 10,
               static_cast<double>(bytes * done) / elapsed * 1e-6,
               static_cast<double>(done) / elapsed);
  }

  const std::unique_ptr<RingLink> link_;
  const std::uint32_t workers_;
  const double seconds_;
};

int run(int workers, double seconds, int window) {
  auto processes = WorkerProcesses::start(workers);
  if (!processes) fail(processes.error().one_line());
  {
    Bench bench(processes->take_link(), seconds);
    fmt::print("{} workers, {} tasks outstanding\n", workers, window);
    for (const std::uint32_t side : {64U, 256U, 512U, 1024U, 2048U}) bench.puts(side, side, window);
    for (const std::uint32_t side : {64U, 256U, 512U, 1024U, 2048U}) {
      bench.products(side, side, window);
    }
    bench.round_trips();
  }
  if (!processes->ended_well()) fail("the off-loader did not end well");
  return 0;
}

}  // namespace
}  // namespace tempo

int main(int argc, char** argv) {
  int workers = 2;
  double seconds = 1;
  int window = 8;
  CLI::App app("Throughput of ring, off-loader and workers on this machine.", "transport_bench");
  app.add_option("--workers", workers)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--seconds", seconds, "of each measurement")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--window", window, "tasks outstanding")
      ->check(CLI::Range(1, 200))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return tempo::run(workers, seconds, window);
}
