// File: enclave/graph/onnx_split.h
// Operators that cut a tensor into parts, as Slices of it: Split, and SplitToSequence with the
// SequenceAt nodes that read from it.
// Thread safety: one thread.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "enclave/graph/onnx_decomposition.h"

namespace tempo {

// As decompose() in onnx_decompose.h, of a Split node. Error: kBadModel.
Result<Decomposition> decompose_split(const Node& node, const NodeNames& names,
                                      const std::vector<OperandInfo>& operands,
                                      const FreshName& fresh_name);

// The sequences of a file. A sequence is never a value: it is known by name, and SequenceAt takes
// its part of what was split.
class Sequences {
 public:
  bool contains(const std::string& name) const { return sequences_.contains(name); }

  // A SplitToSequence node: of no parts. Error: kBadModel.
  Result<Decomposition> split(const Node& node, const NodeNames& names,
                              const std::vector<OperandInfo>& operands);
  // A SequenceAt node. Error: kBadModel.
  Result<Decomposition> element(const Node& node, const NodeNames& names,
                                const std::vector<OperandInfo>& operands,
                                const FreshName& fresh_name) const;

 private:
  struct Sequence {
    std::string source;
    std::int64_t axis = 0, length = 0;  // of what is split
    std::int64_t part = 1;              // of each element but the last, unless `sizes` says
    std::vector<std::int64_t> sizes;
    bool keeps_axis = true;

    std::int64_t count() const;
    // Of what is split, along the axis.
    std::int64_t begin(std::int64_t index) const;
    std::int64_t end(std::int64_t index) const;
  };

  std::unordered_map<std::string, Sequence> sequences_;
};

}  // namespace tempo
