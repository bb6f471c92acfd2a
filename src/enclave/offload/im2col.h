// File: enclave/offload/im2col.h
// Rows of the im2col matrix one at a time: X is never materialised.
#pragma once

#include <cstdint>

#include "enclave/offload/linear.h"

namespace tempo {

// Position -> (image, output row, output column): position = (image*out_h + oy)*out_w + ox.
struct Im2colRows {
  const ConvGeometry* geometry;

  // Row `position` of X (n floats). Returns a pointer into `input` when the row lies there in one
  // piece, else fills `scratch` (n floats) and returns it.
  const float* gather(const float* input, std::int64_t position, float* scratch) const;

  // Adjoint: adds the n floats of `row` into d_input at the places that gather() reads (col2im).
  // Rows of one image must not be scattered by two threads at the same time.
  void scatter_add(const float* row, std::int64_t position, float* d_input) const;
};

}  // namespace tempo
