#include "enclave/offload/soundness_book.h"

#include <algorithm>
#include <string>

#include "enclave/obfuscation/kernels.h"

namespace tempo {
namespace {

// Rounds are added as long as each makes a miss this many times less likely.
constexpr double kWorthwhileGain = 8;

int planned_rounds(const OpPlan& op, ProductKind kind) {
  switch (kind) {
    case ProductKind::kForward:
      return op.rounds_forward;
    case ProductKind::kWeightGradient:
      return op.rounds_weight_gradient;
    case ProductKind::kInputGradient:
      return op.rounds_input_gradient;
  }
  return 0;
}

}  // namespace

std::string_view product_kind_name(ProductKind kind) {
  switch (kind) {
    case ProductKind::kForward:
      return "forward";
    case ProductKind::kWeightGradient:
      return "weight gradient";
    case ProductKind::kInputGradient:
      return "input gradient";
  }
  return "";
}

SoundnessBook::SoundnessBook(const Plan& plan, const SoundnessGoal& goal)
    : one_check_(goal), operators_(plan.ops.size()) {
  one_check_.checks = 1;
  for (const OpPlan& op : plan.ops) {
    for (std::size_t k = 0; k < kProductKinds; ++k) {
      ProductSoundness& product = operators_[static_cast<std::size_t>(op.op.index)][k];
      product.operator_name = op.op.name;
      product.product = product_kind_name(static_cast<ProductKind>(k));
    }
  }
  adopt(plan);
}

void SoundnessBook::adopt(const Plan& plan) {
  allowed_miss_ = plan.allowed_miss;
  for (const OpPlan& op : plan.ops) {
    for (std::size_t k = 0; k < kProductKinds; ++k) {
      int& rounds = operators_[static_cast<std::size_t>(op.op.index)][k].rounds;
      rounds = std::max(rounds, planned_rounds(op, static_cast<ProductKind>(k)));
    }
  }
}

int SoundnessBook::record(const CheckedProduct& product, const CheckOutcome& outcome) {
  ProductSoundness& soundness =
      operators_[static_cast<std::size_t>(product.op)][static_cast<std::size_t>(product.kind)];
  const double tolerance = outcome.tolerance_over_rms;
  const auto miss_of = [&](int rounds) {
    return soundness_reached(tolerance, product.inner, rounds, one_check_);
  };
  const double miss = miss_of(product.rounds);
  soundness.checks += 1;
  soundness.tolerance_over_rms = std::max(soundness.tolerance_over_rms, tolerance);
  // Rows of a refused product that passed may have been kept: each had the chance of its own.
  soundness.miss += outcome.passed ? miss : miss * static_cast<double>(product.rows);
  if (miss > allowed_miss_ && soundness.rounds == product.rounds && product.rounds < kMaxRounds &&
      miss_of(product.rounds + 1) * kWorthwhileGain <= miss) {
    soundness.rounds += 1;
  }
  return soundness.rounds;
}

void SoundnessBook::report(std::vector<ProductSoundness>& out) const {
  for (const OperatorSoundness& op : operators_) {
    std::copy_if(op.begin(), op.end(), std::back_inserter(out),
                 [](const ProductSoundness& product) { return product.checks > 0; });
  }
}

}  // namespace tempo
