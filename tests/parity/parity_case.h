// File: tests/parity/parity_case.h
// What make_parity.py wrote: a network's batch, and what PyTorch makes of it. Every failure ends
// the program with one line: there is nothing to test then.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "enclave/graph/graph.h"
#include "enclave/graph/onnx.h"

namespace tempo {

// One of PyTorch's parameters.
struct ParityParameter {
  std::string name;
  std::size_t begin = 0;  // of its values in the arrays over all parameters
  std::size_t size = 0;
  std::uint32_t checksum = 0;             // of its initial values
  std::uint32_t transposed_checksum = 0;  // of their transpose; the same for all ranks but 2
  double spread = 0;  // norm: how far PyTorch's float32 gradients are from the true one
};

struct ParityCase {
  // As an executor wants the batch: images channels last, or tokens; the other is empty.
  std::vector<float> images;
  std::vector<std::int64_t> tokens;
  std::vector<std::int32_t> labels;
  std::int64_t samples = 0;
  std::int64_t classes = 0;
  std::vector<ParityParameter> parameters;
  // Over all parameters one after the other, each in PyTorch's layout.
  std::vector<float> gradients;
  std::map<std::string, std::vector<float>> after;  // an optimiser's steps: sgd, adamw

  std::vector<float> logits;  // labels.size() x classes
  std::vector<double> losses;
  double loss_spread = 0;   // root mean square over the steps
  nlohmann::json settings;  // rates and the like: case.json
};

[[noreturn]] void die(const std::string& why);

ParityCase load_parity_case(const std::filesystem::path& directory);
OnnxModel load_parity_model(const std::filesystem::path& file);

// Where one of PyTorch's parameters is in an imported graph.
struct ParityMatch {
  TensorId tensor = kNoTensor;
  const ParityParameter* parameter = nullptr;
  bool transposed = false;
};

// Every parameter of the graph with its own in PyTorch, by their initial values: exporters rename
// weights and fold transposes into them. Dies when any is left over on either side.
std::vector<ParityMatch> match_parameters(const Graph& graph, const ParityCase& parity);

// Values of a parameter between the enclave's storage and PyTorch's layout.
std::vector<float> to_pytorch(const Graph& graph, const ParityMatch& match,
                              std::span<const float> values);
std::vector<float> from_pytorch(const Graph& graph, const ParityMatch& match,
                                std::span<const float> values);

}  // namespace tempo
