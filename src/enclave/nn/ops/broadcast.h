// File: enclave/nn/ops/broadcast.h
// Two operands that are broadcast to one result (ONNX's multidirectional broadcasting), walked in
// the order in which the result lies in memory, whatever the layouts of the three.
// Thread safety: plain data once made.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "enclave/nn/kernels.h"
#include "enclave/nn/op.h"
#include "enclave/nn/parallel.h"

namespace tempo {

inline constexpr std::size_t kMaxBroadcastRank = 7;

// Shape rule. Errors: kBadModel for operands that do not broadcast.
Result<std::vector<Shape>> broadcast_shape(const ShapeContext& context);

// OpDef::unsupported of operators of two operands of one type.
std::string unsupported_pair(const Graph& graph, const Node& node);

class BroadcastWalk {
 public:
  // Of a node with two operands and one result.
  explicit BroadcastWalk(const OpContext& context);

  std::int64_t elements() const { return row_count() * width(); }
  // The result is row_count() rows of width() elements.
  std::int64_t width() const { return rank_ == 0 ? 1 : dims_[rank_ - 1]; }
  std::int64_t row_count() const;
  // Between neighbours of a row in an operand; 0 where it broadcasts.
  std::int64_t inner_stride(std::size_t side) const {
    return rank_ == 0 ? 0 : strides_[side][rank_ - 1];
  }
  // The operand is walked element for element.
  bool is_whole(std::size_t side) const { return is_whole_[side]; }
  // The operand is one row that goes to every row of the result.
  bool is_row(std::size_t side) const;

  // Calls body(out offset, offset in a, offset in b) for the rows in [begin, end).
  template <class Body>
  void rows(std::int64_t begin, std::int64_t end, const Body& body) const {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t rest = row;
      std::array<std::int64_t, 2> at{};
      for (std::size_t i = rank_ == 0 ? 0 : rank_ - 1; i-- > 0;) {
        const std::int64_t index = rest % dims_[i];
        rest /= dims_[i];
        at[0] += index * strides_[0][i];
        at[1] += index * strides_[1][i];
      }
      body(row * width(), at[0], at[1]);
    }
  }

 private:
  static constexpr std::size_t kMaxDims = kMaxBroadcastRank + 1;  // rank 4, blocked, has 5

  std::array<std::int64_t, kMaxDims> dims_{};
  std::size_t rank_ = 0;
  std::array<std::array<std::int64_t, kMaxDims>, 2> strides_{};
  std::array<bool, 2> is_whole_{};
};

// out = value(a, b), element by element; T: of operands and result.
template <class T, class Value>
void map_pairs(OpContext& context, const Value& value) {
  const BroadcastWalk walk(context);
  const T* a = OpContext::elements<T>(context.in[0]);
  const T* b = OpContext::elements<T>(context.in[1]);
  T* out = OpContext::elements<T>(context.out[0]);
  const std::int64_t width = walk.width();
  const std::int64_t sa = walk.inner_stride(0), sb = walk.inner_stride(1);
  context.pool.parallel_for(
      walk.row_count(), grain_for(width), [&](std::int64_t begin, std::int64_t end) {
        walk.rows(begin, end, [&](std::int64_t to, std::int64_t at_a, std::int64_t at_b) {
          for (std::int64_t i = 0; i < width; ++i) {
            out[to + i] = value(a[at_a + i * sa], b[at_b + i * sb]);
          }
        });
      });
}

// The gradient of an operand that is not whole, summed over what was broadcast. rows(begin, end,
// body) calls body(offset of the row in the operand, its gradient) for rows of the result.
template <class Rows>
void sum_broadcast(OpContext& context, const BroadcastWalk& walk, std::size_t side,
                   const Rows& rows) {
  const std::int64_t width = walk.width();
  if (walk.is_row(side)) {
    const FeatureView view{.positions = walk.row_count(), .width = width};
    const auto add_rows = [&](const RowRun& run, double* to) {
      const std::int64_t first = run.offset / width;
      rows(first, first + run.rows,
           [&](std::int64_t, const float* row) { kernels::column_sums(row, 1, width, to); });
    };
    store_sums(reduce_rows(context.pool, view, 1, add_rows), context.d_in[side],
               context.accumulate[side]);
    return;
  }
  // Whatever else was broadcast, on one thread.
  std::vector<double> sums(
      static_cast<std::size_t>(element_count(context.in_shape(static_cast<int>(side)))), 0.0);
  const std::int64_t stride = walk.inner_stride(side);
  rows(0, walk.row_count(), [&](std::int64_t at, const float* row) {
    double* to = sums.data() + at;
    if (stride == 1) {
      kernels::column_sums(row, 1, width, to);
      return;
    }
    for (std::int64_t i = 0; i < width; ++i) to[i * stride] += static_cast<double>(row[i]);
  });
  store_sums(sums, context.d_in[side], context.accumulate[side]);
}

}  // namespace tempo
