#include "enclave/integrity/check_rig.h"

#include <algorithm>
#include <cmath>

#include "enclave/obfuscation/kernels.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

using Floats = std::vector<float>;

double draw(SeededRandom& random, DataKind data) {
  const double z = random.normal();
  if (data == DataKind::kConstant) return 1;
  if (data == DataKind::kHeavyTailed) return random.unit() < 0.01 ? 1000 * z : z;
  return z;
}

Floats draw_weights(SeededRandom& random, const LayerShape& shape, DataKind data) {
  Floats w(shape.m * shape.n);
  for (float& value : w) value = static_cast<float>(draw(random, data));
  if (data == DataKind::kCancelling) {  // the same weights twice
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t half = shape.n / 2;
      if (i % shape.n >= half && i % shape.n < 2 * half) w[i] = w[i - half];
    }
  }
  return w;
}

Floats draw_inputs(SeededRandom& random, const LayerShape& shape, DataKind data) {
  Floats x(shape.p * shape.n);
  for (float& value : x) value = static_cast<float>(draw(random, data));
  if (data == DataKind::kRectified) {
    for (float& value : x) value = std::max(value, 0.0F);
  }
  if (data == DataKind::kCancelling) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t half = shape.n / 2;
      if (i % shape.n >= half && i % shape.n < 2 * half) {
        x[i] = -x[i - half] * static_cast<float>(1 + 1e-4 * random.normal());
      }
    }
  }
  return x;
}

Floats draw_gradients(SeededRandom& random, const LayerShape& shape, DataKind data) {
  Floats d(shape.p * shape.m);
  double scale = 1;
  if (data == DataKind::kSmall) scale = 1e-12;
  if (data == DataKind::kVanishing) scale = 1e-36;
  for (float& value : d) {
    value = static_cast<float>(scale * draw(random, data));
    if (data == DataKind::kRectified && random.unit() < 0.8) value = 0;
  }
  if (data == DataKind::kCancelling) {  // later positions undo earlier ones in the sums of dW
    for (std::size_t i = d.size() / 2 / shape.m * shape.m; i < d.size(); ++i) {
      d[i] = -d[i - d.size() / 2 / shape.m * shape.m];
    }
  }
  return d;
}

// Encoded matrix: row i is natural row `rows.permutation[i]`.
Floats encode(const Floats& natural, const AxisKey& rows, const AxisKey& columns,
              const Floats& row_scale, const Floats& column_scale) {
  const std::size_t n = columns.size();
  Floats out(natural.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    encode_row(natural.data() + rows.permutation[i] * n, n, columns.permutation.data(),
               column_scale.data(), row_scale[i], {}, out.data() + i * n, nullptr, nullptr);
  }
  return out;
}

std::vector<const float*> pointers_to(const Floats& vectors, int rounds, std::size_t columns) {
  std::vector<const float*> pointers;
  pointers.reserve(static_cast<std::size_t>(rounds));
  for (int k = 0; k < rounds; ++k) pointers.push_back(vectors.data() + k * columns);
  return pointers;
}

}  // namespace

CheckRig::CheckRig(SeededRandom& random, const LayerShape& shape, DataKind data,
                   const CoefficientSpace& space)
    : shape_(shape),
      key_(KeyTriple::generate(random, shape.m, shape.n, shape.p, space)),
      w_(draw_weights(random, shape, data)),
      x_(draw_inputs(random, shape, data)),
      d_(draw_gradients(random, shape, data)),
      results_(3) {
  const auto m = static_cast<std::int64_t>(shape.m);
  const auto n = static_cast<std::int64_t>(shape.n);
  const auto p = static_cast<std::int64_t>(shape.p);
  const AxisKey& km = key_.m;
  const AxisKey& kn = key_.n;
  const AxisKey& kp = key_.p;
  of(Product::kForward) = {&kp, &km, &kp.coefficient, &km.reciprocal, n, Floats(shape.p * shape.m)};
  of(Product::kWeightGradient) = {
      &km, &kn, &km.coefficient, &kn.reciprocal, p, Floats(shape.m * shape.n)};
  of(Product::kInputGradient) = {
      &kp, &kn, &kp.reciprocal, &kn.coefficient, m, Floats(shape.p * shape.n)};

  const Floats w = encode(w_, km, kn, km.coefficient, kn.reciprocal);
  const Floats x = encode(x_, kp, kn, kp.reciprocal, kn.coefficient);
  const Floats d = encode(d_, kp, km, kp.coefficient, km.reciprocal);
  gemm(Transpose::kNo, Transpose::kYes, p, m, n, 1, x.data(), n, w.data(), n, 0,
       of(Product::kForward).values.data(), m);
  gemm(Transpose::kYes, Transpose::kNo, m, n, p, 1, d.data(), m, x.data(), n, 0,
       of(Product::kWeightGradient).values.data(), n);
  gemm(Transpose::kNo, Transpose::kNo, p, n, m, 1, d.data(), m, w.data(), n, 0,
       of(Product::kInputGradient).values.data(), n);
}

double CheckRig::rms(Product product) const {
  double sum = 0;
  for (std::size_t i = 0; i < rows(product); ++i) {
    for (std::size_t j = 0; j < columns(product); ++j) {
      const double value =
          of(product).values[i * columns(product) + j] * decoding_factor(product, i, j);
      sum += value * value;
    }
  }
  return std::sqrt(sum / static_cast<double>(of(product).values.size()));
}

std::size_t CheckRig::hardest_column(Product product) const {
  const Floats& factor = *of(product).column_factor;
  return static_cast<std::size_t>(std::max_element(factor.begin(), factor.end()) - factor.begin());
}

float& CheckRig::element(Product product, std::size_t row, std::size_t column) {
  return of(product).values[row * columns(product) + column];
}

double CheckRig::decoding_factor(Product product, std::size_t row, std::size_t column) const {
  return static_cast<double>((*of(product).row_factor)[row]) * (*of(product).column_factor)[column];
}

// Z = X W^T and dX = D W: operand rows (X or D) against vectors folded through W.
CheckRig::Expected CheckRig::expected_rows(Product product, int rounds, const Floats& vectors,
                                           std::optional<std::size_t> row) const {
  const bool forward = product == Product::kForward;
  const std::size_t columns = forward ? shape_.n : shape_.m;  // of the operand
  const Floats& operand = forward ? x_ : d_;
  const AxisKey& column_key = forward ? key_.n : key_.m;

  Floats folded(rounds * columns);  // W^T s, or W s
  Floats squares(columns);
  for (std::size_t c = 0; c < columns; ++c) {
    std::vector<double> sums(rounds + 1);
    const std::size_t others = forward ? shape_.m : shape_.n;
    for (std::size_t o = 0; o < others; ++o) {
      const double w = forward ? w_[o * shape_.n + c] : w_[c * shape_.n + o];
      for (int k = 0; k < rounds; ++k) sums[k] += w * vectors[k * others + o];
      sums[rounds] += w * w;
    }
    for (int k = 0; k < rounds; ++k) folded[k * columns + c] = static_cast<float>(sums[k]);
    squares[c] = static_cast<float>(sums[rounds]);
  }

  const std::vector<const float*> pointers = pointers_to(folded, rounds, columns);
  Expected expected{std::vector<double>(shape_.p * rounds), std::vector<double>(shape_.p)};
  Floats encoded(columns);
  for (std::size_t i = row.value_or(0); i < (row ? *row + 1 : shape_.p); ++i) {
    encode_row(operand.data() + key_.p.permutation[i] * columns, columns,
               column_key.permutation.data(), column_key.coefficient.data(), 1.0F,
               {rounds, pointers.data(), squares.data()}, encoded.data(),
               expected.sums.data() + i * rounds, &expected.magnitude[i]);
  }
  return expected;
}

// dW = D^T X: the sums over positions ride on the encoding of D.
CheckRig::Expected CheckRig::expected_weight_gradient(int rounds, const Floats& vectors) const {
  const std::size_t m = shape_.m;
  const std::vector<const float*> pointers = pointers_to(vectors, rounds, shape_.n);
  Floats partial((rounds + 1) * m);
  std::vector<double> totals(partial.size());
  for (std::size_t i = 0; i < shape_.p; ++i) {
    std::vector<double> sums(rounds);
    double norm = 0;
    check_row(x_.data() + i * shape_.n, shape_.n, {rounds, pointers.data(), nullptr}, sums.data(),
              &norm);
    const Floats projections(sums.begin(), sums.end());
    accumulate_columns(d_.data() + i * m, m, rounds, projections.data(), static_cast<float>(norm),
                       partial.data(), partial.data() + rounds * m);
    if ((i + 1) % kColumnFlushRows == 0)
      flush_to_double(partial.data(), partial.size(), totals.data());
  }
  flush_to_double(partial.data(), partial.size(), totals.data());
  Expected expected{std::vector<double>(m * rounds), std::vector<double>(m)};
  for (std::size_t i = 0; i < m; ++i) {
    const std::size_t natural = key_.m.permutation[i];
    for (int k = 0; k < rounds; ++k) expected.sums[i * rounds + k] = totals[k * m + natural];
    expected.magnitude[i] = totals[rounds * m + natural];
  }
  return expected;
}

std::vector<RowCheck> CheckRig::check(Product product, int rounds, CheckDistribution distribution,
                                      RandomSource& random, std::optional<std::size_t> row) const {
  const Result& result = of(product);
  const std::size_t cols = columns(product);
  Floats vectors(rounds * cols);  // natural order
  draw_check_vector(random, distribution, vectors);
  const Expected expected = product == Product::kWeightGradient
                                ? expected_weight_gradient(rounds, vectors)
                                : expected_rows(product, rounds, vectors, row);

  Floats folded(rounds * cols);  // encoded order, with the column's decoding factor
  Floats squares(cols);
  for (std::size_t e = 0; e < cols; ++e) {
    const float factor = (*result.column_factor)[e];
    for (int k = 0; k < rounds; ++k) {
      folded[k * cols + e] = vectors[k * cols + result.column_key->permutation[e]] * factor;
    }
    squares[e] = factor * factor;
  }
  const std::vector<const float*> pointers = pointers_to(folded, rounds, cols);

  std::vector<RowCheck> checks(rows(product));
  Floats copy(cols);
  for (std::size_t i = row.value_or(0); i < (row ? *row + 1 : checks.size()); ++i) {
    std::copy_n(result.values.begin() + static_cast<std::ptrdiff_t>(i * cols), cols, copy.begin());
    std::vector<double> differences(rounds);
    double magnitude = 0;
    check_row(copy.data(), cols, {rounds, pointers.data(), squares.data()}, differences.data(),
              &magnitude);
    const double factor = (*result.row_factor)[i];
    RowCheck& check = checks[i];
    for (int k = 0; k < rounds; ++k) {
      differences[k] = expected.sums[i * rounds + k] - factor * differences[k];
      if (!(std::abs(differences[k]) <= check.worst)) check.worst = std::abs(differences[k]);
    }
    check.operand_squared = expected.magnitude[i];
    check.result_squared = factor * factor * magnitude;
    check.tolerance = row_tolerance(result.inner, check.operand_squared, check.result_squared);
    check.accepted =
        accept_row(differences, result.inner, check.operand_squared, check.result_squared);
  }
  return checks;
}

}  // namespace tempo
