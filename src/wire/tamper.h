// File: wire/tamper.h
// What a refused result of a worker was: for the report and the progress of the job that it belongs
// to. It tells of model and data, and leaves the enclave on the client's channel only.
// Thread safety: plain values.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tempo {

struct TamperRecord {
  std::string product;        // "forward", "weight gradient", "input gradient"
  std::int64_t instance = 0;  // of products of two activations: which head of which sample
  // The tile: [begin, end) of the operator's positions, in the secret order in which they were
  // sent, and of its out-features.
  std::int64_t positions_begin = 0;
  std::int64_t positions_end = 0;
  std::int64_t features_begin = 0;
  std::int64_t features_end = 0;
  std::uint64_t rows = 0;          // of the result
  std::uint64_t refused_rows = 0;  // of these
  int rounds = 0;
  // Of the row that is furthest off, in units of the result's rms: an estimate of its error's norm
  // (row_deviation() in enclave/integrity/freivalds.h), and what it was allowed. Infinite where the
  // result is not a number.
  double deviation = 0;
  double tolerance = 0;
};

// Adds the members to an object: "product", "instance", "positions" and "out_features" as lists of
// two, "rows", "refused_rows", "rounds", "deviation", "tolerance". What is infinite becomes null.
void add_tamper(const TamperRecord& tamper, nlohmann::ordered_json& object);

// "forward product, positions 0 to 511 by out-features 0 to 63: 1 of 512 rows off by up to 0.012 of
// the rms, where 2.1e-05 is allowed"
std::string tamper_text(const TamperRecord& tamper);

}  // namespace tempo
