// Both ends of the relay's protocol, each against a hostile peer. The first byte says which: frames
// of the script's, mostly sensible, or raw bytes of it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <vector>

#include "base/error.h"
#include "fuzz/script_reader.h"
#include "offloader/relay_client.h"
#include "worker/relay_server.h"

namespace tempo::fuzz {
namespace {

constexpr RelayLimits kLimits{8 * 4096, 4 * 4096, 6};

// As much as the core has a place for. False: it broke off.
bool arrive(RelayCore& core, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto place = core.want_read();
    if (place.empty()) return true;
    const std::size_t n = std::min(place.size(), bytes.size());
    std::memcpy(place.data(), bytes.data(), n);
    bytes = bytes.subspan(n);
    if (!core.did_read(n).ok()) return false;
  }
  return true;
}

std::vector<std::byte> raw(ScriptReader& script) {
  std::vector<std::byte> bytes(script.below(512));
  for (std::byte& b : bytes) b = std::byte{script.read<std::uint8_t>()};
  return bytes;
}

void write_some(RelayCore& core, ScriptReader& script) {
  const RelayWrites writes = core.want_write();
  if (writes.count == 0) return;
  core.did_write(1 + script.below(static_cast<std::uint32_t>(writes.spans[0].size())));
}

Task make_task(ScriptReader& script) {
  Task task;
  task.request = script.below(8);
  task.verb = static_cast<Verb>(script.below(6));
  task.flags = script.below(40);
  task.rows = script.below(64);
  task.cols = script.below(128);
  if (script.read<std::uint8_t>() % 16 == 0) task.rows = script.read<std::uint32_t>();
  if (script.read<std::uint8_t>() % 16 == 0) task.cols = script.read<std::uint32_t>();
  if (task.verb == Verb::kPut || task.verb == Verb::kDrop) task.flags = 0;
  return task;
}

void attack_worker(ScriptReader& script) {
  static const RelayMemory memory = RelayMemory::reserve(kLimits.window_bytes).value();
  RelayServer server(kLimits, memory.bytes());
  std::deque<RelayServer::Job> jobs;
  for (bool broken = false; !broken && !script.done();) {
    switch (script.read<std::uint8_t>() % 6) {
      case 0: {
        const Task task = make_task(script);
        broken = !arrive(server, encode_relay_task(task));
        break;
      }
      case 1:
        broken = !arrive(server, raw(script));
        break;
      case 2:  // a long payload
        broken = !arrive(server, std::vector<std::byte>(script.below(20000)));
        break;
      case 3:
        if (const auto job = server.take()) jobs.push_back(*job);
        TEMPO_ASSERT(jobs.size() <= kLimits.max_tasks);
        break;
      case 4: {
        if (jobs.empty()) break;
        const RelayServer::Job job = jobs.front();
        jobs.pop_front();
        const std::uint64_t bytes = job.task.reply_bytes();
        if (bytes > 0) std::memset(job.reply, 1, bytes);
        const bool ok = script.below(4) > 0;
        server.finish(job, {job.task.request, ok ? TaskStatus::kOk : TaskStatus::kUnknownId, 0,
                            ok ? bytes : 0, 0});
        break;
      }
      default:
        write_some(server, script);
        if (script.below(4) == 0) server.say_alive();
    }
  }
}

void attack_offloader(ScriptReader& script) {
  RelayClient client(kLimits);
  struct Sent {
    Task task;
    std::vector<std::byte> payload, reply;  // of the exact sizes: ASan sees a byte too many
  };
  std::deque<Sent> sent;
  std::uint64_t next = 1;
  for (bool broken = false; !broken && !script.done();) {
    switch (script.read<std::uint8_t>() % 6) {
      case 0: {
        Task task;
        task.request = next;
        task.verb = static_cast<Verb>(1 + script.below(3));
        task.flags = task.verb == Verb::kMultiply ? static_cast<std::uint32_t>(kReturn) : 0;
        task.rows = 1 + script.below(64);
        task.cols = 1 + script.below(128);
        sent.push_back({task, std::vector<std::byte>(task.payload_bytes()),
                        std::vector<std::byte>(task.reply_bytes())});
        if (client.submit(task, sent.back().payload.data(), sent.back().reply.data())) {
          ++next;
        } else {
          sent.pop_back();
        }
        break;
      }
      case 1:
        broken = !arrive(client, raw(script));
        break;
      case 2:  // a long reply
        broken = !arrive(client, std::vector<std::byte>(script.below(20000)));
        break;
      case 3: {
        const bool fits = !sent.empty() && script.below(8) > 0;
        broken = !arrive(
            client, encode_relay_done(
                        {fits ? sent.front().task.request : script.below(16),
                         static_cast<TaskStatus>(script.below(6)), 0,
                         fits ? sent.front().task.reply_bytes() : 4ULL * script.below(5000), 0}));
        break;
      }
      case 4: {
        const auto done = client.take();
        if (!done) break;
        TEMPO_ASSERT(!sent.empty() && sent.front().task.request == done->request);
        TEMPO_ASSERT(done->status != TaskStatus::kOk ||
                     done->bytes == sent.front().task.reply_bytes());
        sent.pop_front();
        break;
      }
      default:
        write_some(client, script);
        if (script.below(4) == 0) client.say_alive();
    }
  }
}

// Hellos: any bytes, and what is accepted lies within the bounds.
void attack_hello(ScriptReader& script) {
  RelayHelloFrame hello = encode_relay_hello();
  RelayWelcomeFrame welcome = encode_relay_welcome({});
  for (int i = 0; i < 4; ++i) {
    hello[script.below(hello.size())] = std::byte{script.read<std::uint8_t>()};
    welcome[script.below(welcome.size())] = std::byte{script.read<std::uint8_t>()};
  }
  (void)decode_relay_hello(hello).ok();
  const auto got = decode_relay_welcome(welcome);
  if (!got) return;
  TEMPO_ASSERT(got->limits.window_bytes <= kMaxRelayWindow);
  TEMPO_ASSERT(got->limits.max_payload_bytes <= got->limits.window_bytes);
  TEMPO_ASSERT(got->limits.max_tasks >= 1 && got->limits.max_tasks <= kMaxRelayTasks);
  TEMPO_ASSERT(got->worker.device[sizeof(got->worker.device) - 1] == 0);
}

}  // namespace
}  // namespace tempo::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tempo;
  fuzz::ScriptReader script(data, size);
  switch (script.read<std::uint8_t>() % 3) {
    case 0:
      fuzz::attack_worker(script);
      break;
    case 1:
      fuzz::attack_offloader(script);
      break;
    default:
      fuzz::attack_hello(script);
  }
  return 0;
}
