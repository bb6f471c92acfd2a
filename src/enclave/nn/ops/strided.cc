#include "enclave/nn/ops/strided.h"

#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/op.h"
#include "enclave/nn/ops/strided_loop.h"

namespace tempo {

std::int64_t offset_of(std::int64_t index, const Shape& dims, const Shape& strides) {
  std::int64_t offset = 0;
  for (std::size_t i = dims.size(); i-- > 0;) {
    offset += index % dims[i] * strides[i];
    index /= dims[i];
  }
  return offset;
}

std::vector<std::int64_t> offsets_of(const Shape& dims, const Shape& strides) {
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(element_count(dims)));
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    offsets[i] = offset_of(static_cast<std::int64_t>(i), dims, strides);
  }
  return offsets;
}

Shape onnx_strides(const Shape& shape) {
  Shape strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

Shape activation_strides(const Shape& shape, int block) {
  TEMPO_ASSERT(block <= 0);
  if (is_onnx_order(shape, block)) return onnx_strides(shape);
  const std::int64_t row = shape[3] * shape[1];
  return {shape[2] * row, 1, row, shape[1]};
}

Shape broadcast_strides(const Shape& shape, int block, std::size_t rank) {
  const Shape own = activation_strides(shape, block);
  Shape strides(rank, 0);
  const std::size_t missing = rank - shape.size();
  for (std::size_t i = 0; i < shape.size(); ++i) strides[missing + i] = shape[i] == 1 ? 0 : own[i];
  return strides;
}

void strided_copy(ThreadPool& pool, const Shape& dims, const float* from, const Shape& from_strides,
                  float* to, const Shape& to_strides, bool accumulate, float scale) {
  const StridedLoop<2> loop(dims, {to_strides, from_strides});
  const std::int64_t size = loop.inner().size;
  const std::int64_t y_stride = loop.inner().strides[0], x_stride = loop.inner().strides[1];
  loop.parallel_rows(pool, [&](const auto& at) {
    float* y = to + at[0];
    const float* x = from + at[1];
    if (x_stride == 1 && y_stride == 1 && scale == 1) {
      kernels::copy(x, y, size, accumulate);
      return;
    }
    for (std::int64_t i = 0; i < size; ++i) {
      const float value = scale * x[i * x_stride];
      y[i * y_stride] = accumulate ? y[i * y_stride] + value : value;
    }
  });
}

void sum_parts(ThreadPool& pool, const Shape& dims, const float* from, const Shape& from_strides,
               const Shape& summed, const Shape& summed_strides, float* to, const Shape& to_strides,
               bool accumulate, double scale) {
  const std::vector<std::int64_t> offsets = offsets_of(summed, summed_strides);
  pool.parallel_for(element_count(dims), grain_for(element_count(summed)),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t k = begin; k < end; ++k) {
                        const float* first = from + offset_of(k, dims, from_strides);
                        double sum = 0;
                        for (const std::int64_t offset : offsets) {
                          sum += static_cast<double>(first[offset]);
                        }
                        const auto value = static_cast<float>(sum * scale);
                        float& target = to[offset_of(k, dims, to_strides)];
                        target = accumulate ? target + value : value;
                      }
                    });
}

void copy_part(ThreadPool& pool, DataType type, const Shape& dims, const float* from,
               const Part& from_part, float* to, const Part& to_part) {
  if (type == DataType::kFloat32) {
    strided_copy(pool, dims, from + from_part.offset, from_part.strides, to + to_part.offset,
                 to_part.strides, false);
    return;
  }
  const std::int64_t* x = OpContext::ints(from) + from_part.offset;
  std::int64_t* y = OpContext::ints(to) + to_part.offset;
  const StridedLoop<2> loop(dims, {to_part.strides, from_part.strides});
  loop.parallel_rows(pool, [&](const auto& at) {
    const auto& [size, strides] = loop.inner();
    for (std::int64_t i = 0; i < size; ++i) {
      y[at[0] + i * strides[0]] = x[at[1] + i * strides[1]];
    }
  });
}

}  // namespace tempo
