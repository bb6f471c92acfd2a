#include "enclave/graph/onnx_parse.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <onnx/onnx_pb.h>

#include <string>

namespace tempo {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

Error not_onnx(std::string got) {
  return Error{.code = ErrorCode::kBadModel,
               .what = "not an ONNX model",
               .expected = "a serialised onnx.ModelProto",
               .got = std::move(got),
               .next_step = "check that the file is complete and was written by an ONNX exporter"};
}

// Walks the wire format: tag, then a varint, 4 or 8 bytes, or a length and that many bytes.
class Walker {
 public:
  Status walk(std::span<const std::byte> bytes, const Descriptor& type, int depth) {
    if (depth > kMaxModelNesting) return not_onnx("messages nested too deeply");
    std::size_t at = 0;
    while (at < bytes.size()) {
      if (++fields_ > kMaxModelFields) {
        return not_onnx("more than " + std::to_string(kMaxModelFields) + " fields");
      }
      std::uint64_t tag = 0;
      if (!read_varint(bytes, &at, &tag) || tag > UINT32_MAX || (tag >> 3) == 0) {
        return not_onnx("a damaged field tag in " + type.name());
      }
      std::uint64_t length = 0;
      switch (tag & 7) {
        case 0:
          if (!read_varint(bytes, &at, &length)) return truncated(type);
          continue;
        case 1:
          length = 8;
          break;
        case 5:
          length = 4;
          break;
        case 2:
          if (!read_varint(bytes, &at, &length)) return truncated(type);
          break;
        default:
          return not_onnx("an unknown wire type in " + type.name());
      }
      if (length > bytes.size() - at) return truncated(type);
      const FieldDescriptor* field = type.FindFieldByNumber(static_cast<int>(tag >> 3));
      if ((tag & 7) == 2 && field != nullptr && field->type() == FieldDescriptor::TYPE_MESSAGE) {
        TEMPO_RETURN_IF_ERROR(walk(bytes.subspan(at, length), *field->message_type(), depth + 1));
      }
      at += length;
    }
    return {};
  }

 private:
  static Error truncated(const Descriptor& type) {
    return not_onnx("a " + type.name() + " that ends early");
  }

  static bool read_varint(std::span<const std::byte> bytes, std::size_t* at, std::uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (*at >= bytes.size()) return false;
      const auto byte = static_cast<std::uint64_t>(bytes[(*at)++]);
      *value |= (byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }

  std::int64_t fields_ = 0;
};

}  // namespace

Status parse_model(std::span<const std::byte> file, onnx::ModelProto* model) {
  if (file.empty()) return not_onnx("an empty file");
  if (file.size() > kMaxModelBytes) {
    return Error{.code = ErrorCode::kBadModel,
                 .what = "the model is too large",
                 .expected = "at most " + std::to_string(kMaxModelBytes) + " bytes",
                 .got = std::to_string(file.size())};
  }
  TEMPO_RETURN_IF_ERROR(Walker().walk(file, *onnx::ModelProto::descriptor(), 1));
  google::protobuf::io::CodedInputStream stream(reinterpret_cast<const std::uint8_t*>(file.data()),
                                                static_cast<int>(file.size()));
  stream.SetTotalBytesLimit(static_cast<int>(kMaxModelBytes));
  stream.SetRecursionLimit(kMaxModelNesting + 1);
  if (!model->ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage()) {
    return not_onnx("bytes that protobuf refuses");
  }
  return {};
}

}  // namespace tempo
