#include "enclave/graph/storage.h"

#include <algorithm>

namespace tempo {
namespace {

// `count` independent matrices of rows x columns, each transposed. Both layouts are this: weights
// (O, I, kh, kw) are O matrices of I x (kh * kw).
void transpose_each(const float* in, float* out, std::int64_t count, std::int64_t rows,
                    std::int64_t columns) {
  constexpr std::int64_t kBlock = 32;  // two blocks fit into the first-level cache
  for (std::int64_t k = 0; k < count; ++k) {
    const float* source = in + k * rows * columns;
    float* target = out + k * rows * columns;
    for (std::int64_t r0 = 0; r0 < rows; r0 += kBlock) {
      const std::int64_t r1 = std::min(rows, r0 + kBlock);
      for (std::int64_t c0 = 0; c0 < columns; c0 += kBlock) {
        const std::int64_t c1 = std::min(columns, c0 + kBlock);
        for (std::int64_t c = c0; c < c1; ++c) {
          for (std::int64_t r = r0; r < r1; ++r) target[c * rows + r] = source[r * columns + c];
        }
      }
    }
  }
}

struct Matrices {
  std::int64_t count = 0, rows = 0, columns = 0;
};

Matrices onnx_matrices(const Shape& dims, Storage storage) {
  if (storage == Storage::kConvWeights) {
    TEMPO_ASSERT(dims.size() == 4);
    return {dims[0], dims[1], dims[2] * dims[3]};
  }
  TEMPO_ASSERT(dims.size() == 2);
  return {1, dims[0], dims[1]};
}

}  // namespace

std::vector<float> to_storage(std::vector<float> values, const Shape& dims, Storage storage) {
  if (storage == Storage::kOnnx) return values;
  const Matrices m = onnx_matrices(dims, storage);
  std::vector<float> out(values.size());
  transpose_each(values.data(), out.data(), m.count, m.rows, m.columns);
  return out;
}

void from_storage(std::span<const float> values, const Shape& dims, Storage storage,
                  std::span<float> out) {
  TEMPO_ASSERT(values.size() == out.size());
  if (storage == Storage::kOnnx) {
    std::copy(values.begin(), values.end(), out.begin());
    return;
  }
  const Matrices m = onnx_matrices(dims, storage);
  transpose_each(values.data(), out.data(), m.count, m.columns, m.rows);
}

}  // namespace tempo
