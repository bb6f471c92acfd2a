#include "enclave/graph/onnx_norms.h"

#include <onnx/onnx_pb.h>

#include <algorithm>
#include <string_view>
#include <unordered_set>

namespace tempo {
namespace {

// `prefix` and digits.
bool is_numbered(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix) || name.size() == prefix.size()) return false;
  return std::all_of(name.begin() + static_cast<std::ptrdiff_t>(prefix.size()), name.end(),
                     [](char c) { return c >= '0' && c <= '9'; });
}

bool is_in_training_form(const onnx::NodeProto& norm) {
  if (norm.output_size() > 1) return true;  // all that there is before opset 14
  return std::any_of(norm.attribute().begin(), norm.attribute().end(), [](const auto& attribute) {
    return attribute.name() == "training_mode" && attribute.i();
  });
}

bool looks_folded(const onnx::NodeProto& node) {
  const bool is_conv = node.op_type() == "Conv";
  if ((!is_conv && node.op_type() != "Gemm") || node.input_size() < 3) return false;
  // The older exporter: values that are no parameters of the module are numbered.
  constexpr std::string_view kNumbered = "onnx::Conv_";
  if (is_conv && is_numbered(node.input(1), kNumbered) && is_numbered(node.input(2), kNumbered)) {
    return true;
  }
  // The newer one: a bias that the layer did not have, or a result that keeps the name of the
  // normalisation's, which is the first of a tuple. No layer returns one.
  return node.input(2) == node.input(1) + "_bias" || node.output(0) == "getitem" ||
         is_numbered(node.output(0), "getitem_");
}

std::string batch_normalisations(int count) {
  return std::to_string(count) + (count == 1 ? " batch normalisation" : " batch normalisations");
}

}  // namespace

NormForms norm_forms(const onnx::ModelProto& model, const Graph& graph) {
  std::unordered_set<std::string> statistics;
  for (const Tensor& tensor : graph.tensors) {
    if (tensor.kind == TensorKind::kStatistic) statistics.insert(tensor.name);
  }
  const bool is_pytorchs = model.producer_name() == "pytorch";
  NormForms forms;
  for (const onnx::NodeProto& node : model.graph().node()) {
    if (node.op_type() == "BatchNormalization") {
      const bool follows_batches = statistics.contains(node.input(3));
      forms.in_inference_form += static_cast<int>(follows_batches && !is_in_training_form(node));
    } else if (is_pytorchs) {
      forms.folded += static_cast<int>(looks_folded(node));
    }
  }
  return forms;
}

std::vector<std::string> norm_notes(const NormForms& forms) {
  std::vector<std::string> notes;
  if (forms.in_inference_form > 0) {
    notes.push_back(batch_normalisations(forms.in_inference_form) +
                    " came in inference form: training uses the statistics of the batch and "
                    "updates the running ones, as model.train() does");
  }
  if (forms.folded > 0) {
    notes.push_back(
        "the export has folded " + batch_normalisations(forms.folded) +
        " into the layers before, as names in the file show: training goes on without " +
        (forms.folded == 1 ? "it; to keep it," : "them; to keep them,") +
        " export with training=TrainingMode.TRAINING and do_constant_folding=False, "
        "or with optimize=False where dynamo=True");
  }
  return notes;
}

}  // namespace tempo
