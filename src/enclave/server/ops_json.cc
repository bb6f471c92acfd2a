#include "enclave/server/ops_json.h"

#include <nlohmann/json.hpp>

namespace tempo {

std::string ops_to_json(std::span<const OpDef> table) {
  nlohmann::json json = nlohmann::json::array();
  for (const OpDef& op : table) {
    json.push_back({{"type", op.type},
                    {"min_opset", op.min_opset},
                    {"backward", has_gradient(op)},
                    {"linear", op.is_linear},
                    {"notes", op.notes}});
  }
  return json.dump();
}

}  // namespace tempo
