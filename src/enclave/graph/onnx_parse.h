// File: enclave/graph/onnx_parse.h
// From bytes to a protobuf message, with bounds. Protobuf makes an object of some hundred bytes of
// every two-byte field, so a small hostile file could ask for much memory: the bytes are walked
// once before, along the message types, and their fields counted.
// Thread safety: free function without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"

namespace onnx {
class ModelProto;
}

namespace tempo {

// Protobuf itself ends at 2 GiB - 1.
inline constexpr std::size_t kMaxModelBytes = (std::size_t{1} << 31) - 1;
// Fields of all messages of one file. A network of 1,000 nodes has about 30,000; the objects made
// of this many take less than half a gigabyte.
inline constexpr std::int64_t kMaxModelFields = std::int64_t{1} << 20;
// Messages within messages: model, graph, node, attribute, tensor make five.
inline constexpr int kMaxModelNesting = 32;

// Errors: kBadModel when the bytes are no ModelProto or exceed a bound.
Status parse_model(std::span<const std::byte> file, onnx::ModelProto* model);

}  // namespace tempo
