// File: enclave/nn/time_ledger.h
// Wall seconds by kind of work, for the report. One thread adds; anybody may read a copy.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <string_view>

namespace tempo {

enum class TimeKind : std::size_t {
  kEncode,     // obfuscation of operands, with the check sums that ride on it
  kDecode,     // copy-in, check and decoding of results
  kCheck,      // check vectors and their products with weights
  kKeys,       // drawing keys
  kNonLinear,  // everything in the graph that is not a linear operator, and the loss
  kLinearTee,  // linear operators done inside the enclave
  kUpdate,     // optimiser
  kWaiting,    // for workers
  kData,       // reading and augmenting samples
  kCount
};
std::string_view time_kind_name(TimeKind kind);

class TimeLedger {
 public:
  void add(TimeKind kind, double seconds) { seconds_[static_cast<std::size_t>(kind)] += seconds; }
  double seconds(TimeKind kind) const { return seconds_[static_cast<std::size_t>(kind)]; }

 private:
  std::array<double, static_cast<std::size_t>(TimeKind::kCount)> seconds_{};
};

// Adds the time from construction to destruction.
class TimeScope {
 public:
  TimeScope(TimeLedger& ledger, TimeKind kind)
      : ledger_(ledger), kind_(kind), start_(std::chrono::steady_clock::now()) {}
  ~TimeScope() {
    ledger_.add(kind_,
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
  }
  TimeScope(const TimeScope&) = delete;
  TimeScope& operator=(const TimeScope&) = delete;

 private:
  TimeLedger& ledger_;
  TimeKind kind_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace tempo
