// Enc, Dec and key shift: the algorithms as printed, and the fused row passes composed as an engine
// composes them, against plain products in float64.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "enclave/obfuscation/kernels.h"
#include "enclave/obfuscation/key.h"
#include "enclave/obfuscation/reference.h"
#include "enclave/obfuscation/seeded_random.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

using reference::Matrix;

struct Shape {
  std::size_t m, n, p;
};

constexpr Shape kShapes[] = {
    {1, 1, 1},  {4, 4, 4},    {64, 64, 64}, {3, 5, 7},    {16, 27, 50}, {10, 64, 1},
    {64, 9, 2}, {31, 37, 41}, {13, 13, 29}, {64, 576, 5}, {1, 129, 3},  {65, 1, 17},
};

using Floats = std::vector<float>;

Floats normals(SeededRandom& random, std::size_t count) {
  Floats values(count);
  for (float& v : values) v = static_cast<float>(random.normal());
  return values;
}

Matrix to_matrix(const Floats& values, std::size_t rows, std::size_t cols) {
  Matrix matrix(rows, cols);
  std::copy(values.begin(), values.end(), matrix.values.begin());
  return matrix;
}

// |a - b| over |b|, norm-wise.
double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

// Operands of one layer, positions as rows, and the products that training wants of them.
struct Layer {
  Layer(SeededRandom& random, const Shape& size)
      : shape(size),
        w(normals(random, size.m * size.n)),
        x(normals(random, size.p * size.n)),
        d(normals(random, size.p * size.m)) {}
  Matrix w_matrix() const { return to_matrix(w, shape.m, shape.n); }
  Matrix x_matrix() const { return to_matrix(x, shape.p, shape.n); }
  Matrix d_matrix() const { return to_matrix(d, shape.p, shape.m); }
  Matrix z() const { return multiply(x_matrix(), transpose(w_matrix())); }          // p x m
  Matrix d_weights() const { return multiply(transpose(d_matrix()), x_matrix()); }  // m x n
  Matrix d_input() const { return multiply(d_matrix(), w_matrix()); }               // p x n

  Shape shape;
  Floats w;  // m x n
  Floats x;  // p x n
  Floats d;  // p x m
};

// In the paper's terms X is n x p and Delta m x p: the transposes of ours.
TEST(PaperAlgorithms, ThreeProductsFromOneKey) {
  SeededRandom random(1);
  for (const Shape& shape : kShapes) {
    const Layer layer(random, shape);
    const KeyTriple sk = KeyTriple::generate(random, shape.m, shape.n, shape.p, {1024, false});
    const Matrix x = transpose(layer.x_matrix());
    const auto [w1, x1] = enc(reference::shift_left(sk, 0), layer.w_matrix(), x);
    // The backward pass encodes Delta^T alone; W', X' are those of the forward pass.
    const auto [d1, w_again] =
        enc(reference::shift_left(sk, 2), layer.d_matrix(), layer.w_matrix());
    EXPECT_EQ(w_again.values, w1.values);

    const Matrix z = dec(reference::shift_left(sk, 0), multiply(w1, x1));
    const Matrix t1 = dec(reference::shift_left(sk, 1), multiply(x1, d1));
    const Matrix t2 = dec(reference::shift_left(sk, 2), multiply(d1, w1));
    EXPECT_LT(relative_error(transpose(z).values, layer.z().values), 1e-12);
    EXPECT_LT(relative_error(transpose(t1).values, layer.d_weights().values), 1e-12);
    EXPECT_LT(relative_error(t2.values, layer.d_input().values), 1e-12);
  }
}

// The printed formula shifts the other way. Where m, n and p differ the shapes do not fit; where
// they are equal it is silently wrong.
TEST(PaperAlgorithms, PrintedShiftIsWrongOnSquareLayers) {
  SeededRandom random(2);
  const Shape shape{16, 16, 16};
  const Layer layer(random, shape);
  const KeyTriple sk = KeyTriple::generate(random, shape.m, shape.n, shape.p, {1024, false});
  const auto [w1, x1] =
      enc(reference::shift_left(sk, 0), layer.w_matrix(), transpose(layer.x_matrix()));
  const auto [d1, unused] = enc(reference::shift_left(sk, 2), layer.d_matrix(), layer.w_matrix());
  const Matrix t1 = dec(reference::shift_right(sk, 1), multiply(x1, d1));
  EXPECT_GT(relative_error(transpose(t1).values, layer.d_weights().values), 0.5);
  const Matrix t2 = dec(reference::shift_right(sk, 2), multiply(d1, w1));
  EXPECT_GT(relative_error(t2.values, layer.d_input().values), 0.5);
  const auto [printed, ignored] =
      enc(reference::shift_right(sk, 2), layer.d_matrix(), layer.w_matrix());
  const Matrix from_printed = dec(reference::shift_left(sk, 1), multiply(x1, printed));
  EXPECT_GT(relative_error(transpose(from_printed).values, layer.d_weights().values), 0.5);
}

// out row i = natural row `row_key.permutation[i]`, its columns gathered by column_key.
Floats encode_rows(const Floats& natural, const AxisKey& row_key, const AxisKey& column_key,
                   const Floats& row_scale, const Floats& column_scale) {
  const std::size_t n = column_key.size();
  Floats out(natural.size());
  for (std::size_t i = 0; i < row_key.size(); ++i) {
    encode_row(natural.data() + row_key.permutation[i] * n, n, column_key.permutation.data(),
               column_scale.data(), row_scale[i], {}, out.data() + i * n, nullptr, nullptr);
  }
  return out;
}

std::vector<double> decode_rows(const Floats& encoded, const AxisKey& row_key,
                                const AxisKey& column_key, const Floats& row_scale,
                                const Floats& column_scale) {
  const std::size_t n = column_key.size();
  Floats natural_scale(n);
  for (std::size_t a = 0; a < n; ++a) natural_scale[a] = column_scale[column_key.inverse[a]];
  Floats out(encoded.size());
  for (std::size_t i = 0; i < row_key.size(); ++i) {
    decode_row(encoded.data() + i * n, n, column_key.inverse.data(), natural_scale.data(),
               row_scale[i], nullptr, false, out.data() + row_key.permutation[i] * n);
  }
  return {out.begin(), out.end()};
}

std::vector<double> doubles(const Floats& values) {
  return {values.begin(), values.end()};
}

// Everything that a layer's forward and backward pass does, for any key.
void expect_fused_passes_agree(SeededRandom& random, const Shape& shape,
                               const CoefficientSpace& space) {
  const Layer layer(random, shape);
  const KeyTriple sk = KeyTriple::generate(random, shape.m, shape.n, shape.p, space);
  const Floats w1 = encode_rows(layer.w, sk.m, sk.n, sk.m.coefficient, sk.n.reciprocal);
  const Floats x1 = encode_rows(layer.x, sk.p, sk.n, sk.p.reciprocal, sk.n.coefficient);
  const Floats d1 = encode_rows(layer.d, sk.p, sk.m, sk.p.coefficient, sk.m.reciprocal);

  // An encoded element is rounded by the reciprocal and two multiplications.
  constexpr double kEncodeError = 4 * 0x1p-24;
  const auto [w_oracle, x_oracle] =
      enc(reference::shift_left(sk, 0), layer.w_matrix(), transpose(layer.x_matrix()));
  const auto [d_oracle, unused] =
      enc(reference::shift_left(sk, 2), layer.d_matrix(), layer.w_matrix());
  EXPECT_LT(relative_error(doubles(w1), w_oracle.values), kEncodeError);
  EXPECT_LT(relative_error(doubles(x1), transpose(x_oracle).values), kEncodeError);
  EXPECT_LT(relative_error(doubles(d1), d_oracle.values), kEncodeError);

  const auto m = static_cast<std::int64_t>(shape.m);
  const auto n = static_cast<std::int64_t>(shape.n);
  const auto p = static_cast<std::int64_t>(shape.p);
  Floats z1(shape.p * shape.m);
  Floats dw1(shape.m * shape.n);
  Floats dx1(shape.p * shape.n);
  gemm(Transpose::kNo, Transpose::kYes, p, m, n, 1, x1.data(), n, w1.data(), n, 0, z1.data(), m);
  gemm(Transpose::kYes, Transpose::kNo, m, n, p, 1, d1.data(), m, x1.data(), n, 0, dw1.data(), n);
  gemm(Transpose::kNo, Transpose::kNo, p, n, m, 1, d1.data(), m, w1.data(), n, 0, dx1.data(), n);

  const std::vector<double> z = decode_rows(z1, sk.p, sk.m, sk.p.coefficient, sk.m.reciprocal);
  const std::vector<double> d_weights =
      decode_rows(dw1, sk.m, sk.n, sk.m.coefficient, sk.n.reciprocal);
  const std::vector<double> d_input =
      decode_rows(dx1, sk.p, sk.n, sk.p.reciprocal, sk.n.coefficient);

  // Ten roundings and a sum of `inner` terms, relative to the size of the terms: |A| |B| norm-wise.
  const auto bound = [](const Floats& a, const Floats& b, std::size_t inner, const Matrix& c) {
    const auto norm = [](const auto& values) {
      double sum = 0;
      for (const double v : values) sum += v * v;
      return std::sqrt(sum);
    };
    return 0x1p-24 * (10 + static_cast<double>(inner)) * norm(a) * norm(b) / norm(c.values);
  };
  EXPECT_LT(relative_error(z, layer.z().values), bound(layer.x, layer.w, shape.n, layer.z()));
  EXPECT_LT(relative_error(d_weights, layer.d_weights().values),
            bound(layer.d, layer.x, shape.p, layer.d_weights()));
  EXPECT_LT(relative_error(d_input, layer.d_input().values),
            bound(layer.d, layer.w, shape.m, layer.d_input()));
}

TEST(FusedPasses, AgreeWithTheAlgorithms) {
  SeededRandom random(3);
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.m << " " << shape.n << " " << shape.p);
    for (const std::uint32_t range : {1U, 1024U, 65536U}) {
      expect_fused_passes_agree(random, shape, {range, false});
      expect_fused_passes_agree(random, shape, {range, true});
    }
  }
}

// The size of the coefficients does not cost accuracy: they scale whole dot products.
TEST(FusedPasses, LargeCoefficientsCostNoAccuracy) {
  double errors[2] = {};
  for (int large = 0; large < 2; ++large) {
    SeededRandom random(4);
    const Shape shape{32, 200, 100};
    const Layer layer(random, shape);
    const KeyTriple sk =
        KeyTriple::generate(random, shape.m, shape.n, shape.p, {large != 0 ? 65536U : 1U, false});
    const Floats w1 = encode_rows(layer.w, sk.m, sk.n, sk.m.coefficient, sk.n.reciprocal);
    const Floats x1 = encode_rows(layer.x, sk.p, sk.n, sk.p.reciprocal, sk.n.coefficient);
    Floats z1(shape.p * shape.m);
    gemm(Transpose::kNo, Transpose::kYes, 100, 32, 200, 1, x1.data(), 200, w1.data(), 200, 0,
         z1.data(), 32);
    errors[large] = relative_error(decode_rows(z1, sk.p, sk.m, sk.p.coefficient, sk.m.reciprocal),
                                   layer.z().values);
  }
  EXPECT_LT(errors[1], 3 * errors[0]);
  EXPECT_GT(errors[0], 0);
}

TEST(FusedPasses, FreshKeysHideThePattern) {
  SeededRandom random(6);
  const Shape shape{4, 64, 64};
  const Layer layer(random, shape);
  std::vector<Floats> sent;
  for (int step = 0; step < 2; ++step) {
    const KeyTriple sk = KeyTriple::generate(random, shape.m, shape.n, shape.p, {});
    sent.push_back(encode_rows(layer.x, sk.p, sk.n, sk.p.reciprocal, sk.n.coefficient));
  }
  // Correlation of equal operands under fresh keys, by rank-preserving compression (a coefficient
  // ratio of a thousand would let a few elements decide).
  double xy = 0;
  double xx = 0;
  double yy = 0;
  for (std::size_t i = 0; i < sent[0].size(); ++i) {
    const double x = std::tanh(sent[0][i]);
    const double y = std::tanh(sent[1][i]);
    xy += x * y;
    xx += x * x;
    yy += y * y;
  }
  EXPECT_LT(std::abs(xy / std::sqrt(xx * yy)), 5 / std::sqrt(static_cast<double>(64 * 64)));
}

RC_GTEST_PROP(FusedPasses, AgreeForAnyShapeAndKey, ()) {
  const auto shape =
      Shape{*rc::gen::inRange<std::size_t>(1, 70), *rc::gen::inRange<std::size_t>(1, 150),
            *rc::gen::inRange<std::size_t>(1, 70)};
  const auto space =
      CoefficientSpace{*rc::gen::inRange<std::uint32_t>(1, 65537), *rc::gen::arbitrary<bool>()};
  SeededRandom random(*rc::gen::arbitrary<std::uint64_t>());
  expect_fused_passes_agree(random, shape, space);
  RC_ASSERT(!testing::Test::HasFailure());
}

}  // namespace
}  // namespace tempo
