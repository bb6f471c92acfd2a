// File: enclave/offload/engine_stats.h
// What the offload engine did in one job, for the report. Leaves the enclave on the client's
// channel only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "wire/tamper.h"

namespace tempo {

struct WorkerStats {
  std::string device;  // the worker's own claim, sanitised
  std::uint64_t tasks = 0;
  std::uint64_t products = 0;  // results that passed their checks
  std::uint64_t tampered = 0;  // results that failed them
  double multiply_adds = 0;    // of all products that it answered
  bool lost = false;           // gone before the end
};

struct EngineEvent {
  enum class Kind { kTampered, kLost, kJoined } kind = Kind::kLost;
  int worker = -1;  // -1: the off-loader itself
  std::string operator_name;
  std::string detail;  // which product, why
  std::uint64_t step = 0;
  std::optional<TamperRecord> tamper{};  // kTampered
};

// The measured side of the soundness bound, by operator and product.
struct ProductSoundness {
  std::string operator_name;
  std::string product;            // "forward", "weight gradient", "input gradient"
  int rounds = 0;                 // at the end
  double tolerance_over_rms = 0;  // CheckOutcome's, largest of all checks
  std::uint64_t checks = 0;
  double miss = 0;  // chance that any of these checks missed an error of the goal's size, at most
};

struct EngineStats {
  std::uint64_t bytes_to_workers = 0;
  std::uint64_t bytes_from_workers = 0;
  std::uint64_t checks_done = 0;  // products checked
  std::uint64_t checks_failed = 0;
  int rounds = 0;            // largest of any product
  double worker_gemm_s = 0;  // the workers' own claim
  std::vector<WorkerStats> workers;
  std::vector<EngineEvent> events;  // at most kMaxEvents, and refusals; later ones are only counted
  std::uint64_t events_dropped = 0;
  std::vector<ProductSoundness> soundness;
  double checks_planned = 0;  // what the goal was shared between: products and steps of all plans
  double soundness_reached = 0;  // t, at the size of the goal; 0 when nothing was checked

  static constexpr std::size_t kMaxEvents = 1000;
};

}  // namespace tempo
