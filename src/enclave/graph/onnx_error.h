// File: enclave/graph/onnx_error.h
// The two ways in which a file cannot be imported.
// Thread safety: free functions without state.
#pragma once

#include <string>
#include <utility>

#include "base/error.h"

namespace tempo {

// The file contradicts itself or ONNX.
inline Error bad_model(std::string what, std::string where, std::string expected = "",
                       std::string got = "") {
  return Error{.code = ErrorCode::kBadModel,
               .what = std::move(what),
               .where = std::move(where),
               .expected = std::move(expected),
               .got = std::move(got)};
}

// The file is right, and Tempo cannot do it.
inline Error unsupported_model(std::string what, std::string where, std::string next_step) {
  return Error{.code = ErrorCode::kUnsupportedModel,
               .what = std::move(what),
               .where = std::move(where),
               .next_step = std::move(next_step)};
}

}  // namespace tempo
