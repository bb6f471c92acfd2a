// File: matrix/gemm.h
// The one front to the BLAS: row-major single-precision matrix products. Used inside the enclave
// for what stays there and by the cpu worker device. Backed by oneDNN's sgemm.
#pragma once

#include <cstdint>

namespace tempo {

enum class Transpose : bool { kNo = false, kYes = true };

// C (rows x cols) = alpha * op(A) op(B) + beta * C, with op(A) rows x inner, op(B) inner x cols.
// lda, ldb, ldc: elements from one stored row to the next. rows, cols, inner >= 1. A, B and C do
// not overlap. Thread safe; uses the OpenMP threads of the calling process. beta == 0 never reads
// C.
void gemm(Transpose trans_a, Transpose trans_b, std::int64_t rows, std::int64_t cols,
          std::int64_t inner, float alpha, const float* a, std::int64_t lda, const float* b,
          std::int64_t ldb, float beta, float* c, std::int64_t ldc);

// Sets the number of OpenMP threads that gemm and oneDNN primitives use from this thread on.
void set_gemm_threads(int threads);

}  // namespace tempo
