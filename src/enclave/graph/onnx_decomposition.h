// File: enclave/graph/onnx_decomposition.h
// What a node of the file is made of when it is written as several: a value, which import puts into
// the graph. onnx_decompose.h has the rules that make it.
// Thread safety: plain data.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "enclave/graph/fold.h"
#include "enclave/graph/graph.h"

namespace tempo {

// What a node reads and makes, by name.
struct NodeNames {
  std::vector<std::string> inputs;   // empty where absent
  std::vector<std::string> outputs;  // likewise, and beyond the first where nothing reads it
};

// What is known of one of a node's inputs.
struct OperandInfo {
  bool is_there = false;
  bool is_activation = false;
  DataType type = DataType::kFloat32;
  int onnx_type = 0;  // TensorProto.DataType of integers and flags; 0 when not known
  std::optional<PerBatch<Shape>> shapes;
  std::optional<FoldedInts> ints;  // its value, when it is integers that are known
};

struct Decomposition {
  struct Ints {
    std::string name;
    std::vector<std::int64_t> values;
  };
  struct Floats {
    std::string name;
    Shape shape;
    std::vector<float> values;
  };
  struct Part {
    Node node;
    NodeNames names;
  };
  std::vector<Ints> ints;  // constants of its own
  std::vector<Floats> floats;
  std::vector<Part> parts;  // in order; they make the node's outputs
  std::string refusal;      // why it cannot be done, if it cannot; then there is nothing else

  static Decomposition refused(std::string reason) {
    Decomposition out;
    out.refusal = std::move(reason);
    return out;
  }
};

// Gives a name that nothing else has, like its argument.
using FreshName = std::function<std::string(std::string wish)>;

// Makes a Decomposition, part by part. `node` and `fresh_name` outlive it.
class DecompositionBuilder {
 public:
  DecompositionBuilder(const Node& node, const FreshName& fresh_name)
      : node_(node), fresh_name_(fresh_name) {}

  // Constants; return their names.
  std::string ints(std::vector<std::int64_t> values) {
    out_.ints.push_back({name("ints"), std::move(values)});
    return out_.ints.back().name;
  }
  std::string floats(const Shape& shape, std::vector<float> values) {
    out_.floats.push_back({name("floats"), shape, std::move(values)});
    return out_.floats.back().name;
  }
  std::string number(float value) { return floats({}, {value}); }

  // Adds a part; returns the name of what it makes.
  std::string add(const std::string& type, std::vector<std::string> inputs,
                  std::map<std::string, Attribute> attributes = {}) {
    std::string output = name(type + "/result");
    add_to(output, type, std::move(inputs), std::move(attributes));
    return output;
  }
  // Adds a part that makes `output`.
  void add_to(const std::string& output, const std::string& type, std::vector<std::string> inputs,
              std::map<std::string, Attribute> attributes = {}) {
    out_.parts.push_back({{.op_type = type,
                           .name = name(type),
                           .opset = node_.opset,
                           .attributes = std::move(attributes)},
                          {std::move(inputs), {output}}});
  }

  // The part that was added last has the node's name, and makes `output`. Precondition: there is
  // one.
  Decomposition finish(const std::string& output) {
    out_.parts.back().node.name = node_.name;
    out_.parts.back().names.outputs = {output};
    return finish();
  }
  // Parts make what they were told to make.
  Decomposition finish() { return std::move(out_); }

 private:
  // Numbered, so that many of a kind do not get in each other's way.
  std::string name(const std::string& kind) {
    return fresh_name_(node_.name + "/" + std::to_string(names_++) + "/" + kind);
  }

  const Node& node_;
  const FreshName& fresh_name_;
  int names_ = 0;
  Decomposition out_;
};

}  // namespace tempo
