// File: enclave/train/softmax_bypass.h
// Models that end in a Softmax are trained on its input: the loss is a function of the logits, and
// its gradient through a saturated Softmax would be lost to rounding. Predictions keep the Softmax.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "base/error.h"
#include "enclave/graph/graph.h"

namespace tempo {

// While it lives, the graph's output is the last Softmax's input, and the Softmax (with Identity
// nodes behind it) is out of the graph. Does nothing for other graphs. The graph must outlive it,
// and executors made of the graph meanwhile must be gone before it is.
class SoftmaxBypass {
 public:
  // Error kUnsupportedModel: a last Softmax over the batch, or one whose output other nodes use.
  static Result<SoftmaxBypass> apply(Graph& graph);
  ~SoftmaxBypass();
  SoftmaxBypass(SoftmaxBypass&& other) noexcept;
  SoftmaxBypass& operator=(SoftmaxBypass&&) = delete;

  bool active() const { return !removed_.empty(); }

 private:
  explicit SoftmaxBypass(Graph& graph) : graph_(&graph) {}

  Graph* graph_;
  TensorId output_ = kNoTensor;                        // the graph's own output
  std::vector<std::pair<std::size_t, Node>> removed_;  // by position, ascending
};

}  // namespace tempo
