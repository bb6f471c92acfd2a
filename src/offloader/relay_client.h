// File: offloader/relay_client.h
// The off-loader's end of the relay's protocol, without input or output. The worker is not trusted:
// its answers must come in order, belong to tasks that were written completely, and have the
// length that the task says, before a byte of a reply goes to its place.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "wire/relay_core.h"
#include "wire/relay_frame.h"

namespace tempo {

class RelayClient final : public RelayCore {
 public:
  // What the worker offered, within the protocol's bounds.
  explicit RelayClient(const RelayLimits& limits) : limits_(limits) {}

  // Queues a task that is task_ok(). payload (payload_bytes()) is read and reply (reply_bytes()) is
  // written until the task's completion was taken. False: no credit now. A task beyond what the
  // worker can ever take is completed, in its turn, as kOutOfMemory.
  bool submit(const Task& task, const std::byte* payload, std::byte* reply);
  // The next completion, in the order of the tasks.
  std::optional<Completion> take();
  bool has_completion() const { return !completed_.empty(); }

  std::span<std::byte> want_read() override;
  Status did_read(std::size_t bytes) override;
  RelayWrites want_write() const override;
  void did_write(std::size_t bytes) override;
  bool awaits_own_write() const override;
  void say_alive() override;

 private:
  struct Open {
    Task task;
    std::byte* reply = nullptr;
    std::uint64_t number = 0;  // how many tasks were written before it
    bool refused = false;      // never written
  };

  Status begin_reply(const Completion& completion);
  void complete(const Completion& completion);
  void complete_refused();

  const RelayLimits limits_;
  std::deque<Open> open_;
  std::deque<Completion> completed_;
  std::uint64_t cost_ = 0;  // of what is open

  RelayOutbox<RelayTaskFrame, bool> outbox_;  // tag: whether it is a task
  std::uint64_t queued_tasks_ = 0;            // since the start
  std::uint64_t written_tasks_ = 0;           // completely, since the start

  RelayDoneFrame head_;
  std::size_t head_bytes_ = 0;
  Completion current_;  // whose reply is arriving
  std::span<std::byte> reply_left_;
};

}  // namespace tempo
