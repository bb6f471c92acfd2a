#include "enclave/offload/step_time.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

namespace tempo {
namespace {

// One pass of one operator.
struct Pass {
  double enclave_s = 0;
  double bytes_to = 0;
  double bytes_from = 0;
  double pieces = 1;
};

double pass_s(const Pass& pass, double bandwidth) {
  const double to_s = pass.bytes_to / bandwidth;
  const double from_s = pass.bytes_from / bandwidth;
  const double longest = std::max({pass.enclave_s, to_s, from_s});
  return longest + (pass.enclave_s + to_s + from_s - longest) / pass.pieces;
}

// What of `bytes` is not over when the pass is, and what the enclave does alone before the next
// one: the direction that they go in has `busy` bytes of the pass itself.
double left_over_s(double bytes, double busy, double pass_s, double alone_s, double bandwidth) {
  return std::max(0.0, (bytes + busy) / bandwidth - pass_s - alone_s);
}

// Both passes of an operator, and what of them goes with a pass of its neighbours.
struct OperatorPasses {
  Pass forward, backward;
  double weight_bytes = 0;    // of W', to workers
  double gradient_bytes = 0;  // of dW', back
};

OperatorPasses passes_of(const OpPlan& op, double pass_factor) {
  std::set<std::pair<int, int>> weights;  // (m_slice, worker)
  std::set<std::pair<int, int>> inputs;   // (p_slice, worker)
  double weight_elements = 0;
  double input_elements = 0;
  double output_elements = 0;
  double gradient_elements = 0;
  for (const Tile& tile : op.tiles) {
    const auto rows = static_cast<double>(op.p_slices[tile.p_slice].size());
    const auto features = static_cast<double>(op.m_slices[tile.m_slice].size());
    const auto n = static_cast<double>(op.in_features_of(tile.m_slice));
    if (weights.insert({tile.m_slice, tile.worker}).second) weight_elements += features * n;
    if (inputs.insert({tile.p_slice, tile.worker}).second) input_elements += rows * n;
    output_elements += rows * features;
  }
  for (const GradientGroup& group : op.groups) {
    if (!op.op.needs_weight_gradient) break;
    gradient_elements +=
        static_cast<double>(op.m_slices[group.m_slice].size() * op.in_features_of(group.m_slice));
  }
  if (op.bytes_to_workers_once > 0) weight_elements = 0;  // they are there already

  OperatorPasses passes;
  passes.weight_bytes = weight_elements * sizeof(float);
  passes.gradient_bytes = gradient_elements * sizeof(float);
  passes.forward.bytes_to = input_elements * sizeof(float);
  passes.forward.bytes_from = output_elements * sizeof(float);
  const auto to = static_cast<double>(op.bytes_to_workers);
  const auto from = static_cast<double>(op.bytes_from_workers);
  passes.backward.bytes_to = to - passes.forward.bytes_to - passes.weight_bytes;
  passes.backward.bytes_from = from - passes.forward.bytes_from - passes.gradient_bytes;
  const double forward_share =
      (passes.forward.bytes_to + passes.weight_bytes + passes.forward.bytes_from) / (to + from);
  const double enclave_s = pass_factor * op.offloaded_cost_ms * 1e-3;
  passes.forward.enclave_s = enclave_s * forward_share;
  passes.backward.enclave_s = enclave_s * (1 - forward_share);
  passes.forward.pieces = passes.backward.pieces = static_cast<double>(op.tiles.size());
  return passes;
}

}  // namespace

double local_step_s(const StepCosts& costs) {
  return std::accumulate(costs.local.linear_s.begin(), costs.local.linear_s.end(),
                         costs.local.rest_s);
}

double offloaded_step_s(const Plan& plan, const StepCosts& costs, double bandwidth) {
  double seconds = costs.beside.rest_s;
  std::vector<OperatorPasses> passes;
  for (const OpPlan& op : plan.ops) {
    if (op.offloaded) {
      passes.push_back(passes_of(op, costs.pass_factor));
    } else {
      seconds += costs.beside.linear_s[static_cast<std::size_t>(op.op.index)];
    }
  }
  if (passes.empty()) return seconds;
  const double alone_s = seconds / static_cast<double>(2 * passes.size());  // beside each pass
  seconds += (passes.front().weight_bytes + passes.front().gradient_bytes) / bandwidth;
  for (std::size_t i = 0; i < passes.size(); ++i) {
    const double forward_s = pass_s(passes[i].forward, bandwidth);
    const double backward_s = pass_s(passes[i].backward, bandwidth);
    seconds += forward_s + backward_s;
    if (i + 1 == passes.size()) break;
    seconds += left_over_s(passes[i + 1].weight_bytes, passes[i].forward.bytes_to, forward_s,
                           alone_s, bandwidth);
    seconds += left_over_s(passes[i + 1].gradient_bytes, passes[i].backward.bytes_from, backward_s,
                           alone_s, bandwidth);
  }
  return seconds;
}

double break_even_bandwidth(const Plan& plan, const StepCosts& costs) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  const double local_s = local_step_s(costs);
  const bool offloads_any =
      std::any_of(plan.ops.begin(), plan.ops.end(), [](const OpPlan& op) { return op.offloaded; });
  if (!offloads_any || !(offloaded_step_s(plan, costs, kInfinite) < local_s)) return kInfinite;
  double slow = 1;
  double fast = 1e15;
  for (int i = 0; i < 100; ++i) {  // by the ratio: more would change nothing
    const double between = std::sqrt(slow * fast);
    (offloaded_step_s(plan, costs, between) < local_s ? fast : slow) = between;
  }
  return fast;
}

}  // namespace tempo
