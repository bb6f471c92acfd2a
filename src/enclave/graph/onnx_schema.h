// File: enclave/graph/onnx_schema.h
// What a node's inputs and attributes must look like before the operator table sees it.
// Thread safety: free functions without state.
#pragma once

#include <string>
#include <string_view>

#include "enclave/graph/graph.h"

namespace onnx {
class NodeProto;
}

namespace tempo {

struct OpSchema {
  std::string_view type;
  std::string_view inputs;   // one letter an input: 'f' float32, 'i' integers or flags
  std::size_t required = 1;  // of them, not counting optional ones at the end
};

// Null for operators that the importer does not know.
const OpSchema* find_schema(std::string_view onnx_type);

// Fills node->attributes. Attributes of kinds that no supported operator has (graphs, strings,
// types) are left out. Error: kBadModel for an attribute of a type other than ONNX gives its name,
// or one that is there twice.
Status read_attributes(const onnx::NodeProto& proto, Node* node);

}  // namespace tempo
