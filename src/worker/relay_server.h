// File: worker/relay_server.h
// The worker's end of the relay's protocol, without input or output: takes tasks into memory that
// was set aside for them, hands them out in order, and brings the answers back. The off-loader is
// not trusted: its tasks must make sense and keep within the credit that it was given.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "wire/relay_core.h"
#include "wire/relay_frame.h"
#include "wire/slab_allocator.h"

namespace tempo {

// Private memory of a fixed size, taken from the system as it is touched.
class RelayMemory {
 public:
  // window: a multiple of kRelayBlockBytes. Error kOutOfMemory.
  static Result<RelayMemory> reserve(std::uint64_t window);
  RelayMemory(RelayMemory&& other) noexcept;
  RelayMemory& operator=(RelayMemory&&) = delete;
  ~RelayMemory();

  std::span<std::byte> bytes() const { return bytes_; }
  // Gives what was touched back to the system.
  void forget() const;

 private:
  explicit RelayMemory(std::span<std::byte> bytes) : bytes_(bytes) {}
  std::span<std::byte> bytes_;
};

class RelayServer final : public RelayCore {
 public:
  struct Job {
    Task task;
    std::byte* payload = nullptr;  // 4096-byte aligned, as is reply; null: none
    std::byte* reply = nullptr;
    std::optional<std::uint32_t> block;  // of either
  };

  // memory: limits.window_bytes, outlives the server.
  RelayServer(const RelayLimits& limits, std::span<std::byte> memory);

  // The next task that has arrived completely.
  std::optional<Job> take();
  bool has_job() const { return !ready_.empty(); }
  // Its outcome. Jobs are finished in the order in which they were taken.
  void finish(const Job& job, const Completion& completion);

  // Empty: the next task has to wait until answers were written, and their memory is free again.
  std::span<std::byte> want_read() override;
  Status did_read(std::size_t bytes) override;
  RelayWrites want_write() const override;
  void did_write(std::size_t bytes) override;
  bool awaits_own_write() const override { return false; }  // answers are not answered
  void say_alive() override;

 private:
  using Block = std::optional<std::uint32_t>;  // of memory_

  Status begin(const Task& task);
  // Gives the current task its memory, if there is any now, and hands it on when it is complete.
  void advance();
  bool find_memory();
  void release(Block block);

  const RelayLimits limits_;
  const std::span<std::byte> memory_;
  SlabAllocator blocks_;
  // Of what was begun and is not finished. What is finished does not count: the off-loader can have
  // read an answer before did_write() says that it was written.
  std::uint64_t cost_ = 0;
  std::uint64_t tasks_ = 0;

  RelayTaskFrame head_;
  std::size_t head_bytes_ = 0;
  std::optional<Job> current_;  // whose memory or payload is awaited
  bool has_memory_ = false;
  std::span<std::byte> payload_left_;
  std::deque<Job> ready_;
  RelayOutbox<RelayDoneFrame, Block> outbox_;  // tag: to be given back
};

}  // namespace tempo
