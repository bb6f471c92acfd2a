// File: enclave/job/step_costs.h
// What a step takes on this machine, measured for a few seconds: the model's own step inside the
// enclave, and the passes of one product that is offloaded. For StepCosts (offload/step_time.h).
#pragma once

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"
#include "enclave/nn/executor.h"
#include "enclave/offload/step_time.h"

namespace tempo {

// options: of the executor of a plan that offloads. local_channel_block: scheme local's
// (ExecutorOptions). Large batches are measured on a part and scaled up. A step is forward and, in
// training, backward: without loss and update. With one thread its CPU time counts, so that a
// machine that is busy with other things measures the same; with several, wall time. Changes the
// graph's running statistics. Errors: those of Executor.
Result<StepCosts> measure_step_costs(Graph& graph, const ExecutorOptions& options,
                                     int local_channel_block, ThreadPool& pool);

}  // namespace tempo
