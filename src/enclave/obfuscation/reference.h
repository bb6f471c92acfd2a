// File: enclave/obfuscation/reference.h
// Algorithms 2 and 3 of the paper on whole matrices, in float64, as they are printed and without
// any of the kernels: the oracle of the tests. Not part of the product.
#pragma once

#include <cstddef>
#include <vector>

#include "enclave/obfuscation/key.h"

namespace tempo::reference {

struct Matrix {
  Matrix(std::size_t row_count, std::size_t col_count)
      : rows(row_count), cols(col_count), values(row_count * col_count) {}
  double& operator()(std::size_t i, std::size_t j) { return values[i * cols + j]; }
  double operator()(std::size_t i, std::size_t j) const { return values[i * cols + j]; }

  std::size_t rows;
  std::size_t cols;
  std::vector<double> values;
};

Matrix transpose(const Matrix& a);
Matrix multiply(const Matrix& a, const Matrix& b);

// The three axis keys sk[0], sk[1], sk[2] that Enc and Dec use, of sizes m, n and p for them.
struct KeyView {
  const AxisKey& rows;   // c_m, pi_m
  const AxisKey& inner;  // c_n, pi_n
  const AxisKey& cols;   // c_p, pi_p
};
// [[sk]]_phi, shifted left: the direction that works.
KeyView shift_left(const KeyTriple& sk, int phi);
// [[sk]]_phi[i] = sk[(i - phi) mod 3], as the paper prints it.
KeyView shift_right(const KeyTriple& sk, int phi);

struct Encoded {
  Matrix a;
  Matrix b;
};
// Algorithm 2: A'(i,j) = c_m(i) / c_n(j) A(pi_m(i), pi_n(j)), B'(i,j) = c_n(i) / c_p(j)
// B(pi_n(i), pi_p(j)).
Encoded enc(const KeyView& sk, const Matrix& a, const Matrix& b);
// Algorithm 3, lines 1 and 2: C(i,j) = c_p(pi_p^-1(j)) / c_m(pi_m^-1(i)) C'(pi_m^-1(i),
// pi_p^-1(j)).
Matrix dec(const KeyView& sk, const Matrix& c);

}  // namespace tempo::reference
