#include "worker/server.h"

#include <poll.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "worker/session.h"
#include "worker/task_executor.h"

namespace tempo {

Status serve_offloaders(const UnixListener& listener, Device& device, const StoreLimits& limits,
                        WorkerHooks* hooks, int stop_fd) {
  TaskExecutor executor(device, limits, hooks);
  for (;;) {
    pollfd entries[2] = {{stop_fd, POLLIN, 0}, {listener.fd(), POLLIN, 0}};
    if (::poll(entries, 2, -1) < 0 && errno != EINTR) {
      return Error{ErrorCode::kIo, "poll failed", "", "", std::strerror(errno), ""};
    }
    if (entries[0].revents != 0) return {};
    if (entries[1].revents == 0) continue;
    Fd socket = listener.accept();
    if (!socket.valid()) continue;
    const SessionEnd end = Session(std::move(socket), executor, device, stop_fd).run();
    executor.clear();
    if (end == SessionEnd::kStopped) return {};
  }
}

}  // namespace tempo
