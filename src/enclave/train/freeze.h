// File: enclave/train/freeze.h
// Takes parameters out of training: what a pattern of FreezeSpec names becomes a constant of the
// graph. Executors then compute no gradient of it, workers no product for one, and backward stops
// where nothing trained lies upstream. Export writes it back as it was.
// Thread safety: pure functions of the graph.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "enclave/graph/graph.h"
#include "wire/job.h"

namespace tempo {

// A pattern names a parameter by its own name, or by that of a node that reads it. Returns how many
// values are frozen.
// With spec.statistics, the running statistics of BatchNormalizations whose scale and bias are both
// frozen become constants too: such a node uses them in training as in inference.
// Errors kUsage: a pattern that matches nothing (with the closest names), nothing left to train,
// and spec.statistics where no BatchNormalization is frozen.
Result<std::int64_t> freeze_parameters(Graph& graph, const FreezeSpec& spec);

// `*` stands for any text, `?` for one byte.
bool glob_matches(std::string_view pattern, std::string_view text);

}  // namespace tempo
