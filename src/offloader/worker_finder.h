// File: offloader/worker_finder.h
// Finds workers, and finds them again: connects to every address, exchanges the hello, and after a
// loss goes on trying, at growing intervals with jitter. A file of addresses is watched.
//
// One thread does this for all addresses, and moves the bytes of all TcpChannels: a core moves more
// than an enclave encodes, and a thread more would take the enclave's or a local worker's core.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "offloader/tcp_channel.h"
#include "wire/fd.h"
#include "wire/task.h"
#include "wire/tls.h"
#include "wire/worker_address.h"

namespace tempo {

struct WorkerList {
  std::vector<WorkerAddress> addresses;
  std::vector<std::string> files;  // of addresses, one a line; watched
  TlsFiles tls;
};

// "tcp://HOST:PORT", "unix:PATH" and "file:PATH", one a text. Error kUsage (also for more than
// kMaxWorkers).
Result<WorkerList> parse_worker_list(const std::vector<std::string>& texts);
// The addresses of a file's content; # begins a comment. Error kUsage names the line.
Result<std::vector<WorkerAddress>> parse_address_file(const std::string& content,
                                                      const std::string& path);

// What happened to the worker of an address. An address keeps its id as long as the finder lives.
struct WorkerNews {
  std::size_t id = 0;
  std::string address;
  // Found: after the hello, one of the two. Neither: it is not to be used any more.
  Fd local;
  std::unique_ptr<TcpChannel> remote;
  WorkerInfo info;

  bool found() const { return local.valid() || remote != nullptr; }
};

class WorkerFinder {
 public:
  // Begins to look. Errors: kUsage (TLS files or addresses in a file), kNotFound (a file).
  static Result<std::unique_ptr<WorkerFinder>> start(const WorkerList& list);
  // The channels that it made must be gone.
  ~WorkerFinder();

  // The rest: one thread at a time.
  // Readable when there are news.
  int wait_fd() const;
  std::optional<WorkerNews> take();
  // The worker's channel has failed: look for it again.
  void lost(std::size_t id);
  // How many addresses there are now, and how many of them on this host.
  std::size_t wanted() const;
  std::size_t wanted_local() const;

 private:
  class Impl;
  explicit WorkerFinder(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace tempo
