#include "enclave/nn/layout.h"

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
  std::vector<int> blocks(graph.tensors.size(), 0);
  if (block == 0) return blocks;
  Groups groups(graph.tensors.size());
  std::vector<bool> barred(graph.tensors.size(), false);
  const auto can_block = [&](std::size_t id) {
    return graph.tensors[id].kind == TensorKind::kActivation && shapes[id].size() == 4 &&
           shapes[id][1] % block == 0;
  };
  for (std::size_t id = 0; id < barred.size(); ++id) barred[id] = !can_block(id);
  for (const TensorId id : graph.outputs) barred[static_cast<std::size_t>(id)] = true;
  for (const Node& node : graph.nodes) {
    const OpDef* op = find_op(node.op_type);
    if (op == nullptr || op->blocking == Blocking::kFree) continue;
    std::vector<std::size_t> touched;
    for (const auto& ids : {node.inputs, node.outputs}) {
      for (const TensorId id : ids) {
        if (id == kNoTensor) continue;
        const auto index = static_cast<std::size_t>(id);
        // Parameters keep their layout; operators know that.
        if (graph.tensors[index].kind == TensorKind::kActivation ||
            graph.tensors[index].kind == TensorKind::kInput) {
          touched.push_back(index);
        }
      }
    }
    for (const std::size_t id : touched) {
      if (op->blocking == Blocking::kNone) barred[id] = true;
      groups.join(touched[0], id);
    }
  }
  std::vector<bool> group_barred(barred.size(), false);
  for (std::size_t id = 0; id < barred.size(); ++id) {
    if (barred[id]) group_barred[groups.find(id)] = true;
  }
  for (std::size_t id = 0; id < blocks.size(); ++id) {
    if (!group_barred[groups.find(id)]) blocks[id] = block;
  }
  return blocks;
}

}  // namespace tempo
