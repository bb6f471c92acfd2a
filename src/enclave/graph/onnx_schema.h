// File: enclave/graph/onnx_schema.h
// What a node's inputs and attributes must look like before the operator table sees it.
// Thread safety: free functions without state.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "enclave/graph/graph.h"

namespace onnx {
class NodeProto;
}

namespace tempo {

inline bool is_onnx_domain(std::string_view domain) {
  return domain.empty() || domain == "ai.onnx";
}

struct OpSchema {
  std::string_view type;
  // One letter an input: 'f' float32, 'i' integers or flags, 'a' any of them; capitals where the
  // value must be known before the first step. '*' at the end: any number of the letter before.
  std::string_view inputs;
  std::size_t required = 1;  // of them, not counting optional ones at the end

  bool takes(std::size_t count) const {
    return count >= required && (inputs.back() == '*' || count <= inputs.size());
  }
  char letter(std::size_t input) const {
    return inputs[inputs.back() == '*' ? std::min(input, inputs.size() - 2) : input];
  }
};

// Null for operators that the importer does not know.
const OpSchema* find_schema(std::string_view onnx_type);

// Fills node->attributes. Attributes of kinds that no supported operator has (graphs, lists of
// strings, tensors of other types) are left out. Error: kBadModel for an attribute of a type other
// than ONNX gives its name, or one that is there twice.
Status read_attributes(const onnx::NodeProto& proto, Node* node);

}  // namespace tempo
