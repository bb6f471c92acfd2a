#include "enclave/graph/onnx_inputs.h"

#include <onnx/onnx_pb.h>

#include <utility>

#include "enclave/graph/infer_node.h"
#include "enclave/graph/onnx_error.h"
#include "enclave/graph/onnx_tensor.h"
#include "enclave/graph/value_table.h"

namespace tempo {
namespace {

// Name and type; integers and flags are one.
Result<Tensor> read_type(const onnx::ValueInfoProto& input) {
  Tensor tensor{.name = input.name(), .kind = TensorKind::kInput};
  if (input.type().has_tensor_type()) {
    switch (input.type().tensor_type().elem_type()) {
      case onnx::TensorProto::FLOAT:
        return tensor;
      case onnx::TensorProto::INT64:
      case onnx::TensorProto::INT32:
      case onnx::TensorProto::BOOL:
        tensor.type = DataType::kInt64;
        return tensor;
      default:
        break;
    }
  }
  return unsupported_model("a graph input is neither float32 nor integers", input.name(),
                           "export the model in float32");
}

// `dim`: the first one of an input, or kBatchDim.
Status set_fixed_batch(std::int64_t dim, const std::string& name, std::int64_t* fixed_batch) {
  if (dim < 1) return {};
  if (*fixed_batch != kBatchDim && *fixed_batch != dim) {
    return bad_model("graph inputs disagree on the batch size", name, std::to_string(*fixed_batch),
                     std::to_string(dim));
  }
  *fixed_batch = dim;
  return {};
}

// Fills in tensor->declared.
Status read_shape(const onnx::TensorShapeProto& proto, bool has_batch, Tensor* tensor,
                  std::int64_t* fixed_batch) {
  if (proto.dim_size() < (has_batch ? 1 : 0) || proto.dim_size() > static_cast<int>(kMaxRank)) {
    return unsupported_model("a graph input has no usable shape", tensor->name,
                             "export the model with the input's shape, batch first");
  }
  for (int i = 0; i < proto.dim_size(); ++i) {
    const std::int64_t dim = proto.dim(i).has_dim_value() ? proto.dim(i).dim_value() : kBatchDim;
    if (i == 0 && has_batch) {
      TEMPO_RETURN_IF_ERROR(set_fixed_batch(dim, tensor->name, fixed_batch));
      tensor->declared.push_back(kBatchDim);
      continue;
    }
    if (dim < 1) {
      return unsupported_model("only the first dimension of an input may be open", tensor->name,
                               "export the model with a fixed image size");
    }
    tensor->declared.push_back(dim);
  }
  return {};
}

Result<PerBatch<Shape>> shapes_at_probes(const Tensor& tensor, bool has_batch) {
  PerBatch<Shape> shapes;
  for (std::size_t batch = 0; batch < kProbeBatches.size(); ++batch) {
    shapes[batch] = tensor.declared;
    if (has_batch) shapes[batch][0] = kProbeBatches[batch];
    if (bounded_element_count(shapes[batch]) < 0) {
      return bad_model("a graph input is too large", tensor.name,
                       "at most " + std::to_string(kMaxTensorElements) + " elements",
                       shape_to_string(tensor.declared));
    }
  }
  return shapes;
}

}  // namespace

Result<std::int64_t> import_inputs(const onnx::GraphProto& file, const ImportOptions& options,
                                   ValueTable* values, Graph* graph) {
  std::int64_t fixed_batch = kBatchDim;
  for (const onnx::ValueInfoProto& input : file.input()) {
    if (values->contains(input.name())) continue;  // old files list initializers as inputs too
    Result<Tensor> tensor = read_type(input);
    if (!tensor) return tensor.error();
    TEMPO_RETURN_IF_ERROR(
        read_shape(input.type().tensor_type().shape(), options.has_batch, &*tensor, &fixed_batch));
    Result<PerBatch<Shape>> shapes = shapes_at_probes(*tensor, options.has_batch);
    if (!shapes) return shapes.error();
    const TensorId id = values->add_tensor(std::move(*tensor), std::move(*shapes));
    values->declare(input.name(), id);
    graph->inputs.push_back(id);
  }
  if (graph->inputs.empty()) return bad_model("the graph has no input", "");
  return fixed_batch;
}

}  // namespace tempo
