#include "enclave/offload/tile_passes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/buffer.h"
#include "enclave/obfuscation/kernels.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

constexpr std::size_t kMinChunkRows = 64;
constexpr std::int64_t kColumnGrain = 256;
constexpr std::int64_t kBlockRows = 256;  // rows of a product done inside at a time

// Rows of n that a thread takes at a time: waking one for less costs more than it does.
std::int64_t row_grain(std::size_t n, std::int64_t least) {
  constexpr std::int64_t kMinChunkElements = 16384;
  return std::max(least, kMinChunkElements / static_cast<std::int64_t>(n));
}

// The pointers that a CheckRow wants, over rounds x columns values.
class RoundPointers {
 public:
  void append(const std::vector<float>& values, int rounds, std::size_t columns) {
    for (int k = 0; k < rounds; ++k) pointers_[count_++] = values.data() + k * columns;
  }
  CheckRow row(const float* square_weights) const {
    return {count_, pointers_.data(), square_weights};
  }

 private:
  std::array<const float*, 2 * kMaxRounds> pointers_{};
  int count_ = 0;
};

std::vector<float> draw_vectors(RandomSource& random, CheckDistribution distribution, int rounds,
                                std::size_t columns) {
  std::vector<float> vectors(rounds * columns);
  draw_check_vector(random, distribution, vectors);
  return vectors;
}

// result[k][e] = natural[k][pi(e)] * factor(e)
void fold_result_vectors(const std::vector<float>& natural, const AxisKey& key,
                         const std::vector<float>& factor, ProductChecks& checks) {
  const std::size_t columns = key.size();
  checks.result.resize(checks.rounds * columns);
  checks.result_squares.resize(columns);
  for (int k = 0; k < checks.rounds; ++k) {
    for (std::size_t e = 0; e < columns; ++e) {
      checks.result[k * columns + e] = natural[k * columns + key.permutation[e]] * factor[e];
    }
  }
  for (std::size_t e = 0; e < columns; ++e) checks.result_squares[e] = factor[e] * factor[e];
}

// In natural order: factor of the encoded index at which column j lies.
std::vector<float> natural_factors(const AxisKey& key, const std::vector<float>& factor) {
  std::vector<float> natural(key.size());
  for (std::size_t j = 0; j < key.size(); ++j) natural[j] = factor[key.inverse[j]];
  return natural;
}

float* row_of(std::byte* base, std::size_t row, std::size_t columns) {
  return reinterpret_cast<float*>(base) + row * columns;
}

const std::byte* row_of(const std::byte* base, std::size_t row, std::size_t columns) {
  return base + row * columns * sizeof(float);
}

// A row over all columns: where it lies in one piece, or copied to `scratch`.
const float* row_of(const std::vector<Columns>& columns, std::size_t row, float* scratch) {
  if (columns.size() == 1) return columns[0].data + row * columns[0].stride;
  float* to = scratch;
  for (const Columns& piece : columns) {
    to = std::copy_n(piece.data + row * piece.stride, piece.width, to);
  }
  return scratch;
}

// The inverse.
void write_row(const float* from, const std::vector<OutputColumns>& columns, std::size_t row) {
  for (const OutputColumns& piece : columns) {
    std::copy_n(from, piece.width, piece.data + row * piece.stride);
    from += piece.width;
  }
}

// The biases of all columns, zeros where a piece has none; empty when no piece has one.
std::vector<float> bias_of(const std::vector<OutputColumns>& columns, std::size_t features) {
  if (std::ranges::all_of(columns, [](const OutputColumns& c) { return c.bias == nullptr; })) {
    return {};
  }
  std::vector<float> bias(features);
  float* to = bias.data();
  for (const OutputColumns& piece : columns) {
    if (piece.bias != nullptr) std::copy_n(piece.bias, piece.width, to);
    to += piece.width;
  }
  return bias;
}

// The columns of a row that an n-slice has.
const float* pick(const float* row, const std::vector<std::uint32_t>& columns, float* scratch) {
  for (std::size_t j = 0; j < columns.size(); ++j) scratch[j] = row[columns[j]];
  return scratch;
}
// The inverse, added.
void add_to_columns(const float* row, const std::vector<std::uint32_t>& columns, float* to) {
  for (std::size_t j = 0; j < columns.size(); ++j) to[columns[j]] += row[j];
}

// Rows of X and of dX; of an n-slice, its columns of them.
class InputRows {
 public:
  explicit InputRows(const TileContext& context)
      : im2col_{context.geometry}, subset_(context.n_key->subset) {}

  // `scratch`: n_key->size() floats.
  const float* gather(const float* input, std::int64_t position, float* scratch) const {
    const float* const row = im2col_.gather(input, position, scratch);
    return subset_.empty() ? row : pick(row, subset_, scratch);  // only where rows lie in X
  }
  void scatter_add(const float* row, std::int64_t position, float* d_input) const {
    if (subset_.empty()) return im2col_.scatter_add(row, position, d_input);
    add_to_columns(row, subset_, d_input + position * im2col_.geometry->n());
  }
  // dX's row is where it lies.
  bool is_direct() const { return im2col_.geometry->is_direct() && subset_.empty(); }

 private:
  const Im2colRows im2col_;
  const std::vector<std::uint32_t>& subset_;
};

// Rows of W; of an n-slice, copies of its columns of them. One thread.
class WeightRow {
 public:
  explicit WeightRow(const TileContext& context)
      : subset_(context.n_key->subset), scratch_(subset_.size()) {}
  const float* operator()(const float* row) {
    return subset_.empty() ? row : pick(row, subset_, scratch_.data());
  }

 private:
  const std::vector<std::uint32_t>& subset_;
  AlignedBuffer<float> scratch_;
};

// W of a slice as products inside want it: rows of each piece follow each other.
class WeightBlock {
 public:
  WeightBlock(const TileContext& context, const WeightRows& weights)
      : weights_(weights), n_(context.n_key->size()) {
    const std::vector<std::uint32_t>& subset = context.n_key->subset;
    if (subset.empty()) return;
    copy_ = AlignedBuffer<float>(weights.size() * n_);
    for (std::size_t a = 0; a < weights.size(); ++a) {
      pick(weights[a], subset, copy_.data() + a * n_);
    }
  }
  const float* row(std::size_t feature) const {
    return copy_.empty() ? weights_[feature] : copy_.data() + feature * n_;
  }

 private:
  const WeightRows& weights_;
  const std::size_t n_;
  AlignedBuffer<float> copy_;
};

// What was found of a row; checked in this pass or not.
struct RowVerdict {
  enum { kUnchecked, kPassed, kRefused } is = kUnchecked;
  double tolerance = 0;
  double result_squared = 0;   // norm of the row as returned
  double operand_squared = 0;  // what it should be near, for independent terms
  double deviation = 0;        // kRefused
};

// Verdict on one row whose encoded values lie in `row`; row_factor turns encoded into decoded.
bool row_passes(const TileContext& context, const float* row, std::size_t columns,
                const CheckRow& check, double row_factor, const double* expected,
                double operand_magnitude, std::int64_t inner, RowVerdict& verdict) {
  std::array<double, kMaxRounds> sums{};
  double magnitude = 0;
  check_row(row, columns, check, sums.data(), &magnitude);
  magnitude *= row_factor * row_factor;
  for (int k = 0; k < check.rounds; ++k) sums[k] = expected[k] - sums[k] * row_factor;
  const std::span<const double> differences(sums.data(), static_cast<std::size_t>(check.rounds));
  const bool passed = accept_row(differences, inner, operand_magnitude, magnitude);
  verdict = {passed ? RowVerdict::kPassed : RowVerdict::kRefused,
             row_tolerance(inner, operand_magnitude, magnitude), magnitude, operand_magnitude,
             passed ? 0 : row_deviation(differences, context.distribution)};
  return passed;
}

// Root of the mean over the elements of the rows of one kind; NaN when there is none.
double rms_of(const std::vector<RowVerdict>& rows, std::size_t columns, decltype(RowVerdict::is) is,
              double RowVerdict::*squared) {
  double squares = 0;
  double elements = 0;
  for (const RowVerdict& row : rows) {
    if (row.is != is) continue;
    squares += row.*squared;
    elements += static_cast<double>(columns);
  }
  return std::sqrt(squares / elements);
}

// Tolerances are those of the worst row: an adversary who spoils one row chooses it. Errors count
// in units of the row's rms or the product's, whichever is larger; a product too small to move a
// weight has none.
CheckOutcome outcome_of(const std::vector<RowVerdict>& rows, std::size_t columns) {
  CheckOutcome outcome;
  const double rms = rms_of(rows, columns, RowVerdict::kPassed, &RowVerdict::result_squared);
  const double unit =
      rms > kNegligible ? rms
                        : rms_of(rows, columns, RowVerdict::kRefused, &RowVerdict::operand_squared);
  const RowVerdict* worst = nullptr;
  for (const RowVerdict& row : rows) {
    if (row.is == RowVerdict::kPassed && rms > kNegligible) {
      const double row_rms = std::sqrt(row.result_squared / static_cast<double>(columns));
      outcome.tolerance_over_rms =
          std::max(outcome.tolerance_over_rms, row.tolerance / std::max(rms, row_rms));
    } else if (row.is == RowVerdict::kRefused) {
      ++outcome.refused_rows;
      if (worst == nullptr || row.deviation > worst->deviation) worst = &row;
    }
  }
  outcome.passed = worst == nullptr;
  if (worst != nullptr) {
    const double scale = unit > 0 ? 1 / unit : std::numeric_limits<double>::infinity();
    outcome.deviation_over_rms = worst->deviation * scale;
    outcome.refused_tolerance_over_rms = worst->tolerance * scale;
  }
  return outcome;
}

// Moments of rows, gathered with a shift, in float64 at the end.
class MomentSums {
 public:
  explicit MomentSums(std::size_t columns)
      : shift_(columns), partial_(2 * columns), totals_(2 * columns), columns_(columns) {}

  void add(const float* row) {
    if (count_ == 0) std::copy_n(row, columns_, shift_.data());  // as good a shift as any
    accumulate_moments(row, columns_, shift_.data(), partial_.data(), partial_.data() + columns_);
    if (++count_ % kColumnFlushRows == 0) flush();
  }

  // Merges into `moments`, which has `columns` columns.
  void merge_into(ColumnMoments& moments) {
    if (count_ == 0) return;
    flush();
    std::vector<double> mean(columns_);
    std::vector<double> m2(columns_);
    const auto n = static_cast<double>(count_);
    for (std::size_t j = 0; j < columns_; ++j) {
      const double sum = totals_[j];
      mean[j] = shift_[j] + sum / n;
      m2[j] = std::max(0.0, totals_[columns_ + j] - sum * sum / n);
    }
    moments.merge(count_, mean.data(), m2.data());
  }

 private:
  void flush() { flush_to_double(partial_.data(), partial_.size(), totals_.data()); }

  std::vector<float> shift_;
  std::vector<float> partial_;  // sums, then squares
  std::vector<double> totals_;
  std::size_t columns_;
  std::int64_t count_ = 0;
};

}  // namespace

void ExpectedRows::reset(std::size_t rows, int rounds) {
  sums.assign(rows * rounds, 0.0);
  magnitude.assign(rows, 0.0);
}

bool ExpectedRows::is_finite() const {
  const auto finite = [](double v) { return std::isfinite(v); };
  return std::all_of(sums.begin(), sums.end(), finite) &&
         std::all_of(magnitude.begin(), magnitude.end(), finite);
}

std::vector<TileRows> make_tile_rows(const ConvGeometry& geometry, const AxisKey& p_key,
                                     const std::vector<Slice>& slices) {
  std::vector<TileRows> tiles(slices.size());
  std::vector<std::uint32_t> tile_of(p_key.size());  // by encoded index
  for (std::size_t t = 0; t < slices.size(); ++t) {
    tiles[t].first_encoded = static_cast<std::size_t>(slices[t].begin);
    tiles[t].position.reserve(slices[t].size());
    tiles[t].ring_row.reserve(slices[t].size());
    tiles[t].chunks = {0};
    for (std::int64_t e = slices[t].begin; e < slices[t].end; ++e) {
      tile_of[e] = static_cast<std::uint32_t>(t);
    }
  }
  const auto positions_per_image = static_cast<std::size_t>(geometry.out_h * geometry.out_w);
  for (std::size_t position = 0; position < p_key.size(); ++position) {
    if (position % positions_per_image == 0) {
      for (TileRows& tile : tiles) {
        if (tile.size() - tile.chunks.back() >= kMinChunkRows) tile.chunks.push_back(tile.size());
      }
    }
    const std::uint32_t encoded = p_key.inverse[position];
    TileRows& tile = tiles[tile_of[encoded]];
    tile.position.push_back(static_cast<std::uint32_t>(position));
    tile.ring_row.push_back(static_cast<std::uint32_t>(encoded - tile.first_encoded));
  }
  for (TileRows& tile : tiles) {
    // A few rows too many are no chunk of their own.
    if (tile.chunks.size() > 1 && tile.size() - tile.chunks.back() < kMinChunkRows) {
      tile.chunks.back() = tile.size();
    } else if (tile.chunks.back() != tile.size()) {
      tile.chunks.push_back(tile.size());
    }
  }
  return tiles;
}

ProductChecks forward_checks(const TileContext& context, RandomSource& random, int rounds,
                             const WeightRows& weights, const AxisKey& m_key) {
  const std::size_t n = context.n_key->size();
  const std::size_t features = weights.size();
  ProductChecks checks;
  checks.rounds = rounds;
  const std::vector<float> s = draw_vectors(random, context.distribution, rounds, features);
  fold_result_vectors(s, m_key, m_key.reciprocal, checks);

  // u_k = W^T s_k and the column sums of squares of W, by ranges of columns.
  checks.operand.resize(rounds * n);
  checks.operand_squares.resize(n);
  context.pool->parallel_for(
      static_cast<std::int64_t>(n), kColumnGrain, [&](std::int64_t begin, std::int64_t end) {
        const auto width = static_cast<std::size_t>(end - begin);
        std::vector<float> partial((rounds + 1) * width);
        std::vector<double> totals((rounds + 1) * width);
        std::array<float, kMaxRounds> row_weights{};
        const std::vector<std::uint32_t>& subset = context.n_key->subset;
        AlignedBuffer<float> scratch(subset.empty() ? 0 : width);
        for (std::size_t a = 0; a < features; ++a) {
          for (int k = 0; k < rounds; ++k) row_weights[k] = s[k * features + a];
          const float* row = weights[a] + begin;
          if (!subset.empty()) {
            for (std::size_t j = 0; j < width; ++j) scratch[j] = weights[a][subset[begin + j]];
            row = scratch.data();
          }
          accumulate_columns(row, width, rounds, row_weights.data(), 1.0F, partial.data(),
                             partial.data() + rounds * width);
          if ((a + 1) % kColumnFlushRows == 0)
            flush_to_double(partial.data(), partial.size(), totals.data());
        }
        flush_to_double(partial.data(), partial.size(), totals.data());
        for (int k = 0; k < rounds; ++k) {
          for (std::size_t j = 0; j < width; ++j) {
            checks.operand[k * n + begin + j] = static_cast<float>(totals[k * width + j]);
          }
        }
        for (std::size_t j = 0; j < width; ++j) {
          checks.operand_squares[begin + j] = static_cast<float>(totals[rounds * width + j]);
        }
      });
  return checks;
}

ProductChecks input_gradient_checks(const TileContext& context, RandomSource& random, int rounds,
                                    const WeightRows& weights) {
  const std::size_t n = context.n_key->size();
  const std::size_t features = weights.size();
  ProductChecks checks;
  checks.rounds = rounds;
  const std::vector<float> s = draw_vectors(random, context.distribution, rounds, n);
  fold_result_vectors(s, *context.n_key, context.n_key->coefficient, checks);

  // w_k = W s_k and the row norms of W.
  checks.operand.resize(rounds * features);
  checks.operand_squares.resize(features);
  RoundPointers pointers;
  pointers.append(s, rounds, n);
  context.pool->parallel_for(static_cast<std::int64_t>(features), row_grain(n, 16),
                             [&](std::int64_t begin, std::int64_t end) {
                               std::array<double, kMaxRounds> sums{};
                               WeightRow row_of_w(context);
                               for (std::int64_t a = begin; a < end; ++a) {
                                 double magnitude = 0;
                                 check_row(row_of_w(weights[a]), n, pointers.row(nullptr),
                                           sums.data(), &magnitude);
                                 for (int k = 0; k < rounds; ++k) {
                                   checks.operand[k * features + a] = static_cast<float>(sums[k]);
                                 }
                                 checks.operand_squares[a] = static_cast<float>(magnitude);
                               }
                             });
  return checks;
}

ProductChecks weight_gradient_checks(const TileContext& context, RandomSource& random, int rounds) {
  ProductChecks checks;
  checks.rounds = rounds;
  checks.operand = draw_vectors(random, context.distribution, rounds, context.n_key->size());
  fold_result_vectors(checks.operand, *context.n_key, context.n_key->reciprocal, checks);
  return checks;
}

void encode_weights(const TileContext& context, const WeightRows& weights, const AxisKey& m_key,
                    std::byte* out) {
  const std::size_t n = context.n_key->size();
  context.pool->parallel_for(static_cast<std::int64_t>(weights.size()), row_grain(n, 16),
                             [&](std::int64_t begin, std::int64_t end) {
                               WeightRow row_of_w(context);
                               for (std::int64_t e = begin; e < end; ++e) {
                                 encode_row(row_of_w(weights[m_key.permutation[e]]), n,
                                            context.n_key->permutation.data(),
                                            context.n_key->reciprocal.data(), m_key.coefficient[e],
                                            CheckRow{}, row_of(out, e, n), nullptr, nullptr);
                               }
                             });
}

void encode_input(const TileContext& context, const float* input, const TileRows& rows,
                  const ProductChecks* forward, ExpectedRows* expected,
                  const ProductChecks* gradient, InputProjections* projections, std::byte* out) {
  const std::size_t n = context.n_key->size();
  const int forward_rounds = forward != nullptr ? forward->rounds : 0;
  const int gradient_rounds = gradient != nullptr ? gradient->rounds : 0;
  RoundPointers pointers;
  if (forward != nullptr) {
    pointers.append(forward->operand, forward_rounds, n);
    expected->reset(rows.size(), forward_rounds);
  }
  if (gradient != nullptr) {
    pointers.append(gradient->operand, gradient_rounds, n);
    projections->projections.resize(rows.size() * gradient_rounds);
    projections->norms.resize(rows.size());
  }
  const CheckRow check =
      pointers.row(forward != nullptr ? forward->operand_squares.data() : nullptr);
  const InputRows x_rows(context);
  context.pool->parallel_for(
      static_cast<std::int64_t>(rows.chunk_count()), 1, [&](std::int64_t first, std::int64_t last) {
        AlignedBuffer<float> scratch(n);
        std::array<double, 2 * kMaxRounds> sums{};
        for (std::size_t r = rows.chunks[first]; r < rows.chunks[last]; ++r) {
          const float* row = x_rows.gather(input, rows.position[r], scratch.data());
          double magnitude = 0;
          if (out != nullptr) {
            encode_row(row, n, context.n_key->permutation.data(), context.n_key->coefficient.data(),
                       context.p_key->reciprocal[rows.first_encoded + rows.ring_row[r]], check,
                       row_of(out, rows.ring_row[r], n), sums.data(), &magnitude);
          } else {
            check_row(row, n, check, sums.data(), &magnitude);
          }
          for (int k = 0; k < forward_rounds; ++k) expected->sums[r * forward_rounds + k] = sums[k];
          if (forward != nullptr) expected->magnitude[r] = magnitude;
          if (gradient == nullptr) continue;
          for (int k = 0; k < gradient_rounds; ++k) {
            projections->projections[r * gradient_rounds + k] =
                static_cast<float>(sums[forward_rounds + k]);
          }
          if (forward != nullptr) check_row(row, n, CheckRow{}, nullptr, &magnitude);
          projections->norms[r] = static_cast<float>(magnitude);
        }
      });
}

void encode_gradient(const TileContext& context, const std::vector<Columns>& d_output,
                     const TileRows& rows, const AxisKey& m_key,
                     const ProductChecks* input_gradient, ExpectedRows* input_expected,
                     const InputProjections* projections, int rounds, ExpectedRows* weight_expected,
                     std::byte* out) {
  const std::size_t features = m_key.size();
  RoundPointers pointers;
  CheckRow check;
  if (input_gradient != nullptr) {
    pointers.append(input_gradient->operand, input_gradient->rounds, features);
    check = pointers.row(input_gradient->operand_squares.data());
    input_expected->reset(rows.size(), input_gradient->rounds);
  }
  const std::size_t totals_size = projections != nullptr ? (rounds + 1) * features : 0;
  std::vector<std::vector<double>> chunk_totals(rows.chunk_count());
  context.pool->parallel_for(
      static_cast<std::int64_t>(rows.chunk_count()), 1, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t c = first; c < last; ++c) {
          std::array<double, kMaxRounds> sums{};
          AlignedBuffer<float> scratch(d_output.size() > 1 ? features : 0);
          std::vector<float> partial(totals_size);
          std::vector<double>& totals = chunk_totals[c];
          totals.resize(totals_size);
          for (std::size_t r = rows.chunks[c]; r < rows.chunks[c + 1]; ++r) {
            const float* row = row_of(d_output, rows.position[r], scratch.data());
            double magnitude = 0;
            encode_row(row, features, m_key.permutation.data(), m_key.reciprocal.data(),
                       context.p_key->coefficient[rows.first_encoded + rows.ring_row[r]], check,
                       row_of(out, rows.ring_row[r], features), sums.data(), &magnitude);
            if (input_gradient != nullptr) {
              for (int k = 0; k < check.rounds; ++k) {
                input_expected->sums[r * check.rounds + k] = sums[k];
              }
              input_expected->magnitude[r] = magnitude;
            }
            if (projections == nullptr) continue;
            accumulate_columns(row, features, rounds, projections->projections.data() + r * rounds,
                               projections->norms[r], partial.data(),
                               partial.data() + rounds * features);
            if ((r + 1 - rows.chunks[c]) % kColumnFlushRows == 0) {
              flush_to_double(partial.data(), partial.size(), totals.data());
            }
          }
          if (projections != nullptr) {
            flush_to_double(partial.data(), partial.size(), totals.data());
          }
        }
      });
  if (projections == nullptr) return;
  for (const std::vector<double>& totals : chunk_totals) {
    for (std::size_t a = 0; a < features; ++a) {
      for (int k = 0; k < rounds; ++k) {
        weight_expected->sums[a * rounds + k] += totals[k * features + a];
      }
      weight_expected->magnitude[a] += totals[rounds * features + a];
    }
  }
}

CheckOutcome decode_output(const TileContext& context, const std::byte* reply, const TileRows& rows,
                           const AxisKey& m_key, const ProductChecks& checks,
                           const ExpectedRows& expected, const std::vector<OutputColumns>& output,
                           ColumnMoments* moments) {
  const std::size_t features = m_key.size();
  const std::vector<float> scale = natural_factors(m_key, m_key.reciprocal);
  const std::vector<float> bias = bias_of(output, features);
  RoundPointers pointers;
  pointers.append(checks.result, checks.rounds, features);
  const CheckRow check = pointers.row(checks.result_squares.data());
  std::vector<ColumnMoments> chunk_moments(moments != nullptr ? rows.chunk_count() : 0);
  std::vector<RowVerdict> verdicts(rows.size());
  context.pool->parallel_for(
      static_cast<std::int64_t>(rows.chunk_count()), 1, [&](std::int64_t first, std::int64_t last) {
        AlignedBuffer<float> row(features);
        AlignedBuffer<float> scratch(output.size() > 1 ? features : 0);
        for (std::int64_t c = first; c < last; ++c) {
          MomentSums sums(moments != nullptr ? features : 0);
          for (std::size_t r = rows.chunks[c]; r < rows.chunks[c + 1]; ++r) {
            copy_in(row_of(reply, rows.ring_row[r], features), features, row.data());
            const float factor = context.p_key->coefficient[rows.first_encoded + rows.ring_row[r]];
            if (!row_passes(context, row.data(), features, check, factor,
                            expected.sums.data() + r * checks.rounds, expected.magnitude[r],
                            static_cast<std::int64_t>(context.n_key->size()), verdicts[r])) {
              continue;
            }
            const bool is_direct = output.size() == 1;
            float* out =
                is_direct ? output[0].data + rows.position[r] * output[0].stride : scratch.data();
            decode_row(row.data(), features, m_key.inverse.data(), scale.data(), factor,
                       bias.empty() ? nullptr : bias.data(), false, out);
            if (!is_direct) write_row(scratch.data(), output, rows.position[r]);
            if (moments != nullptr) sums.add(out);
          }
          if (moments != nullptr) {
            chunk_moments[c].reset(static_cast<std::int64_t>(features));
            sums.merge_into(chunk_moments[c]);
          }
        }
      });
  if (moments != nullptr) {
    moments->reset(static_cast<std::int64_t>(features));
    for (const ColumnMoments& chunk : chunk_moments) {
      moments->merge(chunk.count, chunk.mean.data(), chunk.m2.data());
    }
  }
  return outcome_of(verdicts, features);
}

CheckOutcome decode_input_gradient(const TileContext& context, const std::byte* reply,
                                   const TileRows& rows, std::int64_t features,
                                   const ProductChecks& checks, const ExpectedRows& expected,
                                   std::vector<std::uint8_t>& applied, float* d_input) {
  const std::size_t n = context.n_key->size();
  const AxisKey& key = *context.n_key;
  const std::vector<float> scale = natural_factors(key, key.coefficient);
  RoundPointers pointers;
  pointers.append(checks.result, checks.rounds, n);
  const CheckRow check = pointers.row(checks.result_squares.data());
  const InputRows x_rows(context);
  const bool direct = x_rows.is_direct();
  std::vector<RowVerdict> verdicts(rows.size());
  context.pool->parallel_for(
      static_cast<std::int64_t>(rows.chunk_count()), 1, [&](std::int64_t first, std::int64_t last) {
        AlignedBuffer<float> row(n);
        AlignedBuffer<float> natural(direct ? 0 : n);
        for (std::int64_t c = first; c < last; ++c) {
          for (std::size_t r = rows.chunks[c]; r < rows.chunks[c + 1]; ++r) {
            if (applied[r] != 0) continue;
            copy_in(row_of(reply, rows.ring_row[r], n), n, row.data());
            const float factor = context.p_key->reciprocal[rows.first_encoded + rows.ring_row[r]];
            if (!row_passes(context, row.data(), n, check, factor,
                            expected.sums.data() + r * checks.rounds, expected.magnitude[r],
                            features, verdicts[r])) {
              continue;
            }
            if (direct) {
              decode_row(row.data(), n, key.inverse.data(), scale.data(), factor, nullptr, true,
                         d_input + rows.position[r] * n);
            } else {
              decode_row(row.data(), n, key.inverse.data(), scale.data(), factor, nullptr, false,
                         natural.data());
              x_rows.scatter_add(natural.data(), rows.position[r], d_input);
            }
            applied[r] = 1;
          }
        }
      });
  return outcome_of(verdicts, n);
}

CheckOutcome decode_weight_gradient(const TileContext& context, const std::byte* reply,
                                    const AxisKey& m_key, const ProductChecks& checks,
                                    const ExpectedRows& expected, std::int64_t inner,
                                    std::vector<std::uint8_t>& applied,
                                    const std::vector<float*>& d_weights) {
  const std::size_t n = context.n_key->size();
  const AxisKey& key = *context.n_key;
  const std::vector<float> scale = natural_factors(key, key.reciprocal);
  RoundPointers pointers;
  pointers.append(checks.result, checks.rounds, n);
  const CheckRow check = pointers.row(checks.result_squares.data());
  const auto features = static_cast<std::int64_t>(d_weights.size());
  std::vector<RowVerdict> verdicts(d_weights.size());
  context.pool->parallel_for(features, row_grain(n, 8), [&](std::int64_t begin, std::int64_t end) {
    AlignedBuffer<float> row(n);
    AlignedBuffer<float> natural(key.subset.size());
    for (std::int64_t e = begin; e < end; ++e) {
      const std::uint32_t a = m_key.permutation[e];
      if (applied[a] != 0) continue;
      copy_in(row_of(reply, e, n), n, row.data());
      const float factor = m_key.coefficient[e];
      if (!row_passes(context, row.data(), n, check, factor,
                      expected.sums.data() + a * checks.rounds, expected.magnitude[a], inner,
                      verdicts[a])) {
        continue;
      }
      if (key.subset.empty()) {
        decode_row(row.data(), n, key.inverse.data(), scale.data(), factor, nullptr, true,
                   d_weights[a]);
      } else {
        decode_row(row.data(), n, key.inverse.data(), scale.data(), factor, nullptr, false,
                   natural.data());
        add_to_columns(natural.data(), key.subset, d_weights[a]);
      }
      applied[a] = 1;
    }
  });
  return outcome_of(verdicts, n);
}

void compute_output(const TileContext& context, const float* input, const WeightRows& weights,
                    const TileRows& rows, const std::vector<OutputColumns>& output,
                    ColumnMoments* moments) {
  const auto n = static_cast<std::int64_t>(context.n_key->size());
  const InputRows x_rows(context);
  AlignedBuffer<float> x(kBlockRows * n);
  const WeightBlock w(context, weights);
  const auto features = static_cast<std::int64_t>(weights.size());
  const std::vector<float> bias = bias_of(output, weights.size());
  AlignedBuffer<float> z(kBlockRows * features);
  MomentSums sums(moments != nullptr ? weights.size() : 0);
  for (std::size_t begin = 0; begin < rows.size(); begin += kBlockRows) {
    const std::size_t count = std::min<std::size_t>(kBlockRows, rows.size() - begin);
    for (std::size_t r = 0; r < count; ++r) {
      float* to = x.data() + r * n;
      const float* row = x_rows.gather(input, rows.position[begin + r], to);
      if (row != to) std::copy(row, row + n, to);
    }
    std::size_t at = 0;
    for (const OutputColumns& piece : output) {
      gemm(Transpose::kNo, Transpose::kYes, static_cast<std::int64_t>(count),
           static_cast<std::int64_t>(piece.width), n, 1.0F, x.data(), n, w.row(at), n, 0.0F,
           z.data() + at, features);
      at += piece.width;
    }
    for (std::size_t r = 0; r < count; ++r) {
      float* row = z.data() + r * features;
      for (std::size_t a = 0; a < bias.size(); ++a) row[a] += bias[a];
      write_row(row, output, rows.position[begin + r]);
      if (moments != nullptr) sums.add(row);
    }
  }
  if (moments != nullptr) {
    moments->reset(static_cast<std::int64_t>(weights.size()));
    sums.merge_into(*moments);
  }
}

void compute_input_gradient(const TileContext& context, const std::vector<Columns>& d_output,
                            const WeightRows& weights, const TileRows& rows,
                            const std::vector<std::uint8_t>& applied, float* d_input) {
  const auto n = static_cast<std::int64_t>(context.n_key->size());
  const InputRows x_rows(context);
  std::vector<std::uint32_t> open;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (applied[r] == 0) open.push_back(rows.position[r]);
  }
  const WeightBlock w(context, weights);
  AlignedBuffer<float> d(kBlockRows * weights.size());
  AlignedBuffer<float> x(kBlockRows * n);
  for (std::size_t begin = 0; begin < open.size(); begin += kBlockRows) {
    const std::size_t count = std::min<std::size_t>(kBlockRows, open.size() - begin);
    std::size_t at = 0;
    for (const Columns& piece : d_output) {
      const auto width = static_cast<std::int64_t>(piece.width);
      for (std::size_t r = 0; r < count; ++r) {
        std::copy_n(piece.data + open[begin + r] * piece.stride, piece.width,
                    d.data() + r * piece.width);
      }
      gemm(Transpose::kNo, Transpose::kNo, static_cast<std::int64_t>(count), n, width, 1.0F,
           d.data(), width, w.row(at), n, at == 0 ? 0.0F : 1.0F, x.data(), n);
      at += piece.width;
    }
    for (std::size_t r = 0; r < count; ++r) {
      x_rows.scatter_add(x.data() + r * n, open[begin + r], d_input);
    }
  }
}

void compute_weight_gradient(const TileContext& context, const float* input,
                             const std::vector<Columns>& d_output, const TileRows& rows,
                             float* sum) {
  const auto n = static_cast<std::int64_t>(context.n_key->size());
  const InputRows x_rows(context);
  AlignedBuffer<float> x(kBlockRows * n);
  AlignedBuffer<float> d;
  for (std::size_t begin = 0; begin < rows.size(); begin += kBlockRows) {
    const std::size_t count = std::min<std::size_t>(kBlockRows, rows.size() - begin);
    for (std::size_t r = 0; r < count; ++r) {
      float* to = x.data() + r * n;
      const float* row = x_rows.gather(input, rows.position[begin + r], to);
      if (row != to) std::copy(row, row + n, to);
    }
    float* to = sum;
    for (const Columns& piece : d_output) {
      const auto width = static_cast<std::int64_t>(piece.width);
      if (d.size() < kBlockRows * piece.width) d = AlignedBuffer<float>(kBlockRows * piece.width);
      for (std::size_t r = 0; r < count; ++r) {
        std::copy_n(piece.data + rows.position[begin + r] * piece.stride, piece.width,
                    d.data() + r * piece.width);
      }
      gemm(Transpose::kYes, Transpose::kNo, width, n, static_cast<std::int64_t>(count), 1.0F,
           d.data(), width, x.data(), n, 1.0F, to, n);
      to += width * n;
    }
  }
}

void add_weight_gradient(const TileContext& context, const float* sum,
                         const std::vector<std::uint8_t>& applied,
                         const std::vector<float*>& d_weights) {
  const AxisKey& key = *context.n_key;
  const std::size_t n = key.size();
  for (std::size_t a = 0; a < d_weights.size(); ++a) {
    if (applied[a] != 0) continue;
    const float* const row = sum + a * n;
    if (!key.subset.empty()) {
      add_to_columns(row, key.subset, d_weights[a]);
    } else {
      for (std::size_t j = 0; j < n; ++j) d_weights[a][j] += row[j];
    }
  }
}

ColumnMoments add_partial_outputs(ThreadPool& pool, std::int64_t positions,
                                  const std::vector<AlignedBuffer<float>>& partials,
                                  const std::vector<OutputColumns>& output, bool wants_moments) {
  const auto features = std::accumulate(
      output.begin(), output.end(), std::size_t{0},
      [](std::size_t sum, const OutputColumns& piece) { return sum + piece.width; });
  const std::vector<float> bias = bias_of(output, features);
  const std::int64_t chunks = (positions + kBlockRows - 1) / kBlockRows;
  std::vector<ColumnMoments> chunk_moments(wants_moments ? chunks : 0);
  pool.parallel_for(chunks, 1, [&](std::int64_t first, std::int64_t last) {
    AlignedBuffer<float> row(features);
    for (std::int64_t c = first; c < last; ++c) {
      MomentSums sums(wants_moments ? features : 0);
      for (std::int64_t r = c * kBlockRows; r < std::min((c + 1) * kBlockRows, positions); ++r) {
        std::copy_n(partials[0].data() + r * features, features, row.data());
        for (std::size_t i = 1; i < partials.size(); ++i) {
          const float* const part = partials[i].data() + r * features;
          for (std::size_t a = 0; a < features; ++a) row[a] += part[a];
        }
        for (std::size_t a = 0; a < bias.size(); ++a) row[a] += bias[a];
        write_row(row.data(), output, r);
        if (wants_moments) sums.add(row.data());
      }
      if (!wants_moments) continue;
      chunk_moments[c].reset(static_cast<std::int64_t>(features));
      sums.merge_into(chunk_moments[c]);
    }
  });
  ColumnMoments moments;
  if (!wants_moments) return moments;
  moments.reset(static_cast<std::int64_t>(features));
  for (const ColumnMoments& chunk : chunk_moments) {
    moments.merge(chunk.count, chunk.mean.data(), chunk.m2.data());
  }
  return moments;
}

}  // namespace tempo
