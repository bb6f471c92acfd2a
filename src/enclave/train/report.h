// File: enclave/train/report.h
// The report of a job, for the client alone: docs/report.md describes the JSON. It holds figures
// derived from model and data and never leaves the enclave but on the client's channel.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "enclave/graph/fuse.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/time_ledger.h"
#include "enclave/offload/engine_stats.h"
#include "enclave/train/dataset.h"
#include "enclave/train/inference.h"
#include "enclave/train/normalisation.h"
#include "enclave/train/trainer.h"
#include "wire/job.h"

namespace tempo {

inline constexpr int kReportSchema = 1;

struct ModelSummary {
  std::string name;
  int opset = 0;
  std::int64_t nodes = 0;
  std::int64_t parameters = 0;  // trained values
  std::int64_t frozen = 0;      // values that training would change, had they not been frozen
  Shape input;                  // with kBatchDim
  std::int64_t classes = 0;
  FusedCounts fused;               // what import made of chains
  std::vector<std::string> notes;  // on how the model was exported; JobKind::kTrain
};
// Without `fused` and `notes`, which the graph does not know.
ModelSummary summarise_model(const Graph& graph, std::int64_t classes);

struct DataSummary {
  std::string format;
  std::int64_t train_samples = 0;
  std::int64_t test_samples = 0;
  SampleShape shape;
  ValueType type = ValueType::kUint8;
  Normalisation normalisation;
};
DataSummary summarise_data(const DataSpec& spec, const Datasets& data,
                           const Normalisation& normalisation);

// What the operating system says about this process. Zero where it does not say.
struct ProcessFigures {
  double cpu_s = 0;              // user and system, all threads
  std::uint64_t peak_bytes = 0;  // largest resident set (VmHWM)
};
ProcessFigures measure_process();

struct Report {
  JobSpec spec;
  ModelSummary model;
  DataSummary data;
  TrainingHistory training;                // JobKind::kTrain
  std::optional<Predictions> predictions;  // JobKind::kInfer; the values are not printed
  TimeLedger times;
  std::optional<double> transfer_s;  // where it was measured
  double offloaded_share = 0;        // of the forward multiply-adds, as the plan has it
  EngineStats engine;
  ProcessFigures process;
  std::optional<Error> error;  // why the job ended early
};

// Images a second: trained ones over training time, or predicted ones over prediction time.
double images_per_second(const Report& report);

// Indented JSON, UTF-8. Numbers that are not finite become null; text from outside is made
// printable.
std::string report_json(const Report& report);

}  // namespace tempo
