// File: enclave/integrity/check_rig.h
// One layer's three products done as an engine and an honest worker do them, real keys, kernels and
// checks included, with a hand to tamper with the results. For tests and measuring programs; not
// part of the product.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/random.h"
#include "enclave/integrity/freivalds.h"
#include "enclave/obfuscation/key.h"
#include "enclave/obfuscation/seeded_random.h"

namespace tempo {

// W is m x n, X p x n, D p x m, all positions or out-features by features.
struct LayerShape {
  std::size_t m = 1;
  std::size_t n = 1;
  std::size_t p = 1;
};

enum class DataKind {
  kNormal,       // all normal
  kRectified,    // X a ReLU's output, D sparse
  kHeavyTailed,  // a few values a thousand times the rest
  kCancelling,   // the second half of every dot product all but undoes the first
  kConstant,     // all ones: errors and products add up coherently
  kSmall,        // D around 1e-12
  kVanishing,    // D around 1e-36, where float32 underflows
};
inline constexpr int kDataKinds = 7;

enum class Product { kForward, kWeightGradient, kInputGradient };  // Z, dW, dX
inline constexpr Product kProducts[] = {Product::kForward, Product::kWeightGradient,
                                        Product::kInputGradient};

struct RowCheck {
  double worst = 0;  // largest |P| over the rounds; NaN if any is
  double tolerance = 0;
  double operand_squared = 0;
  double result_squared = 0;
  bool accepted = false;
};

class CheckRig {
 public:
  // Draws data and keys, encodes, multiplies.
  CheckRig(SeededRandom& random, const LayerShape& shape, DataKind data,
           const CoefficientSpace& space);

  std::size_t rows(Product product) const { return of(product).row_key->size(); }
  std::size_t columns(Product product) const { return of(product).column_key->size(); }
  std::int64_t inner(Product product) const { return of(product).inner; }
  // Of the decoded result.
  double rms(Product product) const;

  // Checks encoded row `row`, or every row, with fresh vectors. Results by encoded row.
  std::vector<RowCheck> check(Product product, int rounds, CheckDistribution distribution,
                              RandomSource& random, std::optional<std::size_t> row = {}) const;

  // The encoded column with the largest decoding factor: there the smallest change of what the
  // worker returns makes the largest error.
  std::size_t hardest_column(Product product) const;
  // The encoded element, to be tampered with, and what turns it into the decoded one.
  float& element(Product product, std::size_t row, std::size_t column);
  double decoding_factor(Product product, std::size_t row, std::size_t column) const;

 private:
  struct Result {
    const AxisKey* row_key = nullptr;
    const AxisKey* column_key = nullptr;
    const std::vector<float>* row_factor = nullptr;     // decoding, by encoded index
    const std::vector<float>* column_factor = nullptr;  // decoding, by encoded index
    std::int64_t inner = 0;
    std::vector<float> values;  // encoded
  };
  struct Expected {
    std::vector<double> sums;       // rows x rounds, encoded rows
    std::vector<double> magnitude;  // encoded rows
  };

  const Result& of(Product product) const { return results_[static_cast<std::size_t>(product)]; }
  Result& of(Product product) { return results_[static_cast<std::size_t>(product)]; }
  // vectors: rounds x columns, natural order.
  Expected expected_rows(Product product, int rounds, const std::vector<float>& vectors,
                         std::optional<std::size_t> row) const;
  Expected expected_weight_gradient(int rounds, const std::vector<float>& vectors) const;

  LayerShape shape_;
  KeyTriple key_;
  std::vector<float> w_;
  std::vector<float> x_;
  std::vector<float> d_;
  std::vector<Result> results_;
};

}  // namespace tempo
