// File: enclave/train/model_io.h
// What a model takes and gives, and how a data set's samples become its inputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/executor.h"
#include "enclave/train/batcher.h"
#include "enclave/train/dataset.h"
#include "enclave/train/normalisation.h"

namespace tempo {

struct ModelIo {
  struct Input {
    SampleShape sample;
    DataType type = DataType::kFloat32;
    SampleLayout layout = SampleLayout::kRows;  // images lie channels last
  };
  std::vector<Input> inputs;
  Shape output;              // of one sample, of the first output; the last dimension are classes
  std::int64_t classes = 0;  // columns of the output
  std::int64_t rows = 1;     // of classes, a sample: tokens of a sequence, say
};

// Error kUnsupportedModel: more inputs than a data set can have, or no rows of classes; kBadData:
// an input that no data fit.
Result<ModelIo> describe_model(const Graph& graph);

// Whether a data set has what the model takes, input by input. Error kBadData.
Status check_fits(const Dataset& data, const ModelIo& model);

// The samples of a data set as a model's inputs. The first is normalised and augmented as asked;
// the others stay as they are (bytes are divided by 255). The data set must outlive it. Thread
// safety: one thread at a time.
class InputBatches {
 public:
  // Precondition: check_fits(). Errors: those of Batcher::create.
  static Result<InputBatches> create(const Dataset& data, const Normalisation& normalisation,
                                     const ModelIo& model, const Augmentation& augmentation,
                                     std::uint64_t seed, ThreadPool& pool);

  // Fills the executor's inputs with these samples, and zeros behind them.
  void fill(std::span<const std::uint32_t> samples, std::uint32_t epoch, Executor& executor) const;

 private:
  std::vector<Batcher> inputs_;
};

}  // namespace tempo
