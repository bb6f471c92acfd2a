#include "worker/server.h"

#include <poll.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "worker/session.h"

namespace tempo {

Status serve_offloaders(const std::vector<UnixListener>& listeners, TcpService* tcp,
                        TaskExecutor& executor, const Device& device, Serving& serving,
                        int stop_fd) {
  for (;;) {
    std::vector<pollfd> entries = {{stop_fd, POLLIN, 0}};
    entries.push_back({tcp != nullptr ? tcp->wait_fd() : -1, POLLIN, 0});
    for (const UnixListener& listener : listeners) entries.push_back({listener.fd(), POLLIN, 0});
    if (::poll(entries.data(), entries.size(), -1) < 0 && errno != EINTR) {
      return Error{ErrorCode::kIo, "poll failed", "", "", std::strerror(errno), ""};
    }
    if (entries[0].revents != 0) return {};
    SessionEnd end = SessionEnd::kPeerGone;
    if (entries[1].revents != 0) end = tcp->serve(executor, device, stop_fd);
    executor.clear();
    for (std::size_t i = 0; i < listeners.size() && end != SessionEnd::kStopped; ++i) {
      if (entries[2 + i].revents == 0) continue;
      if (!serving.claim()) {
        // Somebody from the network was faster, and will be there in a moment.
        ::poll(entries.data(), 2, 100);
        break;
      }
      if (Fd socket = listeners[i].accept(); socket.valid()) {
        end = Session(std::move(socket), executor, device, serving.served_log(), stop_fd).run();
        executor.clear();
      }
      serving.release();
    }
    if (end == SessionEnd::kStopped) return {};
  }
}

}  // namespace tempo
