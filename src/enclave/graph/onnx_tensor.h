// File: enclave/graph/onnx_tensor.h
// TensorProto to values and back, with every size checked against the dimensions before anything
// is allocated.
// Thread safety: free functions without state.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "enclave/graph/graph.h"

namespace onnx {
class TensorProto;
}

namespace tempo {

inline constexpr std::size_t kMaxRank = 8;  // of any tensor

struct TensorInfo {
  Shape dims;
  std::int64_t count = 0;              // product of dims, which matches the payload
  DataType type = DataType::kFloat32;  // int32 and bool count as kInt64
};

// Checks everything but the values. `where` names the tensor in errors. Errors: kBadModel (sizes
// that contradict each other, external data), kUnsupportedModel (another element type, a rank over
// kMaxRank).
Result<TensorInfo> check_tensor(const onnx::TensorProto& tensor, const std::string& where);

// Precondition of both: check_tensor() succeeded and returned this type.
std::vector<float> read_floats(const onnx::TensorProto& tensor, const TensorInfo& info);
std::vector<std::int64_t> read_ints(const onnx::TensorProto& tensor, const TensorInfo& info);

// Gives the payload's memory back; dims, type and name stay.
void drop_payload(onnx::TensorProto* tensor);

}  // namespace tempo
