// File: enclave/schemes/scheme.h
// A scheme says how the operands of a linear operator are protected. All offloading schemes run
// through the same tiles, transport and checks; they differ in the keys.
#pragma once

#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "enclave/obfuscation/key.h"

namespace tempo {

enum class Scheme {
  kLocal,  // everything inside the enclave: the paper's Pure TEE
  // Offloaded in clear: the non-private baseline, with checked results. Rows and columns are
  // shuffled all the same: the check's tolerance holds for sums in random order, and data that is
  // sorted (or has a constant background) would raise false alarms.
  kPlain,
  kTempo,  // the paper's MM-obfuscation, fresh keys for every operator and step
};

// Error kUsage names the schemes that exist.
Result<Scheme> parse_scheme(std::string_view name);
std::string_view scheme_name(Scheme scheme);
// One line for users: what it protects and what not.
std::string_view scheme_statement(Scheme scheme);
inline bool offloads(Scheme scheme) {
  return scheme != Scheme::kLocal;
}

// For users who allow the keys of weights to be reused.
inline constexpr std::string_view kKeyReuseWarning =
    "--insecure-key-reuse: the weights' keys stay the same for the whole job; a worker that "
    "records "
    "its traffic can recover model and inputs from a few batches (docs/security.md)";

// Keys of one linear operator for one step: n for all its tiles, m for every slice of
// out-features, p over all positions (its tiles are ranges of encoded positions).
struct OperatorKeys {
  AxisKey n;
  AxisKey p;
  std::vector<AxisKey> m;
};

OperatorKeys draw_keys(Scheme scheme, RandomSource& random, const CoefficientSpace& space,
                       std::size_t n, std::size_t p, const std::vector<std::size_t>& m_slices);

}  // namespace tempo
