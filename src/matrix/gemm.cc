#include "matrix/gemm.h"

#include <dnnl.h>
#include <omp.h>

#include "base/error.h"

namespace tempo {

void gemm(Transpose trans_a, Transpose trans_b, std::int64_t rows, std::int64_t cols,
          std::int64_t inner, float alpha, const float* a, std::int64_t lda, const float* b,
          std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  const dnnl_status_t status =
      dnnl_sgemm(trans_a == Transpose::kYes ? 'T' : 'N', trans_b == Transpose::kYes ? 'T' : 'N',
                 rows, cols, inner, alpha, a, lda, b, ldb, beta, c, ldc);
  TEMPO_ASSERT(status == dnnl_success);
}

void set_gemm_threads(int threads) {
  omp_set_num_threads(threads);
}

}  // namespace tempo
