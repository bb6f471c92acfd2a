#include "enclave/nn/ops/op_defs.h"

namespace tempo {
namespace {

// Import turns the nodes that it can read into tensors; only others come here.
std::string unsupported(const Graph&, const Node&) {
  return "its value is neither a float32 nor an integer tensor";
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  return shape_error(context.node, "a Constant node has no value");
}

}  // namespace

OpDef constant_op() {
  return {.type = "Constant",
          .notes = "becomes a tensor at import",
          .unsupported = unsupported,
          .infer = infer};
}

}  // namespace tempo
