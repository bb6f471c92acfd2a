#include "enclave/train/model_io.h"

#include <string>
#include <utility>

#include "wire/job.h"

namespace tempo {
namespace {

Error unsupported(std::string what, std::string expected, std::string got) {
  return {ErrorCode::kUnsupportedModel,
          std::move(what),
          "the model's inputs and outputs",
          std::move(expected),
          std::move(got),
          "export the model with few inputs, and classes as the output's last dimension"};
}

}  // namespace

Result<ModelIo> describe_model(const Graph& graph) {
  if (graph.inputs.empty() || graph.inputs.size() > kMaxModelInputs || graph.outputs.empty()) {
    return unsupported("the model has too many inputs, or no input or output",
                       "1 to " + std::to_string(kMaxModelInputs),
                       std::to_string(graph.inputs.size()) + " inputs");
  }
  ModelIo model;
  for (const TensorId id : graph.inputs) {
    const Tensor& tensor = graph.tensors[static_cast<std::size_t>(id)];
    const auto sample = model_sample_shape(tensor.declared);
    if (!sample.ok()) return sample.error();
    model.inputs.push_back({*sample, tensor.type,
                            sample->image && tensor.type == DataType::kFloat32
                                ? SampleLayout::kChannelsLast
                                : SampleLayout::kRows});
  }
  const auto shapes = infer_shapes(graph, 1);
  if (!shapes.ok()) return shapes.error();
  const auto first = static_cast<std::size_t>(graph.outputs[0]);
  const Shape& output = (*shapes)[first];
  if (output.size() < 2 || graph.tensors[first].type != DataType::kFloat32) {
    return unsupported("the model's first output does not give rows of classes", "(N,...,classes)",
                       shape_to_string(output));
  }
  model.output.assign(output.begin() + 1, output.end());
  model.classes = output.back();
  model.rows = element_count(model.output) / model.classes;
  return model;
}

Status check_fits(const Dataset& data, const ModelIo& model) {
  const std::size_t given = 1 + data.more_inputs().size();
  if (given != model.inputs.size()) {
    return Error{
        ErrorCode::kBadData,   "the data do not have as many inputs as the model",
        data.source(),         std::to_string(model.inputs.size()),
        std::to_string(given), "give a file for each input: --data npy:X.npy+X2.npy,Y.npy"};
  }
  TEMPO_RETURN_IF_ERROR(check_fits(data, model.inputs[0].sample, model.inputs[0].type));
  for (std::size_t i = 1; i < given; ++i) {
    TEMPO_RETURN_IF_ERROR(
        check_fits(data.more_inputs()[i - 1], model.inputs[i].sample, model.inputs[i].type));
  }
  return {};
}

Result<InputBatches> InputBatches::create(const Dataset& data, const Normalisation& normalisation,
                                          const ModelIo& model, const Augmentation& augmentation,
                                          std::uint64_t seed, ThreadPool& pool) {
  InputBatches batches;
  auto first =
      Batcher::create(data, normalisation, model.inputs[0].layout, augmentation, seed, pool);
  if (!first.ok()) return first.error();
  batches.inputs_.push_back(std::move(*first));
  for (std::size_t i = 1; i < model.inputs.size(); ++i) {
    const Dataset& more = data.more_inputs()[i - 1];
    const auto channels = static_cast<std::size_t>(more.shape().channels);
    const Normalisation none{std::vector<float>(channels, 0), std::vector<float>(channels, 1), ""};
    auto next = Batcher::create(more, none, model.inputs[i].layout, {}, seed, pool);
    if (!next.ok()) return next.error();
    batches.inputs_.push_back(std::move(*next));
  }
  return batches;
}

void InputBatches::fill(std::span<const std::uint32_t> samples, std::uint32_t epoch,
                        Executor& executor) const {
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (executor.input_type(i) == DataType::kInt64) {
      inputs_[i].fill_ints(samples, executor.input_ints(i));
    } else {
      inputs_[i].fill(samples, epoch, executor.input(i));
    }
  }
}

}  // namespace tempo
