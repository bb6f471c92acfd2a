// File: lab/enclave_hooks.h
// What a product enclave must never do: draw keys from a seed, draw the same ones in every step,
// write plaintext operands to files. For experiments and tests; never part of a product program.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "enclave/job/engines.h"

namespace tempo::lab {

struct EnclaveHookOptions {
  bool seeded = false;  // keys and check vectors from `seed` instead of the CSPRNG
  std::uint64_t seed = 0;
  // Every step draws the keys and check vectors of the first one: begins the seed's numbers again.
  // With a learning rate of 0 and samples that are all the same, steps send the same bytes, as soon
  // as no product wants another round of checks any more. Implies `seeded`; workers keep the shares
  // that they were dealt.
  bool repeats_steps = false;
  // Linear operators inside with the terms of every sum in the opposite order (reordered_engine.h):
  // for jobs of --scheme plain --offload none.
  bool reorders_sums = false;
  // A JSON line for every step but the last: {"wall_ms", "cpu_ms", "queued_ms"}, from its begin to
  // that of the next one. cpu_ms: of all the program's threads; queued_ms: that the thread of the
  // steps could have run but had no core (0 where the kernel does not say). Empty: none.
  std::string step_times;
  // Waits before every step, so that a training lasts long enough for something to happen to it.
  std::chrono::milliseconds step_pause{0};
  // Appends the operands of every linear operator, in clear, to DIRECTORY/plain.f32
  // (little-endian floats) and a JSON line each to DIRECTORY/plain.jsonl:
  // {"operator", "kind" (input, weights, bias, output, d_output), "rows", "cols", "offset"
  // (bytes)}.
  std::string dump_directory;
  std::uint64_t dump_limit_bytes = std::uint64_t{1} << 30;
};

// Says on stderr what it weakens. The hooks keep what they need alive.
EnclaveHooks make_enclave_hooks(const EnclaveHookOptions& options);

}  // namespace tempo::lab
