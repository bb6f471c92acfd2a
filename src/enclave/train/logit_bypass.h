// File: enclave/train/logit_bypass.h
// Models that end in the function that their loss contains, a Softmax (cross-entropy) or a Sigmoid
// (bce), are trained on its input: the loss is a function of the logits, and its gradient through a
// saturated function would be lost to rounding. Predictions keep it.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "enclave/graph/graph.h"
#include "wire/job.h"

namespace tempo {

// While it lives, the graph's output is that function's input, and its node (with Identity nodes
// behind it) is out of the graph. Does nothing for other graphs and losses. The graph must outlive
// it, and executors made of the graph meanwhile must be gone before it is.
class LogitBypass {
 public:
  // Error kUnsupportedModel: a last Softmax over the batch, or a function whose output other nodes
  // use.
  static Result<LogitBypass> apply(Graph& graph, LossKind loss);
  ~LogitBypass();
  LogitBypass(LogitBypass&& other) noexcept;
  LogitBypass& operator=(LogitBypass&&) = delete;

  bool active() const { return !removed_.empty(); }

 private:
  explicit LogitBypass(Graph& graph) : graph_(&graph) {}

  Graph* graph_;
  TensorId output_ = kNoTensor;                        // the graph's own output
  std::vector<std::pair<std::size_t, Node>> removed_;  // by position, ascending
};

}  // namespace tempo
