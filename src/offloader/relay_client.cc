#include "offloader/relay_client.h"

#include <string>
#include <utility>

namespace tempo {
namespace {

Error violation(const char* what) {
  return {
      ErrorCode::kProtocol, std::string("the worker broke the protocol: ") + what, "", "", "", ""};
}

}  // namespace

bool RelayClient::submit(const Task& task, const std::byte* payload, std::byte* reply) {
  Open open{task, reply, queued_tasks_, false};
  const std::uint64_t cost = relay_cost(task);
  const std::uint64_t bytes = task.payload_bytes() + task.reply_bytes();
  if (cost > limits_.window_bytes || bytes > limits_.max_payload_bytes) {
    open.refused = true;
    open_.push_back(open);
    complete_refused();
    return true;
  }
  if (open_.size() >= limits_.max_tasks || cost > limits_.window_bytes - cost_) return false;
  Task sent = task;
  sent.payload_slab = 0;  // what only the ring knows
  sent.reply_slab = 0;
  sent.epoch = 0;
  outbox_.push(encode_relay_task(sent), {payload, task.payload_bytes()}, true);
  open_.push_back(open);
  cost_ += cost;
  ++queued_tasks_;
  return true;
}

std::optional<Completion> RelayClient::take() {
  if (completed_.empty()) return std::nullopt;
  const Completion completion = completed_.front();
  completed_.pop_front();
  return completion;
}

std::span<std::byte> RelayClient::want_read() {
  if (!reply_left_.empty()) return reply_left_;
  return std::span(head_).subspan(head_bytes_);
}

Status RelayClient::did_read(std::size_t bytes) {
  if (!reply_left_.empty()) {
    reply_left_ = reply_left_.subspan(bytes);
    if (reply_left_.empty()) complete(current_);
    return {};
  }
  head_bytes_ += bytes;
  if (head_bytes_ < head_.size()) return {};
  head_bytes_ = 0;
  const auto done = decode_relay_done(head_);
  if (!done) return done.error();
  return done->has_value() ? begin_reply(**done) : Status();
}

Status RelayClient::begin_reply(const Completion& done) {
  // A task that is still being written has not been done, whatever the worker says: its payload's
  // memory must not be used again yet.
  if (open_.empty() || open_.front().task.request != done.request || awaits_own_write()) {
    return violation("a completion out of order");
  }
  Completion completion = done;
  switch (completion.status) {
    case TaskStatus::kOk:
      break;
    case TaskStatus::kOutOfMemory:
    case TaskStatus::kUnknownId:
    case TaskStatus::kBadTask:
      completion.bytes = 0;
      complete(completion);
      return {};
    default:
      return violation("unknown status");
  }
  const std::uint64_t bytes = open_.front().task.reply_bytes();
  if (completion.bytes != bytes) return violation("a reply of the wrong length");
  if (bytes == 0) {
    complete(completion);
  } else {
    current_ = completion;
    reply_left_ = {open_.front().reply, bytes};
  }
  return {};
}

void RelayClient::complete(const Completion& completion) {
  cost_ -= relay_cost(open_.front().task);
  open_.pop_front();
  completed_.push_back(completion);
  complete_refused();
}

void RelayClient::complete_refused() {
  while (!open_.empty() && open_.front().refused) {
    const Task& task = open_.front().task;
    completed_.push_back({task.request, TaskStatus::kOutOfMemory, 0, 0,
                          task.payload_bytes() + task.reply_bytes() - limits_.max_payload_bytes});
    open_.pop_front();
  }
}

RelayWrites RelayClient::want_write() const {
  return outbox_.writes();
}

void RelayClient::did_write(std::size_t bytes) {
  outbox_.wrote(bytes, [this](bool is_task) { written_tasks_ += is_task ? 1 : 0; });
}

bool RelayClient::awaits_own_write() const {
  return !open_.empty() && open_.front().number >= written_tasks_;
}

void RelayClient::say_alive() {
  if (outbox_.empty()) outbox_.push(relay_alive_to_worker(), {}, false);
}

}  // namespace tempo
