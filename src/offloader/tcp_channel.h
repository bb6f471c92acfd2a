// File: offloader/tcp_channel.h
// A worker behind a TCP connection. Payloads go straight from their place to the socket, replies
// straight from the socket to theirs, on the thread of the stream's io_context; completions reach
// the caller's thread through a queue and an event.
#pragma once

#include <memory>

#include "offloader/worker_channel.h"
#include "wire/relay_frame.h"
#include "wire/relay_stream.h"

namespace tempo {

class TcpChannel final : public WorkerChannel {
 public:
  // stream: after the hello. Its io_context runs on another thread, for as long as the channel
  // lives.
  TcpChannel(RelayStream stream, const RelayLimits& limits);
  ~TcpChannel() override;  // waits until all operations have ended

  Result<bool> send(const Task& task, const std::byte* payload, std::byte* reply) override;
  Result<std::optional<Completion>> receive() override;
  int wait_fd() const override;
  bool begin_wait() override;
  Status end_wait() override;

 private:
  struct Shared;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace tempo
