#include "enclave/nn/ops/broadcast.h"

#include <algorithm>

#include "enclave/nn/ops/op_defs.h"

namespace tempo {
namespace {

// One logical dimension of the result in memory, outermost first: `step` indices of dimension
// `dim` at a time.
struct MemoryDim {
  std::size_t dim;
  std::int64_t size;
  std::int64_t step;
};

std::vector<MemoryDim> memory_dims(const Shape& shape, int block) {
  std::vector<MemoryDim> dims;
  if (is_onnx_order(shape, block)) {
    for (std::size_t i = 0; i < shape.size(); ++i) dims.push_back({i, shape[i], 1});
    return dims;
  }
  const std::int64_t width = block == 0 ? shape[1] : block;
  return {{0, shape[0], 1},
          {1, shape[1] / width, width},
          {2, shape[2], 1},
          {3, shape[3], 1},
          {1, width, 1}};
}

// Element stride of one memory dimension of the result in an operand; 0 where it broadcasts.
std::int64_t stride_in(const Shape& operand, const std::vector<MemoryDim>& layout,
                       std::size_t out_rank, const MemoryDim& out_dim) {
  const std::size_t missing = out_rank - operand.size();
  if (out_dim.dim < missing || operand[out_dim.dim - missing] == 1) return 0;
  const std::size_t dim = out_dim.dim - missing;
  // The outermost memory dimension of `dim` whose step divides out_dim's step.
  std::int64_t stride = 1, best = 0;
  for (std::size_t i = layout.size(); i-- > 0;) {
    if (layout[i].dim == dim && out_dim.step % layout[i].step == 0) {
      best = stride * (out_dim.step / layout[i].step);
    }
    stride *= layout[i].size;
  }
  return best;
}

}  // namespace

Result<std::vector<Shape>> broadcast_shape(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 2));
  const Shape& a = context.inputs[0];
  const Shape& b = context.inputs[1];
  Shape out(std::max(a.size(), b.size()), 1);
  for (std::size_t i = 1; i <= out.size(); ++i) {
    const std::int64_t da = i <= a.size() ? a[a.size() - i] : 1;
    const std::int64_t db = i <= b.size() ? b[b.size() - i] : 1;
    if (da != db && da != 1 && db != 1) {
      return shape_error(context.node, context.node.op_type + "'s operands do not broadcast",
                         shape_to_string(a), shape_to_string(b));
    }
    out[out.size() - i] = std::max(da, db);
  }
  if (out.size() > kMaxBroadcastRank) {
    return shape_error(context.node, context.node.op_type + "'s operands have too many dimensions",
                       "at most " + std::to_string(kMaxBroadcastRank), std::to_string(out.size()));
  }
  return std::vector<Shape>{out};
}

std::string unsupported_pair(const Graph& graph, const Node& node) {
  if (node.inputs.size() != 2) return "only two operands";  // import splits longer lists
  const Tensor* a = input_tensor(graph, node, 0);
  const Tensor* b = input_tensor(graph, node, 1);
  if (a == nullptr || b == nullptr || a->type != b->type) return "its operands have several types";
  return unsupported_storage(graph, node);
}

BroadcastWalk::BroadcastWalk(const OpContext& context) {
  const Shape& out = context.out_shape(0);
  const std::vector<MemoryDim> out_dims = memory_dims(out, context.out_block(0));
  rank_ = out_dims.size();
  for (std::size_t i = 0; i < rank_; ++i) dims_[i] = out_dims[i].size;
  for (std::size_t side = 0; side < 2; ++side) {
    const Shape& shape = context.in_shape(static_cast<int>(side));
    const auto layout = memory_dims(shape, context.in_block(static_cast<int>(side)));
    std::int64_t dense = 1;
    is_whole_[side] = true;
    for (std::size_t i = rank_; i-- > 0;) {
      strides_[side][i] = stride_in(shape, layout, out.size(), out_dims[i]);
      is_whole_[side] = is_whole_[side] && (dims_[i] == 1 || strides_[side][i] == dense);
      dense *= dims_[i];
    }
  }
}

std::int64_t BroadcastWalk::row_count() const {
  std::int64_t count = 1;
  for (std::size_t i = 0; i + 1 < rank_; ++i) count *= dims_[i];
  return count;
}

bool BroadcastWalk::is_row(std::size_t side) const {
  for (std::size_t i = 0; i + 1 < rank_; ++i) {
    if (dims_[i] > 1 && strides_[side][i] != 0) return false;
  }
  return inner_stride(side) == 1;
}

}  // namespace tempo
