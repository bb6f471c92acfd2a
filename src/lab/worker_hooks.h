// File: lab/worker_hooks.h
// A worker that does not do what it should: cheats, dies, stalls; or writes down all that it
// receives. For experiments and tests; never part of a product program.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "worker/hooks.h"

namespace tempo::lab {

enum class CheatColumn { kLargest, kSmallest, kRandom };

struct LabHookOptions {
  // Every so many returned products, one element (in a random row) is changed by cheat_size times
  // the root mean square of its column, as returned: that is what decoding turns into cheat_size
  // times the result's rms. All-zero columns are passed over; an all-zero result is left alone.
  std::uint64_t cheat_every = 0;  // 0: never
  double cheat_size = 0.01;
  CheatColumn cheat_column = CheatColumn::kRandom;
  // Every row of every returned product is off by an error whose norm is drift times the tolerance
  // of its check, as far as a worker can tell it: that of independent terms (freivalds.h). Rows of
  // a product are all off in one direction, drawn anew for each. What stays below the tolerance
  // passes, by design; docs/security.md says what it can add up to.
  double drift = 0;
  std::string
      cheat_log;  // a JSON line a cheat: {"cheat", "request", "row", "column", "from", "to"}

  std::uint64_t die_after = 0;    // SIGKILL in the middle of this product (1: the first); 0: never
  std::uint64_t stall_after = 0;  // sleep for ever in this product, until told to end; 0: never

  // Appends a JSON line a task to DIRECTORY/tasks.jsonl: {"request", "verb", "a", "b", "result",
  // "flags", "rows", "cols", "offset"}. offset: where its payload begins in DIRECTORY/payloads.f32
  // (little-endian floats), in bytes, or null when there is none or the limit was reached.
  std::string record_directory;
  std::uint64_t record_limit_bytes = std::uint64_t{1} << 30;  // of payloads.f32
};

// Error kIo when a file cannot be written.
Result<std::unique_ptr<WorkerHooks>> make_lab_hooks(const LabHookOptions& options);

}  // namespace tempo::lab
