// File: lab/enclave_hooks.h
// What a product enclave must never do: draw keys from a seed, write plaintext operands to files.
// For experiments and tests; never part of a product program.
#pragma once

#include <cstdint>
#include <string>

#include "enclave/job/engines.h"

namespace tempo::lab {

struct EnclaveHookOptions {
  bool seeded = false;  // keys and check vectors from `seed` instead of the CSPRNG
  std::uint64_t seed = 0;
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
