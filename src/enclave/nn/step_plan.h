// File: enclave/nn/step_plan.h
// Everything about a training or inference step that is known before the first one: which nodes
// run when, forward and backward, what each of them is given, and where every tensor lies.
// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/executor.h"
#include "enclave/offload/linear.h"

namespace tempo {

// One node that runs. A Relu that the node before it does as well has none of its own. The nodes of
// a stack (linear.h) follow each other, run as one, and are the parts of one linear operator.
struct PlannedNode {
  int node = 0;     // index in the graph
  int linear = -1;  // index in StepPlan::linear_ops, or -1
  int part = 0;     // linear: which one of the operator's
  bool fused_relu = false;
  TensorId result = kNoTensor;     // what out[0] is: the Relu's output when fused
  bool delivers_moments = false;   // linear: to the BatchNormalization that reads the result
  std::int64_t saved_offset = -1;  // bytes in the arena
  // Backward, by input: whether its gradient is wanted, and whether it adds to what is there.
  bool has_backward = false;
  std::vector<bool> wants = {};
  std::vector<bool> accumulates = {};
  // Parameters that are done with once this node went backward: gradients are complete, and nothing
  // reads the values any more in this step. Those that no node has are done with at its end.
  std::vector<TensorId> finished = {};
};

struct StepPlan {
  Shapes shapes;
  std::vector<int> blocks;  // channel block by TensorId
  std::vector<TensorId> inputs;
  std::vector<TensorId> outputs;   // those that are computed
  std::vector<PlannedNode> nodes;  // in the order of forward; backward runs in reverse
  std::vector<LinearOp> linear_ops;
  // Offsets in bytes by TensorId; -1 where there is none.
  std::vector<std::int64_t> value_offsets;
  std::vector<std::int64_t> gradient_offsets;
  std::int64_t arena_bytes = 0;
  std::int64_t peak_bytes = 0;  // no arena could be smaller
};

// Graphs with more nodes are refused: planning is quadratic in it.
inline constexpr std::size_t kMaxPlannedNodes = 20000;

// The operator that goes backward last, where its weight gradients may come a step late: layers of
// which nobody else reads the weights. Else null.
const LinearOp* late_operator(const Graph& graph, const StepPlan& plan);

// Errors: those of infer_shapes; kUnsupportedModel for an output that no node makes, one to train
// on that is not float32, and too many nodes.
Result<StepPlan> make_step_plan(const Graph& graph, const ExecutorOptions& options);

}  // namespace tempo
