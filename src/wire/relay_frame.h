// File: wire/relay_frame.h
// The relay's protocol: what an off-loader and a worker say to each other over TCP, with or without
// TLS. Integers are little-endian. There is no length in it to believe: every frame has a fixed
// size, and what follows one has the length that its task says.
//
//   off-loader -> worker   RelayHello    once, within kRelayHelloMs of the connection
//   worker -> off-loader   RelayWelcome  once; unless it says kServed, the connection ends
//   off-loader -> worker   RelayTask     kTask: payload_bytes() of payload follow
//   worker -> off-loader   RelayDone     kDone: reply_bytes() of reply follow, if kOk
//   both                   kAlive        the same frames, otherwise zero, when nothing else was
//                                        sent for kRelayAliveMs
//
// Both ends say kAlive of themselves, rather than answer a ping: a long payload on a slow link
// cannot be interrupted for a question, and the other direction is free all the while. Nothing at
// all for kRelaySilenceMs: the peer is lost.
//
// Credit: the relay_cost() of all tasks that were sent and not answered never exceeds the window
// that the worker offered, nor their number its max_tasks. Answers come in the order of the tasks.
//
// Decoders take any bytes and answer with an error of code kProtocol, never more.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/error.h"
#include "wire/task.h"

namespace tempo {

inline constexpr std::uint32_t kRelayVersion = 1;

inline constexpr int kRelayHelloMs = 1000;
inline constexpr int kRelayAliveMs = 1000;
inline constexpr int kRelaySilenceMs = 3000;

enum class RelayAnswer : std::uint32_t {
  kServed = 1,
  kBusy = 2,          // another off-loader is served
  kOtherVersion = 3,  // RelayWelcome::version says which one the worker speaks
};

enum ElementTypes : std::uint32_t {
  kFloat32 = 1U << 0,
};

// What a worker offers.
struct RelayLimits {
  std::uint64_t window_bytes = std::uint64_t{256} << 20;       // payloads and replies under way
  std::uint64_t max_payload_bytes = std::uint64_t{256} << 20;  // of one task, either way
  std::uint32_t max_tasks = 1024;                              // under way
};

inline constexpr std::uint64_t kRelayBlockBytes = 4096;
inline constexpr std::uint64_t kMaxRelayWindow = std::uint64_t{1} << 40;
inline constexpr std::uint32_t kMaxRelayTasks = 65536;

// Of the window: what the worker keeps for a task, in whole blocks. Precondition: task_ok().
inline std::uint64_t relay_cost(const Task& task) {
  const std::uint64_t bytes = task.payload_bytes() + task.reply_bytes();
  return (bytes + kRelayBlockBytes - 1) / kRelayBlockBytes * kRelayBlockBytes;
}

struct RelayWelcome {
  RelayAnswer answer = RelayAnswer::kServed;
  std::uint32_t version = kRelayVersion;
  std::uint32_t element_types = kFloat32;
  RelayLimits limits;
  WorkerInfo worker;
};

enum class RelayKind : std::uint32_t { kAlive = 1, kTask = 2, kDone = 3 };

inline constexpr std::size_t kRelayHelloBytes = 32;
inline constexpr std::size_t kRelayWelcomeBytes = 128;
inline constexpr std::size_t kRelayTaskBytes = 8 + sizeof(Task);
inline constexpr std::size_t kRelayDoneBytes = 8 + sizeof(Completion);

using RelayHelloFrame = std::array<std::byte, kRelayHelloBytes>;
using RelayWelcomeFrame = std::array<std::byte, kRelayWelcomeBytes>;
using RelayTaskFrame = std::array<std::byte, kRelayTaskBytes>;
using RelayDoneFrame = std::array<std::byte, kRelayDoneBytes>;

RelayHelloFrame encode_relay_hello(std::uint32_t version = kRelayVersion);
// The version that the off-loader speaks.
Result<std::uint32_t> decode_relay_hello(const RelayHelloFrame& frame);

RelayWelcomeFrame encode_relay_welcome(const RelayWelcome& welcome);
// The limits lie within the bounds above, the text is printable and zero-terminated. Error also
// when the worker says anything but kServed, or knows no element type of ours.
Result<RelayWelcome> decode_relay_welcome(const RelayWelcomeFrame& frame);

RelayTaskFrame encode_relay_task(const Task& task);
RelayTaskFrame relay_alive_to_worker();
// Nothing: kAlive. What the task asks is for the caller to check (task_ok).
Result<std::optional<Task>> decode_relay_task(const RelayTaskFrame& frame);

RelayDoneFrame encode_relay_done(const Completion& completion);
RelayDoneFrame relay_alive_to_offloader();
Result<std::optional<Completion>> decode_relay_done(const RelayDoneFrame& frame);

}  // namespace tempo
