// File: enclave/graph/onnx.h
// ONNX in and out. The bytes come from outside: nothing in them may crash, hang or allocate beyond
// a small multiple of their size.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "enclave/graph/fuse.h"
#include "enclave/graph/graph.h"

namespace tempo {

struct ImportOptions {
  bool has_batch = true;  // else every dimension is as in the file, the first one, too
};

struct ExportOptions {
  bool training_form = false;  // what training alone has stays as in the imported file
};

// An imported model: the graph, and what export needs to give the same file back.
class OnnxModel {
 public:
  // Errors: kBadModel (not ONNX, external data, inconsistent), kUnsupportedModel (one message that
  // lists every unsupported node: name, operator and opset).
  static Result<OnnxModel> import(std::span<const std::byte> file, const ImportOptions& options);

  // The model with the graph's current parameters and statistics, in ONNX layout. In inference
  // form, BatchNormalization is in inference mode and Dropout inert. Everything else is as
  // imported: fused nodes are in the file as the chains that they were.
  Result<std::vector<std::byte>> export_file(const ExportOptions& options = {}) const;

  // What somebody who trains this model should know about the way it was exported; a line each.
  std::vector<std::string> training_notes() const;
  // And somebody who predicts with it.
  std::vector<std::string> prediction_notes() const;

  // The file's metadata_props: free text by key. Empty when there is no such key.
  std::string metadata(const std::string& key) const;
  void set_metadata(const std::string& key, const std::string& value);

  Graph graph;
  FusedCounts fused;  // nodes of `graph` that were chains in the file

  OnnxModel();
  ~OnnxModel();
  OnnxModel(OnnxModel&&) noexcept;
  OnnxModel& operator=(OnnxModel&&) noexcept;

 private:
  struct Proto;  // the protobuf message, without initializer payloads
  std::unique_ptr<Proto> proto_;
};

}  // namespace tempo
