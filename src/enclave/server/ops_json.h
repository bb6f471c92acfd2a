// File: enclave/server/ops_json.h
// The operator table as GET /v1/ops answers it:
// [{"type", "min_opset", "backward", "linear", "notes"}, ...].
#pragma once

#include <span>
#include <string>

#include "enclave/nn/op.h"

namespace tempo {

std::string ops_to_json(std::span<const OpDef> table);

}  // namespace tempo
