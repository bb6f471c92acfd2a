#include "worker/relay_server.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <utility>

#include "wire/task_check.h"

namespace tempo {
namespace {

Error violation(const char* what) {
  return {ErrorCode::kProtocol,
          std::string("the off-loader broke the protocol: ") + what,
          "",
          "",
          "",
          ""};
}

std::uint32_t blocks_of(std::uint64_t bytes) {
  return static_cast<std::uint32_t>(bytes / kRelayBlockBytes);
}

}  // namespace

Result<RelayMemory> RelayMemory::reserve(std::uint64_t window) {
  TEMPO_ASSERT(window >= kRelayBlockBytes && window % kRelayBlockBytes == 0 &&
               window <= kMaxRelayWindow);
  void* const at = ::mmap(nullptr, window, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    return Error{ErrorCode::kOutOfMemory,
                 "no memory for the window of network connections",
                 "--window",
                 "",
                 std::to_string(window) + " bytes",
                 "choose a smaller one"};
  }
  return RelayMemory({static_cast<std::byte*>(at), window});
}

RelayMemory::RelayMemory(RelayMemory&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

RelayMemory::~RelayMemory() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

void RelayMemory::forget() const {
  ::madvise(bytes_.data(), bytes_.size(), MADV_DONTNEED);
}

RelayServer::RelayServer(const RelayLimits& limits, std::span<std::byte> memory)
    : limits_(limits), memory_(memory), blocks_(blocks_of(limits.window_bytes)) {
  TEMPO_ASSERT(memory.size() == limits.window_bytes);
}

std::optional<RelayServer::Job> RelayServer::take() {
  if (ready_.empty()) return std::nullopt;
  const Job job = ready_.front();
  ready_.pop_front();
  return job;
}

void RelayServer::finish(const Job& job, const Completion& completion) {
  cost_ -= relay_cost(job.task);
  --tasks_;
  const RelayDoneFrame frame = encode_relay_done(completion);
  if (completion.status == TaskStatus::kOk && completion.bytes > 0) {
    outbox_.push(frame, {job.reply, completion.bytes}, job.block);
  } else {
    release(job.block);
    outbox_.push(frame, {}, {});
  }
  advance();
}

std::span<std::byte> RelayServer::want_read() {
  if (current_) return payload_left_;
  return std::span(head_).subspan(head_bytes_);
}

Status RelayServer::did_read(std::size_t bytes) {
  if (current_) {
    payload_left_ = payload_left_.subspan(bytes);
  } else {
    head_bytes_ += bytes;
    if (head_bytes_ < head_.size()) return {};
    head_bytes_ = 0;
    const auto task = decode_relay_task(head_);
    if (!task) return task.error();
    if (!task->has_value()) return {};
    TEMPO_RETURN_IF_ERROR(begin(**task));
  }
  advance();
  return {};
}

void RelayServer::advance() {
  if (!current_) return;
  if (!has_memory_ && !(has_memory_ = find_memory())) return;
  if (!payload_left_.empty()) return;
  ready_.push_back(*current_);
  current_.reset();
  has_memory_ = false;
}

Status RelayServer::begin(const Task& task) {
  if (!task_ok(task, limits_.max_payload_bytes)) return violation("malformed task");
  const std::uint64_t cost = relay_cost(task);
  if (cost > limits_.window_bytes - cost_ || tasks_ >= limits_.max_tasks) {
    return violation("more under way than was agreed");
  }
  cost_ += cost;
  ++tasks_;
  current_ = Job{task, nullptr, nullptr, {}};
  return {};
}

bool RelayServer::find_memory() {
  if (outbox_.size() >= limits_.max_tasks) return false;  // the peer does not read its answers
  if (const std::uint64_t cost = relay_cost(current_->task); cost > 0) {
    current_->block = blocks_.allocate(blocks_of(cost));
    if (!current_->block) return false;
    std::byte* const at = memory_.data() + *current_->block * kRelayBlockBytes;
    // A task has a payload or a reply, never both.
    (current_->task.payload_bytes() > 0 ? current_->payload : current_->reply) = at;
  }
  payload_left_ = {current_->payload, current_->task.payload_bytes()};
  return true;
}

void RelayServer::release(Block block) {
  if (block) blocks_.release(*block);
}

RelayWrites RelayServer::want_write() const {
  return outbox_.writes();
}

void RelayServer::did_write(std::size_t bytes) {
  outbox_.wrote(bytes, [this](Block block) { release(block); });
  advance();
}

void RelayServer::say_alive() {
  if (outbox_.empty()) outbox_.push(relay_alive_to_offloader(), {}, {});
}

}  // namespace tempo
