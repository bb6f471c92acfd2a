// Operators that are gone after import, which turns them into tensors or other operators. They
// stand in the table for whoever reads it; only nodes that import could not read come here.
#include "enclave/nn/ops/op_defs.h"

namespace tempo {
namespace {

std::string unsupported_constant(const Graph&, const Node&) {
  return "its value is neither a float32 nor an integer tensor";
}

std::string unsupported_here(const Graph&, const Node&) {
  return "it could not be written as other operators";
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  return shape_error(context.node, context.node.op_type + " has no shape rule");
}

OpDef replaced_op(std::string_view type, int min_opset, std::string_view notes) {
  return {.type = type,
          .min_opset = min_opset,
          .notes = notes,
          .unsupported = unsupported_here,
          .infer = infer};
}

}  // namespace

OpDef attention_op() {
  return replaced_op("Attention", 23,
                     "becomes products and a softmax at import; no past keys, no softcap, as many "
                     "heads of keys as of queries");
}

OpDef cast_like_op() {
  return replaced_op("CastLike", 15, "becomes a Cast at import");
}

OpDef constant_op() {
  OpDef op = replaced_op("Constant", 1, "becomes a tensor at import");
  op.unsupported = unsupported_constant;
  return op;
}

OpDef depth_to_space_op() {
  return replaced_op("DepthToSpace", 1, "becomes Reshapes and a Transpose at import");
}

OpDef mean_op() {
  return replaced_op("Mean", 6, "becomes Adds and a Div at import");
}

OpDef sequence_at_op() {
  return replaced_op("SequenceAt", 11, "of a SplitToSequence; becomes a Slice at import");
}

OpDef shape_op() {
  return replaced_op("Shape", 1, "is computed at import");
}

OpDef size_op() {
  return replaced_op("Size", 1, "is computed at import");
}

OpDef space_to_depth_op() {
  return replaced_op("SpaceToDepth", 1, "becomes Reshapes and a Transpose at import");
}

OpDef split_op() {
  return replaced_op("Split", 1, "becomes Slices at import; not of the batch");
}

OpDef split_to_sequence_op() {
  return replaced_op("SplitToSequence", 11, "becomes Slices at import; not of the batch");
}

OpDef sum_op() {
  return replaced_op("Sum", 6, "becomes Adds at import");
}

}  // namespace tempo
