#include "enclave/nn/feature_view.h"

#include <algorithm>

#include "enclave/nn/kernels.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// Each of `images * blocks` panels of positions x width is transposed; `features_inside_source`
// tells which side is positions x width.
void permute(ThreadPool& pool, const Shape& shape, int block, const float* from, float* to,
             bool accumulate, bool features_inside_source) {
  if (is_onnx_order(shape, block)) {
    for_elements(pool, element_count(shape), [&](std::int64_t begin, std::int64_t count) {
      kernels::copy(from + begin, to + begin, count, accumulate);
    });
    return;
  }
  const std::int64_t width = block == 0 ? shape[1] : block;
  const std::int64_t panels = shape[0] * (shape[1] / width);
  const std::int64_t positions = shape[2] * shape[3];
  const std::int64_t rows = features_inside_source ? positions : width;
  const std::int64_t columns = features_inside_source ? width : positions;
  pool.parallel_for(panels, grain_for(rows * columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      kernels::transpose(from + panel * rows * columns, rows, columns, to + panel * rows * columns,
                         accumulate);
    }
  });
}

}  // namespace

FeatureView feature_view(const Shape& shape, int block) {
  TEMPO_ASSERT(shape.size() >= 2);
  if (shape.size() == 2) return {.positions = shape[0], .width = shape[1]};
  std::int64_t positions = 1;
  for (std::size_t i = 2; i < shape.size(); ++i) positions *= shape[i];
  if (shape.size() != 4 || block == kOnnxOrder) {
    return {.images = shape[0], .blocks = shape[1], .positions = positions, .width = 1};
  }
  if (block == 0) return {.positions = shape[0] * positions, .width = shape[1]};
  return {.images = shape[0], .blocks = shape[1] / block, .positions = positions, .width = block};
}

bool is_onnx_order(const Shape& shape, int block) {
  if (shape.size() != 4 || block == kOnnxOrder) return true;
  return shape[2] * shape[3] == 1 || (block == 0 ? shape[1] : block) == 1;
}

void to_onnx_order(ThreadPool& pool, const Shape& shape, int block, const float* from, float* to,
                   bool accumulate) {
  permute(pool, shape, block, from, to, accumulate, true);
}

void from_onnx_order(ThreadPool& pool, const Shape& shape, int block, const float* from, float* to,
                     bool accumulate) {
  permute(pool, shape, block, from, to, accumulate, false);
}

}  // namespace tempo
