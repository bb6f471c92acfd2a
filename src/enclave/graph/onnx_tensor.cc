#include "enclave/graph/onnx_tensor.h"

#include <onnx/onnx_pb.h>

#include <bit>
#include <cstring>
#include <memory>

namespace tempo {
namespace {

static_assert(std::endian::native == std::endian::little, "ONNX's raw_data is little endian");

std::string type_name(int type) {
  if (!onnx::TensorProto::DataType_IsValid(type)) return "type " + std::to_string(type);
  return onnx::TensorProto::DataType_Name(static_cast<onnx::TensorProto::DataType>(type));
}

// Bytes of one element in raw_data; 0 for types that Tempo does not take.
std::int64_t element_bytes(int type) {
  switch (type) {
    case onnx::TensorProto::FLOAT:
    case onnx::TensorProto::INT32:
      return 4;
    case onnx::TensorProto::INT64:
      return 8;
    case onnx::TensorProto::BOOL:
      return 1;
    default:
      return 0;
  }
}

std::int64_t typed_count(const onnx::TensorProto& tensor) {
  switch (tensor.data_type()) {
    case onnx::TensorProto::FLOAT:
      return tensor.float_data_size();
    case onnx::TensorProto::INT64:
      return tensor.int64_data_size();
    default:
      return tensor.int32_data_size();
  }
}

template <class T>
std::vector<std::int64_t> widen(const std::string& raw, std::int64_t count) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    T element;
    std::memcpy(&element, raw.data() + i * sizeof(T), sizeof(T));
    values[i] = element;
  }
  return values;
}

}  // namespace

Result<TensorInfo> check_tensor(const onnx::TensorProto& tensor, const std::string& where) {
  if (tensor.data_location() == onnx::TensorProto::EXTERNAL || tensor.external_data_size() > 0) {
    return Error{.code = ErrorCode::kBadModel,
                 .what = "a tensor's data is outside the file",
                 .where = where,
                 .next_step = "save the model with its data inside (save_as_external_data=False)"};
  }
  const std::int64_t bytes = element_bytes(tensor.data_type());
  if (bytes == 0) {
    return Error{.code = ErrorCode::kUnsupportedModel,
                 .what = "a tensor's element type is not supported",
                 .where = where,
                 .expected = "FLOAT, or INT64, INT32, BOOL for shapes and flags",
                 .got = type_name(tensor.data_type()),
                 .next_step = "export the model in float32"};
  }
  if (tensor.has_segment()) {
    return Error{.code = ErrorCode::kUnsupportedModel,
                 .what = "a tensor is stored in segments",
                 .where = where};
  }
  if (tensor.dims_size() > static_cast<int>(kMaxRank)) {
    return Error{.code = ErrorCode::kUnsupportedModel,
                 .what = "a tensor has too many dimensions",
                 .where = where,
                 .expected = "at most " + std::to_string(kMaxRank),
                 .got = std::to_string(tensor.dims_size())};
  }
  TensorInfo info;
  info.type =
      tensor.data_type() == onnx::TensorProto::FLOAT ? DataType::kFloat32 : DataType::kInt64;
  info.dims.assign(tensor.dims().begin(), tensor.dims().end());
  info.count = 1;
  for (const std::int64_t dim : info.dims) {
    if (dim < 0 || (dim > 0 && info.count > kMaxTensorElements / dim)) {
      return Error{.code = ErrorCode::kBadModel,
                   .what = "a tensor has impossible dimensions",
                   .where = where,
                   .expected = "at most " + std::to_string(kMaxTensorElements) + " elements",
                   .got = shape_to_string(info.dims)};
    }
    info.count *= dim;
  }
  const bool is_raw = tensor.has_raw_data();
  const std::int64_t have =
      is_raw ? static_cast<std::int64_t>(tensor.raw_data().size()) : typed_count(tensor);
  const std::int64_t want = is_raw ? info.count * bytes : info.count;
  if (have != want || (is_raw && typed_count(tensor) > 0)) {
    return Error{.code = ErrorCode::kBadModel,
                 .what = "a tensor's data does not match its dimensions",
                 .where = where,
                 .expected = std::to_string(want) + (is_raw ? " bytes" : " values") + " for " +
                             shape_to_string(info.dims),
                 .got = std::to_string(have)};
  }
  return info;
}

std::vector<float> read_floats(const onnx::TensorProto& tensor, const TensorInfo& info) {
  TEMPO_ASSERT(info.type == DataType::kFloat32);
  if (!tensor.has_raw_data()) return {tensor.float_data().begin(), tensor.float_data().end()};
  std::vector<float> values(static_cast<std::size_t>(info.count));
  if (!values.empty()) std::memcpy(values.data(), tensor.raw_data().data(), values.size() * 4);
  return values;
}

std::vector<std::int64_t> read_ints(const onnx::TensorProto& tensor, const TensorInfo& info) {
  TEMPO_ASSERT(info.type == DataType::kInt64);
  const int type = tensor.data_type();
  if (!tensor.has_raw_data()) {
    if (type == onnx::TensorProto::INT64) {
      return {tensor.int64_data().begin(), tensor.int64_data().end()};
    }
    return {tensor.int32_data().begin(), tensor.int32_data().end()};
  }
  if (type == onnx::TensorProto::INT64) return widen<std::int64_t>(tensor.raw_data(), info.count);
  if (type == onnx::TensorProto::INT32) return widen<std::int32_t>(tensor.raw_data(), info.count);
  return widen<std::uint8_t>(tensor.raw_data(), info.count);
}

void drop_payload(onnx::TensorProto* tensor) {
  // clear_*() would keep the capacity.
  const std::unique_ptr<std::string> raw(tensor->release_raw_data());
  google::protobuf::RepeatedField<float>().Swap(tensor->mutable_float_data());
  google::protobuf::RepeatedField<std::int64_t>().Swap(tensor->mutable_int64_data());
}

}  // namespace tempo
