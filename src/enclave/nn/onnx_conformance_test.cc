// ONNX's own backend tests (Debian's libonnx-testdata), through import and executor: every case
// that import takes must give the suite's outputs, and every case that it refuses is printed with
// the reason.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "enclave/graph/onnx.h"
#include "enclave/graph/onnx_tensor.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/feature_view.h"
#include "enclave/offload/local_engine.h"

namespace tempo {
namespace {

namespace fs = std::filesystem;

const fs::path kData = "/usr/share/libonnx-testdata/data";

// The suite's own (onnx/backend/test/runner).
constexpr double kRelative = 1e-3;
constexpr double kAbsolute = 1e-7;

template <class Proto>
bool read_proto(const fs::path& path, Proto* proto) {
  std::ifstream file(path, std::ios::binary);
  return file && proto->ParseFromIstream(&file);
}

struct Case {
  onnx::ModelProto model;
  std::vector<onnx::TensorProto> inputs, outputs;  // of the first data set
};

std::string load(const fs::path& folder, Case* test) {
  if (!read_proto(folder / "model.onnx", &test->model)) return "the model is no ModelProto";
  const auto holds_tensors = [](const auto& values) {
    return std::ranges::all_of(
        values, [](const onnx::ValueInfoProto& value) { return value.type().has_tensor_type(); });
  };
  const onnx::GraphProto& graph = test->model.graph();
  if (!holds_tensors(graph.input()) || !holds_tensors(graph.output())) {
    return "an input or output is no tensor";
  }
  for (const auto& [prefix, list] :
       {std::pair{"input_", &test->inputs}, {"output_", &test->outputs}}) {
    for (int i = 0;; ++i) {
      const fs::path path =
          folder / "test_data_set_0" / (prefix + std::to_string(i) + std::string(".pb"));
      if (!fs::exists(path)) break;
      onnx::TensorProto tensor;
      if (!read_proto(path, &tensor)) return "its data are no tensors";
      const auto info = check_tensor(tensor, "it");
      if (!info.ok()) return info.error().one_line();
      list->push_back(std::move(tensor));
    }
  }
  if (test->outputs.empty()) return "it has no outputs";
  return "";
}

// Graph inputs from the second on become initializers: operators of which we want weights.
void fix_inputs(Case* test) {
  onnx::GraphProto* graph = test->model.mutable_graph();
  for (int i = 1; i < graph->input_size() && i < static_cast<int>(test->inputs.size()); ++i) {
    onnx::TensorProto tensor = test->inputs[static_cast<std::size_t>(i)];
    tensor.set_name(graph->input(i).name());
    *graph->add_initializer() = std::move(tensor);
  }
  test->inputs.resize(std::min<std::size_t>(test->inputs.size(), 1));
}

Result<OnnxModel> import(const Case& test) {
  const std::string bytes = test.model.SerializeAsString();
  return OnnxModel::import(std::as_bytes(std::span(bytes)), {.has_batch = false});
}

// Without the list of what is supported.
std::string reason_of(const Error& error) {
  return error.what + (error.got.empty() ? "" : ": " + error.got);
}

struct Outcome {
  bool is_skipped = false;
  std::string what;  // why it is skipped, or where it differs; empty: it agrees
};

Outcome compare(Executor& executor, const std::vector<onnx::TensorProto>& want) {
  for (std::size_t k = 0; k < std::min(want.size(), executor.output_count()); ++k) {
    const TensorInfo info = *check_tensor(want[k], "it");
    if (info.dims != executor.output_shape(k)) {
      return {false,
              shape_to_string(executor.output_shape(k)) + ", not " + shape_to_string(info.dims)};
    }
    std::vector<double> got, expected;
    if (info.type == DataType::kFloat32) {
      const auto values = read_floats(want[k], info);
      expected.assign(values.begin(), values.end());
      got.assign(executor.output(k).begin(), executor.output(k).end());
    } else {
      const auto values = read_ints(want[k], info);
      expected.assign(values.begin(), values.end());
      got.assign(executor.output_ints(k).begin(), executor.output_ints(k).end());
    }
    for (std::size_t i = 0; i < got.size(); ++i) {
      const bool same =
          (std::isnan(got[i]) && std::isnan(expected[i])) || got[i] == expected[i] ||
          std::abs(got[i] - expected[i]) <= kAbsolute + kRelative * std::abs(expected[i]);
      if (!same) {
        return {false, "element " + std::to_string(i) + " is " + std::to_string(got[i]) + ", not " +
                           std::to_string(expected[i])};
      }
    }
  }
  return {};
}

Outcome run(const fs::path& folder, ThreadPool& pool) {
  if (folder.filename().string().starts_with("test_training_dropout")) {
    return {true, "what Dropout drops in training is random"};
  }
  Case test;
  if (const std::string reason = load(folder, &test); !reason.empty()) return {true, reason};
  Result<OnnxModel> model = import(test);
  if (!model.ok() && test.model.graph().input_size() > 1) {
    fix_inputs(&test);
    model = import(test);
  }
  if (!model.ok()) return {true, reason_of(model.error())};
  TimeLedger ledger;
  LocalEngine engine(pool, ledger);
  auto executor =
      Executor::create(model->graph, {.mode = StepMode::kInference}, engine, pool, ledger);
  if (!executor.ok()) return {true, reason_of(executor.error())};
  for (std::size_t i = 0; i < (*executor)->input_count(); ++i) {
    const TensorInfo info = *check_tensor(test.inputs[i], "it");
    if (info.type == DataType::kFloat32) {
      const std::vector<float> values = read_floats(test.inputs[i], info);
      from_onnx_order(pool, info.dims, 0, values.data(), (*executor)->input(i).data());
    } else {
      std::ranges::copy(read_ints(test.inputs[i], info), (*executor)->input_ints(i).begin());
    }
  }
  if (const Status status = (*executor)->forward(0); !status.ok()) {
    return {true, reason_of(status.error())};
  }
  return compare(**executor, test.outputs);
}

TEST(OnnxConformance, WhatImportTakesGivesTheSuitesOutputs) {
  if (!fs::exists(kData)) GTEST_SKIP() << "libonnx-testdata is not installed";
  ThreadPool pool(2);
  int passed = 0, skipped = 0;
  for (const char* suite : {"node", "simple", "pytorch-operator", "pytorch-converted"}) {
    std::vector<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(kData / suite)) folders.push_back(entry.path());
    std::ranges::sort(folders);
    for (const fs::path& folder : folders) {
      const std::string name = suite + ("/" + folder.filename().string());
      const Outcome outcome = run(folder, pool);
      if (outcome.is_skipped) {
        ++skipped;
        std::printf("skipped %s: %s\n", name.c_str(), outcome.what.c_str());
      } else {
        ++passed;
        EXPECT_EQ(outcome.what, "") << name;
      }
    }
  }
  std::printf("%d cases agree, %d are skipped\n", passed, skipped);
  EXPECT_GE(passed, 580);
}

}  // namespace
}  // namespace tempo
