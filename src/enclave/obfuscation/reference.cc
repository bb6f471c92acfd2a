#include "enclave/obfuscation/reference.h"

#include "base/error.h"

namespace tempo::reference {
namespace {

// A'(i,j) = c_r(i) / c_c(j) A(pi_r(i), pi_c(j))
Matrix enc_one(const AxisKey& row_key, const AxisKey& col_key, const Matrix& a) {
  TEMPO_ASSERT(a.rows == row_key.size() && a.cols == col_key.size());
  Matrix out(a.rows, a.cols);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t j = 0; j < a.cols; ++j) {
      out(i, j) = static_cast<double>(row_key.coefficient[i]) / col_key.coefficient[j] *
                  a(row_key.permutation[i], col_key.permutation[j]);
    }
  }
  return out;
}

}  // namespace

Matrix transpose(const Matrix& a) {
  Matrix out(a.cols, a.rows);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t j = 0; j < a.cols; ++j) out(j, i) = a(i, j);
  }
  return out;
}

Matrix multiply(const Matrix& a, const Matrix& b) {
  TEMPO_ASSERT(a.cols == b.rows);
  Matrix out(a.rows, b.cols);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t k = 0; k < a.cols; ++k) {
      for (std::size_t j = 0; j < b.cols; ++j) out(i, j) += a(i, k) * b(k, j);
    }
  }
  return out;
}

KeyView shift_left(const KeyTriple& sk, int phi) {
  return {sk.shifted(phi, 0), sk.shifted(phi, 1), sk.shifted(phi, 2)};
}

KeyView shift_right(const KeyTriple& sk, int phi) {
  return shift_left(sk, (3 - phi % 3) % 3);
}

Encoded enc(const KeyView& sk, const Matrix& a, const Matrix& b) {
  return {enc_one(sk.rows, sk.inner, a), enc_one(sk.inner, sk.cols, b)};
}

Matrix dec(const KeyView& sk, const Matrix& c) {
  TEMPO_ASSERT(c.rows == sk.rows.size() && c.cols == sk.cols.size());
  Matrix out(c.rows, c.cols);
  for (std::size_t i = 0; i < c.rows; ++i) {
    for (std::size_t j = 0; j < c.cols; ++j) {
      const std::size_t from_i = sk.rows.inverse[i];
      const std::size_t from_j = sk.cols.inverse[j];
      out(i, j) = static_cast<double>(sk.cols.coefficient[from_j]) / sk.rows.coefficient[from_i] *
                  c(from_i, from_j);
    }
  }
  return out;
}

}  // namespace tempo::reference
