// File: enclave/graph/onnx_constant.h
// Float tensors that a file does not hold as initializers: those of Constant nodes, and the few
// that exporters compute.
// Thread safety: free functions without state.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "enclave/graph/fold.h"

namespace onnx {
class NodeProto;
class TensorProto;
}  // namespace onnx

namespace tempo {

using SharedTensor = std::shared_ptr<const onnx::TensorProto>;

// A Constant node's tensor, which may be the node's own (the pointer then owns nothing). A constant
// that is no tensor of numbers comes back with an undefined element type. Error: kBadModel.
Result<SharedTensor> constant_node_tensor(const onnx::NodeProto& node, const std::string& where);

}  // namespace tempo
