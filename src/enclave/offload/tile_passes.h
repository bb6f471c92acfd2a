// File: enclave/offload/tile_passes.h
// The enclave's passes over one tile: encode operands straight into shared memory with the check
// sums that ride on it; copy results in once, check every row, decode what passed. No scheduling
// and no state beyond what is passed in.
//
// Positions of a tile are visited in natural order, so that enclave tensors are read and written
// front to back; the position key lives in the address of the ring row alone. Work is cut into
// chunks at image borders: two threads never touch the same image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "enclave/integrity/freivalds.h"
#include "enclave/obfuscation/key.h"
#include "enclave/offload/im2col.h"
#include "enclave/offload/linear.h"
#include "enclave/offload/plan.h"

namespace tempo {

// The positions of one p-slice in natural order and the ring row of each.
struct TileRows {
  std::vector<std::uint32_t> position;  // ascending
  std::vector<std::uint32_t> ring_row;  // in [0, size)
  std::vector<std::size_t> chunks;      // chunk c is [chunks[c], chunks[c+1])
  std::size_t first_encoded = 0;        // encoded index of ring row 0
  std::size_t size() const { return position.size(); }
  std::size_t chunk_count() const { return chunks.size() - 1; }
};

// Splits the permuted positions into tiles; slices as in OpPlan::p_slices.
std::vector<TileRows> make_tile_rows(const ConvGeometry& geometry, const AxisKey& p_key,
                                     const std::vector<Slice>& slices);

// Check vectors of one product, drawn once, used for one verdict.
//   operand: rounds x inner-side columns, natural order, what the operand's rows are multiplied by
//   operand_squares: weights of the squared operand in the magnitude
//   result: rounds x result columns, encoded order, with the column's decoding factor folded in
//   result_squares: squared decoding factors, encoded order
struct ProductChecks {
  int rounds = 0;
  std::vector<float> operand;
  std::vector<float> operand_squares;
  std::vector<float> result;
  std::vector<float> result_squares;
};

// Expected sums of the rows of one product.
struct ExpectedRows {
  std::vector<double> sums;       // rows x rounds
  std::vector<double> magnitude;  // rows
  void reset(std::size_t rows, int rounds);
  // False when the operands are so large that sums or magnitudes overflow: such rows cannot be
  // checked, whatever the worker returned.
  bool is_finite() const;
};

// What the rows of X contribute to the check of the weight gradient.
struct InputProjections {
  std::vector<float> projections;  // rows x rounds: X_i . s
  std::vector<float> norms;        // rows: |X_i|^2
};

// Out-features of a slice as they lie in the tensors of the operator's parts: `width` columns from
// data[0] on of a matrix whose rows are `stride` apart. A slice is a list of them, side by side.
struct Columns {
  const float* data = nullptr;
  std::size_t width = 0;
  std::size_t stride = 0;
};
struct OutputColumns {
  float* data = nullptr;
  const float* bias = nullptr;  // `width` values, or null
  std::size_t width = 0;
  std::size_t stride = 0;
};
// W by the slice's out-features: each a row of all in-features. Those of one Columns follow each
// other in memory.
using WeightRows = std::vector<const float*>;

// One linear operator in one step, as the passes see it, or an n-slice of one: n_key->subset then
// says which columns of X, W and their gradients it has (all tensors are those of the whole
// operator; geometry->is_direct()). Pointers are borrowed.
struct TileContext {
  const ConvGeometry* geometry = nullptr;
  const AxisKey* n_key = nullptr;
  const AxisKey* p_key = nullptr;
  ThreadPool* pool = nullptr;
  CheckDistribution distribution = CheckDistribution::kUniform;
};

// ---- check vectors ---------------------------------------------------------------------------
// Z = X W^T over the out-features of a slice.
ProductChecks forward_checks(const TileContext& context, RandomSource& random, int rounds,
                             const WeightRows& weights, const AxisKey& m_key);
// dX = D W over the out-features of a slice.
ProductChecks input_gradient_checks(const TileContext& context, RandomSource& random, int rounds,
                                    const WeightRows& weights);
// dW = D^T X; `operand` holds the vectors that X's rows are projected on.
ProductChecks weight_gradient_checks(const TileContext& context, RandomSource& random, int rounds);

// ---- encode ----------------------------------------------------------------------------------
// W' of a slice of out-features, row-major slice x n.
void encode_weights(const TileContext& context, const WeightRows& weights, const AxisKey& m_key,
                    std::byte* out);

// X' of a tile (rows x n) into `out`, or only the sums when out is null. `forward` and `gradient`
// may be null; then their outputs are not touched.
void encode_input(const TileContext& context, const float* input, const TileRows& rows,
                  const ProductChecks* forward, ExpectedRows* expected,
                  const ProductChecks* gradient, InputProjections* projections, std::byte* out);

// D' of a tile (rows x slice). `input_gradient` null: no sums for dX. `projections` null: no sums
// for dW; else adds to `weight_expected` (slice rows).
void encode_gradient(const TileContext& context, const std::vector<Columns>& d_output,
                     const TileRows& rows, const AxisKey& m_key,
                     const ProductChecks* input_gradient, ExpectedRows* input_expected,
                     const InputProjections* projections, int rounds, ExpectedRows* weight_expected,
                     std::byte* out);

// ---- check and decode ------------------------------------------------------------------------
// Rows that passed are decoded even when others did not.

struct CheckOutcome {
  bool passed = false;  // every row did
  // The largest error that a row was allowed, in units of its rms or the product's, whichever is
  // larger; 0 for products that are zero, or too small to move a weight (kNegligible).
  double tolerance_over_rms = 0;
  std::size_t refused_rows = 0;
  // Of the refused row that is furthest off: row_deviation(), and what it was allowed. In units of
  // the product's rms, as rows that passed have it, or else as the operands let expect. The largest
  // of several estimates, and of rows that were refused: on average too large rather than too
  // small.
  double deviation_over_rms = 0;
  double refused_tolerance_over_rms = 0;
};

// Z' of a tile into the slice's columns of the outputs, biases added. `moments`: null, or filled
// with the moments of the tile's rows over the slice (only meaningful when all passed).
CheckOutcome decode_output(const TileContext& context, const std::byte* reply, const TileRows& rows,
                           const AxisKey& m_key, const ProductChecks& checks,
                           const ExpectedRows& expected, const std::vector<OutputColumns>& output,
                           ColumnMoments* moments);

// dX' of a tile, added to d_input. `features`: out-features summed. `applied` (one flag a row)
// keeps rows from being added twice.
CheckOutcome decode_input_gradient(const TileContext& context, const std::byte* reply,
                                   const TileRows& rows, std::int64_t features,
                                   const ProductChecks& checks, const ExpectedRows& expected,
                                   std::vector<std::uint8_t>& applied, float* d_input);

// dW' of a group, added to d_weights: a row of n an out-feature of the slice. `inner`: positions
// summed. `applied` as above, one flag an out-feature.
CheckOutcome decode_weight_gradient(const TileContext& context, const std::byte* reply,
                                    const AxisKey& m_key, const ProductChecks& checks,
                                    const ExpectedRows& expected, std::int64_t inner,
                                    std::vector<std::uint8_t>& applied,
                                    const std::vector<float*>& d_weights);

// ---- the same products inside the enclave -----------------------------------------------------
void compute_output(const TileContext& context, const float* input, const WeightRows& weights,
                    const TileRows& rows, const std::vector<OutputColumns>& output,
                    ColumnMoments* moments);
void compute_input_gradient(const TileContext& context, const std::vector<Columns>& d_output,
                            const WeightRows& weights, const TileRows& rows,
                            const std::vector<std::uint8_t>& applied, float* d_input);
// Adds the tile's part of dW to `sum` (slice x n).
void compute_weight_gradient(const TileContext& context, const float* input,
                             const std::vector<Columns>& d_output, const TileRows& rows,
                             float* sum);
// Adds the rows of `sum` that are not `applied` to d_weights.
void add_weight_gradient(const TileContext& context, const float* sum,
                         const std::vector<std::uint8_t>& applied,
                         const std::vector<float*>& d_weights);

// ---- the sum over n-slices ----------------------------------------------------------------------
// Z from the products of all n-slices (positions x out-features each), added in this order, and
// biases. The moments of the sum, or none.
ColumnMoments add_partial_outputs(ThreadPool& pool, std::int64_t positions,
                                  const std::vector<AlignedBuffer<float>>& partials,
                                  const std::vector<OutputColumns>& output, bool wants_moments);

}  // namespace tempo
