// File: enclave/offload/soundness_book.h
// What the checks of one plan's products have come to: how many, how many rounds each kind of
// product gets, and the chance that any of them missed an error of the goal's size. The plan
// chooses rounds for results whose terms add up as independent ones do; where they cancel, the
// tolerance is larger against the result, and vectors drawn from then on get another round.
// Thread safety: one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "enclave/integrity/soundness.h"
#include "enclave/offload/engine_stats.h"
#include "enclave/offload/plan.h"
#include "enclave/offload/tile_passes.h"

namespace tempo {

enum class ProductKind { kForward, kWeightGradient, kInputGradient };
inline constexpr std::size_t kProductKinds = 3;
std::string_view product_kind_name(ProductKind kind);  // "forward", "weight gradient", ...

// A product that got its verdict.
struct CheckedProduct {
  int op = 0;  // LinearOp::index
  ProductKind kind = ProductKind::kForward;
  int rounds = 0;          // of the vectors that it was judged with
  std::int64_t inner = 0;  // length of the dot products
  std::size_t rows = 0;
};

class SoundnessBook {
 public:
  // goal: options.goal of the plan; its `checks` are the plan's.
  SoundnessBook(const Plan& plan, const SoundnessGoal& goal);

  // The same operators, dealt again: rounds rise to what it asks for, and never fall.
  void adopt(const Plan& plan);

  // For check vectors that are drawn now.
  int rounds(int op, ProductKind kind) const { return at(op, kind).rounds; }

  // Counts a check and its chance of a miss. Gives the rounds that the product has from now on.
  int record(const CheckedProduct& product, const CheckOutcome& outcome);

  // Appends the products that were checked.
  void report(std::vector<ProductSoundness>& out) const;

 private:
  using OperatorSoundness = std::array<ProductSoundness, kProductKinds>;
  const ProductSoundness& at(int op, ProductKind kind) const {
    return operators_[static_cast<std::size_t>(op)][static_cast<std::size_t>(kind)];
  }

  SoundnessGoal one_check_;  // the goal, for a single check
  double allowed_miss_ = 1;  // chance that one check misses what it must catch, at most
  std::vector<OperatorSoundness> operators_;  // by LinearOp::index
};

}  // namespace tempo
