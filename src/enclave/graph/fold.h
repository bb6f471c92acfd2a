// File: enclave/graph/fold.h
// Exporters compute Reshape's target from the input's shape with a handful of integer nodes
// (Shape, Gather, Unsqueeze, Concat). Import evaluates them (evaluate.h) at two batch sizes: what
// comes out the same does not depend on the batch, and no symbolic algebra is needed. Here is where
// such integers come from, and what Reshape makes of them.
// Thread safety: free functions without state.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "enclave/graph/graph.h"

namespace tempo {

inline constexpr std::array<std::int64_t, 2> kProbeBatches = {2, 3};
template <class T>
using PerBatch = std::array<T, kProbeBatches.size()>;

// An integer tensor of rank 0 or 1.
struct FoldedInts {
  bool is_scalar = false;
  PerBatch<std::vector<std::int64_t>> at;

  bool depends_on_batch() const { return at[0] != at[1]; }
};

// Longer integer tensors are not followed: no shape is that long.
inline constexpr std::int64_t kMaxFoldedInts = 64;

// What Shape and Size give.
FoldedInts fold_shape(const Node& node, const PerBatch<Shape>& input);
// Nothing when there are too many elements.
std::optional<FoldedInts> fold_size(const PerBatch<Shape>& input);

// Reshape's target for any batch size, with 0 (copy the input's dimension) or -1 (the rest) where
// the batch stands. `fixed_batch`: the batch size that the file was exported with, or kBatchDim; a
// target that starts with it means the batch. Nothing when there is no such target.
std::optional<std::vector<std::int64_t>> batch_free_target(const FoldedInts& target,
                                                           const PerBatch<Shape>& input,
                                                           bool allow_zero,
                                                           std::int64_t fixed_batch);

}  // namespace tempo
