#include "offloader/tcp_channel.h"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "offloader/relay_client.h"
#include "wire/event.h"
#include "wire/relay_pump.h"

namespace tempo {

struct TcpChannel::Shared {
  explicit Shared(const RelayLimits& limits) : client(limits) {}

  std::mutex mutex;
  RelayClient client;
  std::optional<Error> ended;  // why; all operations have ended then
  std::condition_variable end;
  Event news;            // a completion, or the end
  bool waiting = false;  // for news
  std::shared_ptr<RelayPump> pump;
};

TcpChannel::TcpChannel(RelayStream stream, const RelayLimits& limits)
    : shared_(std::make_shared<Shared>(limits)) {
  RelayPump::Hooks hooks;
  // The pump lets go of its hooks when it ends, and so of what they refer to.
  hooks.on_progress = [shared = shared_] {
    const std::lock_guard lock(shared->mutex);
    if (shared->waiting && shared->client.has_completion()) shared->news.raise();
  };
  hooks.on_end = [shared = shared_](const Error& why) {
    const std::lock_guard lock(shared->mutex);
    shared->ended = why;
    shared->news.raise();
    shared->end.notify_all();
  };
  shared_->pump = std::make_shared<RelayPump>(std::move(stream), shared_->client, shared_->mutex,
                                              std::move(hooks));
  shared_->pump->start();
}

TcpChannel::~TcpChannel() {
  shared_->pump->close();
  std::unique_lock lock(shared_->mutex);
  shared_->end.wait(lock, [&] { return shared_->ended.has_value(); });
  shared_->pump.reset();
}

Result<bool> TcpChannel::send(const Task& task, const std::byte* payload, std::byte* reply) {
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->ended) return *shared_->ended;
    if (!shared_->client.submit(task, payload, reply)) return false;
  }
  shared_->pump->wake();
  return true;
}

Result<std::optional<Completion>> TcpChannel::receive() {
  const std::lock_guard lock(shared_->mutex);
  // What was completed before the end still counts.
  if (auto completion = shared_->client.take()) return completion;
  if (shared_->ended) return *shared_->ended;
  return std::optional<Completion>();
}

int TcpChannel::wait_fd() const {
  return shared_->news.fd();
}

bool TcpChannel::begin_wait() {
  shared_->news.clear();
  const std::lock_guard lock(shared_->mutex);
  shared_->waiting = true;
  return !shared_->client.has_completion() && !shared_->ended;
}

Status TcpChannel::end_wait() {
  const std::lock_guard lock(shared_->mutex);
  shared_->waiting = false;
  if (shared_->ended && !shared_->client.has_completion()) return *shared_->ended;
  return {};
}

}  // namespace tempo
