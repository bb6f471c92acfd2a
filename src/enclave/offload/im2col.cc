#include "enclave/offload/im2col.h"

#include <cstring>

namespace tempo {
namespace {

// Calls visit(offset in the row, offset in the tensor or -1 for padding, number of floats) for the
// pieces of one row that are contiguous in both.
template <class Visit>
void for_each_piece(const ConvGeometry& g, std::int64_t position, Visit visit) {
  const std::int64_t ox = position % g.out_w;
  const std::int64_t oy = position / g.out_w % g.out_h;
  const std::int64_t image = position / (g.out_w * g.out_h);
  const std::int64_t x0 = ox * g.stride_w - g.pad_left;
  const bool row_in_one_piece = g.dilation_w == 1 && x0 >= 0 && x0 + g.kernel_w <= g.in_w;
  std::int64_t at = 0;
  for (std::int64_t ky = 0; ky < g.kernel_h; ++ky) {
    const std::int64_t y = oy * g.stride_h - g.pad_top + ky * g.dilation_h;
    const std::int64_t line = (image * g.in_h + y) * g.in_w;
    if (y < 0 || y >= g.in_h) {
      visit(at, std::int64_t{-1}, g.kernel_w * g.in_c);
      at += g.kernel_w * g.in_c;
    } else if (row_in_one_piece) {
      visit(at, (line + x0) * g.in_c, g.kernel_w * g.in_c);
      at += g.kernel_w * g.in_c;
    } else {
      for (std::int64_t kx = 0; kx < g.kernel_w; ++kx) {
        const std::int64_t x = x0 + kx * g.dilation_w;
        visit(at, x < 0 || x >= g.in_w ? std::int64_t{-1} : (line + x) * g.in_c, g.in_c);
        at += g.in_c;
      }
    }
  }
}

}  // namespace

const float* Im2colRows::gather(const float* input, std::int64_t position, float* scratch) const {
  const ConvGeometry& g = *geometry;
  if (g.is_direct()) return input + position * g.in_c;
  for_each_piece(g, position, [&](std::int64_t at, std::int64_t from, std::int64_t count) {
    if (from < 0) {
      std::memset(scratch + at, 0, static_cast<std::size_t>(count) * sizeof(float));
    } else {
      std::memcpy(scratch + at, input + from, static_cast<std::size_t>(count) * sizeof(float));
    }
  });
  return scratch;
}

void Im2colRows::scatter_add(const float* row, std::int64_t position, float* d_input) const {
  for_each_piece(*geometry, position, [&](std::int64_t at, std::int64_t to, std::int64_t count) {
    if (to < 0) return;
    for (std::int64_t i = 0; i < count; ++i) d_input[to + i] += row[at + i];
  });
}

}  // namespace tempo
