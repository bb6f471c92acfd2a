#include "enclave/nn/layout.h"

#include <algorithm>
#include <numeric>

#include "enclave/nn/op.h"

namespace tempo {
namespace {

// Sets of tensors that must share a layout (union by path halving).
class Groups {
 public:
  explicit Groups(std::size_t count) : parent_(count) {
    std::iota(parent_.begin(), parent_.end(), std::size_t{0});
  }
  std::size_t find(std::size_t i) {
    while (parent_[i] != i) {
      parent_[i] = parent_[parent_[i]];
      i = parent_[i];
    }
    return i;
  }
  void join(std::size_t a, std::size_t b) { parent_[find(a)] = find(b); }

 private:
  std::vector<std::size_t> parent_;
};

}  // namespace

std::vector<int> choose_blocks(const Graph& graph, const Shapes& shapes, int block) {
  const std::size_t count = graph.tensors.size();
  Groups groups(count);
  std::vector<bool> is_image(count, false), barred(count, block == 0);
  for (std::size_t id = 0; id < count; ++id) {
    const bool is_input = graph.tensors[id].kind == TensorKind::kInput;
    is_image[id] = is_input;
    if (is_input || shapes[id].size() != 4 || shapes[id][1] % std::max(block, 1) != 0) {
      barred[id] = true;
    }
  }
  for (const TensorId id : graph.outputs) barred[static_cast<std::size_t>(id)] = true;
  for (const Node& node : graph.nodes) {
    const OpDef* op = find_op(node.op_type);
    if (op == nullptr) continue;
    std::vector<std::size_t> touched;
    for (const auto& ids : {node.inputs, node.outputs}) {
      for (const TensorId id : ids) {
        if (id == kNoTensor || is_fixed(graph.tensors[static_cast<std::size_t>(id)])) continue;
        touched.push_back(static_cast<std::size_t>(id));
      }
    }
    for (const std::size_t id : touched) {
      is_image[id] = is_image[id] || op->takes_images;
      const bool is_plain = op->blocking == Blocking::kNone || op->blocking == Blocking::kPlainSame;
      const bool is_same = op->blocking == Blocking::kSame || op->blocking == Blocking::kPlainSame;
      barred[id] = barred[id] || is_plain;
      if (is_same) groups.join(touched[0], id);
    }
  }
  std::vector<bool> group_is_image(count, false), group_barred(count, false);
  for (std::size_t id = 0; id < count; ++id) {
    const std::size_t group = groups.find(id);
    if (is_image[id]) group_is_image[group] = true;
    if (barred[id]) group_barred[group] = true;
  }
  std::vector<int> blocks(count, kOnnxOrder);
  for (std::size_t id = 0; id < count; ++id) {
    const Tensor& tensor = graph.tensors[id];
    const std::size_t group = groups.find(id);
    if (is_fixed(tensor) || tensor.type != DataType::kFloat32 || !group_is_image[group]) continue;
    blocks[id] = group_barred[group] ? 0 : block;
  }
  return blocks;
}

}  // namespace tempo
