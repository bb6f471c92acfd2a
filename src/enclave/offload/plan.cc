#include "enclave/offload/plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "enclave/obfuscation/kernels.h"

namespace tempo {
namespace {

constexpr std::int64_t kMinTileRows = 64;
constexpr std::int64_t kMinSliceFeatures = 16;  // tensor-parallel slices are not worth less
// Products of activations in one plan: bounds the plan, and what a worker has to keep apart.
constexpr std::int64_t kMaxInstances = std::int64_t{1} << 18;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Cuts [0, total) into `parts` ranges whose sizes differ by at most one.
std::vector<Slice> cut(std::int64_t total, std::int64_t parts) {
  parts = std::clamp<std::int64_t>(parts, 1, total);
  std::vector<Slice> slices;
  for (std::int64_t i = 0; i < parts; ++i) {
    slices.push_back({total * i / parts, total * (i + 1) / parts});
  }
  return slices;
}

// How many parts keep rows x width floats within `bytes`.
std::int64_t parts_within(std::int64_t rows, std::int64_t width, std::uint64_t bytes) {
  const std::int64_t rows_per_part =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes / sizeof(float)) / width);
  return ceil_div(rows, rows_per_part);
}

void cut_into_tiles(const PlanOptions& options, OpPlan& plan) {
  const ConvGeometry& g = plan.op.geometry;
  const auto workers = static_cast<std::int64_t>(std::max<std::size_t>(options.workers.size(), 1));
  const bool instance_parallel = plan.op.of_activations;
  const bool tensor_parallel = g.is_fully_connected() && !instance_parallel;

  // W' and dW' are m_slice x n; X' and dX' are p_slice x n; Z' and D' are p_slice x m_slice.
  std::int64_t m_parts = parts_within(g.m(), g.n(), options.max_slot_bytes);
  if (tensor_parallel && g.m() >= workers * kMinSliceFeatures) m_parts = std::max(m_parts, workers);
  const std::int64_t width = std::max(g.n(), g.m());
  std::int64_t p_parts =
      parts_within(g.p(), width, std::min(options.tile_bytes, options.max_slot_bytes));
  p_parts =
      std::min(p_parts, std::max<std::int64_t>(ceil_div(g.p(), kMinTileRows),
                                               parts_within(g.p(), width, options.max_slot_bytes)));
  if (!tensor_parallel && !instance_parallel && g.p() >= workers * kMinTileRows) {
    p_parts = std::max(p_parts, workers);
  }
  p_parts = std::max(p_parts, ceil_div(g.p(), options.max_gradient_inner));

  const std::vector<Slice> p_slices = cut(g.p(), p_parts);
  const std::vector<Slice> m_slices = cut(g.m(), m_parts);
  for (std::size_t instance = 0; instance < plan.instance_count(); ++instance) {
    const std::size_t first_p = plan.p_slices.size();
    const std::size_t first_m = plan.m_slices.size();
    plan.p_slices.insert(plan.p_slices.end(), p_slices.begin(), p_slices.end());
    plan.m_slices.insert(plan.m_slices.end(), m_slices.begin(), m_slices.end());
    for (std::size_t ps = 0; ps < p_slices.size(); ++ps) {
      for (std::size_t ms = 0; ms < m_slices.size(); ++ms) {
        const std::size_t lane = instance_parallel ? instance : tensor_parallel ? ms : ps;
        plan.tiles.push_back({static_cast<int>(first_p + ps), static_cast<int>(first_m + ms),
                              static_cast<int>(lane % static_cast<std::size_t>(workers))});
      }
    }
  }
}

std::int64_t group_inner(const OpPlan& plan, const GradientGroup& group) {
  std::int64_t inner = 0;
  for (const int tile : group.tiles) inner += plan.p_slices[plan.tiles[tile].p_slice].size();
  return inner;
}

void group_gradients(std::int64_t max_inner, OpPlan& plan) {
  plan.groups.clear();
  std::map<std::pair<int, int>, std::size_t> open;  // (m_slice, worker) -> group
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const Tile& tile = plan.tiles[t];
    const std::pair<int, int> lane{tile.m_slice, tile.worker};
    const auto at = open.find(lane);
    const std::int64_t rows = plan.p_slices[tile.p_slice].size();
    if (at == open.end() || group_inner(plan, plan.groups[at->second]) + rows > max_inner) {
      plan.groups.push_back({tile.m_slice, tile.worker, {}});
      open[lane] = plan.groups.size() - 1;
    }
    plan.groups[open[lane]].tiles.push_back(static_cast<int>(t));
  }
}

std::int64_t widest(const std::vector<Slice>& slices) {
  std::int64_t widest_size = 0;
  for (const Slice& slice : slices) widest_size = std::max(widest_size, slice.size());
  return widest_size;
}

// The engine does the same: operands of activation products change with the batch.
bool keeps_weights(const PlanOptions& options, const LinearOp& op) {
  return options.mode == StepMode::kInference && options.keeps_weights && !op.of_activations;
}

void count_traffic(const PlanOptions& options, OpPlan& plan) {
  const StepMode mode = options.mode;
  const ConvGeometry& g = plan.op.geometry;
  std::uint64_t to = 0;
  std::uint64_t to_once = 0;
  std::uint64_t from = 0;
  std::set<std::pair<int, int>> weights;  // (m_slice, worker)
  std::set<std::pair<int, int>> inputs;   // (p_slice, worker)
  for (const Tile& tile : plan.tiles) {
    const auto rows = static_cast<std::uint64_t>(plan.p_slices[tile.p_slice].size());
    const auto features = static_cast<std::uint64_t>(plan.m_slices[tile.m_slice].size());
    const auto n = static_cast<std::uint64_t>(g.n());
    if (weights.insert({tile.m_slice, tile.worker}).second) {
      (keeps_weights(options, plan.op) ? to_once : to) += features * n;
    }
    if (inputs.insert({tile.p_slice, tile.worker}).second) to += rows * n;
    from += rows * features;
    if (mode == StepMode::kTraining && plan.op.has_backward()) {
      to += rows * features;
      if (plan.op.needs_input_gradient) from += rows * n;
    }
  }
  const auto tiles = static_cast<std::int64_t>(plan.tiles.size());
  const auto operands = static_cast<std::int64_t>(
      inputs.size() + (keeps_weights(options, plan.op) ? 0 : weights.size()));
  plan.products = tiles;
  plan.tasks = operands + tiles;
  if (mode == StepMode::kTraining) {
    // Operands are dropped one by one; so is the D' of every tile and the sum of every group.
    plan.tasks += operands + 2 * tiles + static_cast<std::int64_t>(plan.groups.size()) +
                  (plan.op.needs_input_gradient ? tiles : 0) +
                  (plan.op.needs_weight_gradient ? tiles : 0);
    if (plan.op.needs_input_gradient) plan.products += tiles;
    for (const GradientGroup& group : plan.groups) {
      if (!plan.op.needs_weight_gradient) break;
      from += static_cast<std::uint64_t>(plan.m_slices[group.m_slice].size() * g.n());
      ++plan.products;
    }
  }
  plan.bytes_to_workers = to * sizeof(float);
  plan.bytes_to_workers_once = to_once * sizeof(float);
  plan.bytes_from_workers = from * sizeof(float);
}

void estimate_costs(const PlanOptions& options, OpPlan& plan) {
  constexpr double kTypicalRounds = 5;
  const ConvGeometry& g = plan.op.geometry;
  const double products =
      options.mode == StepMode::kInference
          ? 1
          : 1.0 + (plan.op.needs_input_gradient ? 1 : 0) + (plan.op.needs_weight_gradient ? 1 : 0);
  plan.local_cost_ms = products * 2.0 * static_cast<double>(plan.op.multiply_adds()) /
                       options.cost.local_flops_per_ns * 1e-6;
  const double rounds = kTypicalRounds * options.cost.round_ns;
  // In training, an operand serves two products, each with checks of its own.
  const double checks = options.mode == StepMode::kInference ? rounds : 2 * rounds;
  // What is sent once costs a step its share; no sums are taken over it.
  plan.offloaded_cost_ms =
      (static_cast<double>(plan.bytes_to_workers) / sizeof(float) *
           (options.cost.encode_ns + checks) +
       static_cast<double>(plan.bytes_to_workers_once) / sizeof(float) * options.cost.encode_ns /
           std::max(1.0, options.products_factor) +
       static_cast<double>(plan.bytes_from_workers) / sizeof(float) *
           (options.cost.decode_ns + rounds) +
       static_cast<double>(plan.op.instances * (g.m() + g.n() + g.p())) * options.cost.key_ns +
       static_cast<double>(plan.tasks) * options.cost.task_ns) *
      1e-6;
}

void place(const PlanOptions& options, OpPlan& plan) {
  const auto widest_row =
      static_cast<std::uint64_t>(std::max(plan.op.geometry.n(), plan.op.geometry.m()));
  if (!offloads(options.scheme)) {
    plan.reason = "scheme local";
  } else if (plan.op.geometry.groups > 1) {
    plan.reason = "grouped convolution";
  } else if (widest_row > options.max_slot_bytes / sizeof(float)) {
    plan.reason = "one row is larger than a slot of the ring";
  } else if (plan.tiles.empty()) {
    plan.reason = "too many products";
  } else if (options.policy == OffloadPolicy::kNone) {
    plan.reason = "--offload none";
  } else if (options.policy == OffloadPolicy::kAll) {
    plan.offloaded = true;
    plan.reason = "--offload all";
  } else {
    plan.offloaded = plan.offloaded_cost_ms < plan.local_cost_ms;
    plan.reason = plan.offloaded ? "cheaper on workers" : "cheaper in the enclave";
  }
}

Error unreachable_goal(const OpPlan& plan) {
  return {ErrorCode::kUsage,
          "the soundness goal cannot be reached",
          plan.op.name,
          "a tolerance below the size of the error to be caught",
          std::to_string(plan.op.geometry.n()) + " inputs by " +
              std::to_string(plan.op.geometry.m()) + " outputs a product",
          "raise --tamper-size or --soundness-t"};
}

Status choose_rounds(const PlanOptions& options, const SoundnessGoal& goal, OpPlan& plan) {
  const std::int64_t features = plan.widest_slice();
  plan.rounds_forward = rounds_needed({plan.op.geometry.n(), features}, goal);
  if (plan.rounds_forward == 0) return unreachable_goal(plan);
  if (options.mode == StepMode::kInference) return {};
  if (plan.op.needs_input_gradient) {
    plan.rounds_input_gradient = rounds_needed({features, plan.op.geometry.n()}, goal);
    if (plan.rounds_input_gradient == 0) return unreachable_goal(plan);
  }
  if (!plan.op.needs_weight_gradient) return {};
  plan.rounds_weight_gradient =
      rounds_needed({plan.longest_gradient(), plan.op.geometry.n()}, goal);
  if (plan.rounds_weight_gradient == 0) return unreachable_goal(plan);
  return {};
}

Status check_worker_memory(const PlanOptions& options, Plan& plan) {
  plan.resident_bytes.assign(options.workers.size(), 0);
  for (std::size_t w = 0; w < options.workers.size(); ++w) {
    std::uint64_t kept = 0;       // W' and X' of all operators (training)
    std::uint64_t transient = 0;  // the largest operator's D' and dW'
    for (const OpPlan& op : plan.ops) {
      if (!op.offloaded) continue;
      std::set<int> weights;
      std::set<int> inputs;
      std::uint64_t resident = 0;
      std::uint64_t of_weights = 0;
      std::uint64_t backward = 0;
      const auto n = static_cast<std::uint64_t>(op.op.geometry.n());
      for (const Tile& tile : op.tiles) {
        if (tile.worker != static_cast<int>(w)) continue;
        const auto rows = static_cast<std::uint64_t>(op.p_slices[tile.p_slice].size());
        const auto features = static_cast<std::uint64_t>(op.m_slices[tile.m_slice].size());
        if (weights.insert(tile.m_slice).second) of_weights += features * n;
        if (inputs.insert(tile.p_slice).second) resident += rows * n;
        backward += rows * features;
      }
      for (const GradientGroup& group : op.groups) {
        if (group.worker == static_cast<int>(w) && op.op.needs_weight_gradient) {
          backward += static_cast<std::uint64_t>(op.m_slices[group.m_slice].size()) * n;
        }
      }
      if (options.mode == StepMode::kTraining && op.op.has_backward()) {
        kept += resident + of_weights;
        transient = std::max(transient, backward);
      } else if (keeps_weights(options, op.op)) {
        kept += of_weights;
        transient = std::max(transient, resident);
      } else {
        transient = std::max(transient, resident + of_weights);
      }
    }
    plan.resident_bytes[w] = (kept + transient) * sizeof(float);
    const std::uint64_t limit = options.workers[w].memory_limit_bytes;
    if (plan.resident_bytes[w] > limit) {
      return Error{ErrorCode::kOutOfMemory,
                   "a worker's memory does not hold its share of the operands",
                   "worker " + std::to_string(w),
                   std::to_string(plan.resident_bytes[w] >> 20) + " MiB",
                   std::to_string(limit >> 20) + " MiB",
                   "use a smaller --batch, more workers, or workers with more memory"};
    }
  }
  return {};
}

// Enclave memory that the engine takes for one offloaded operator.
struct EngineBytes {
  std::uint64_t kept = 0;  // while other operators are done
  std::uint64_t call = 0;  // besides, while its own products are under way
};

EngineBytes engine_bytes_of(const PlanOptions& options, const OpPlan& plan) {
  // Lists of keys, rows, checks and ids of a tile, with what the allocator adds to each.
  constexpr std::uint64_t kTileBytes = 1024;
  constexpr std::uint64_t kKeyBytes = 16;  // an entry of an axis: AxisKey
  const bool trains = options.mode == StepMode::kTraining && plan.op.has_backward();
  const ConvGeometry& g = plan.op.geometry;
  const auto n = static_cast<std::uint64_t>(g.n());
  const auto vectors = [](int rounds, std::uint64_t columns) {  // ProductChecks
    return static_cast<std::uint64_t>(rounds + 1) * columns * sizeof(float);
  };
  const auto sums = [](int rounds, std::uint64_t rows) {  // ExpectedRows
    return static_cast<std::uint64_t>(rounds + 1) * rows * sizeof(double);
  };
  const auto instances = static_cast<std::uint64_t>(plan.instance_count());
  const std::uint64_t weight_keys = kKeyBytes * instances * (static_cast<std::uint64_t>(g.m()) + n);
  std::uint64_t step = weight_keys + instances * static_cast<std::uint64_t>(g.p()) *
                                         (kKeyBytes + 2 * sizeof(std::uint32_t));  // TileRows
  std::uint64_t forward = 0;
  std::uint64_t backward = 0;
  for (const Tile& tile : plan.tiles) {
    const auto rows = static_cast<std::uint64_t>(plan.p_slices[tile.p_slice].size());
    const auto features = static_cast<std::uint64_t>(plan.m_slices[tile.m_slice].size());
    step += kTileBytes;
    forward += vectors(plan.rounds_forward, n + features) + sums(plan.rounds_forward, rows);
    if (!trains) continue;
    if (plan.op.needs_weight_gradient) {
      step += vectors(plan.rounds_weight_gradient, rows);  // InputProjections
    }
    if (plan.op.needs_input_gradient) backward += sums(plan.rounds_input_gradient, rows);
  }
  if (trains) {
    for (const GradientGroup& group : plan.groups) {
      const auto features = static_cast<std::uint64_t>(plan.m_slices[group.m_slice].size());
      if (plan.op.needs_weight_gradient) {
        step += 2 * vectors(plan.rounds_weight_gradient, n);
        backward += sums(plan.rounds_weight_gradient, features);
      }
      if (plan.op.needs_input_gradient) {
        backward += vectors(plan.rounds_input_gradient, n + features);
      }
    }
    return {step, std::max(forward, backward)};
  }
  // Kept keys are copied for every batch.
  return {keeps_weights(options, plan.op) ? weight_keys : 0, step + forward};
}

// Backward, the rows of a refused product that passed stay where they were added. A worker is
// refused once, so that this many rows more may each be wrong with the chance of a product.
double rows_of_refused_products(const PlanOptions& options, const Plan& plan) {
  std::int64_t rows = 0;
  for (const OpPlan& entry : plan.ops) {
    if (!entry.offloaded || options.mode == StepMode::kInference) continue;
    rows = std::max({rows, widest(entry.p_slices), widest(entry.m_slices)});
  }
  return static_cast<double>(rows) * static_cast<double>(options.workers.size());
}

}  // namespace

std::int64_t OpPlan::widest_slice() const {
  return widest(m_slices);
}

std::int64_t OpPlan::longest_gradient() const {
  std::int64_t longest = 1;
  for (const GradientGroup& group : groups) longest = std::max(longest, group_inner(*this, group));
  return longest;
}

Result<Plan> make_plan(const std::vector<LinearOp>& ops, const PlanOptions& options) {
  Plan plan;
  std::int64_t instances = 0;
  std::int64_t largest_right = 0;  // elements of the right operands of an operator
  for (const LinearOp& op : ops) {
    OpPlan entry;
    entry.op = op;
    const bool is_countable = !op.of_activations || op.instances <= kMaxInstances - instances;
    if (offloads(options.scheme) && op.geometry.groups == 1 && is_countable) {
      if (op.of_activations) instances += op.instances;
      cut_into_tiles(options, entry);
      if (options.mode == StepMode::kTraining) {
        group_gradients(options.max_gradient_inner, entry);
      }
      count_traffic(options, entry);
    }
    estimate_costs(options, entry);
    place(options, entry);
    if (entry.offloaded && options.workers.empty()) {
      return Error{ErrorCode::kNoWorker,
                   "there is no worker to offload to",
                   op.name,
                   "at least one worker",
                   "none",
                   "give --workers, or --offload none"};
    }
    plan.ops.push_back(std::move(entry));
  }
  std::uint64_t kept = 0;
  std::uint64_t called = 0;
  SoundnessGoal goal = options.goal;
  goal.checks = 0;
  for (OpPlan& entry : plan.ops) {
    plan.multiply_adds += entry.op.multiply_adds();
    if (!entry.offloaded) continue;
    plan.offloaded_multiply_adds += entry.op.multiply_adds();
    plan.bytes_to_workers += entry.bytes_to_workers;
    plan.bytes_to_workers_once += entry.bytes_to_workers_once;
    plan.bytes_from_workers += entry.bytes_from_workers;
    plan.products += entry.products;
  }
  goal.checks = std::max(1.0, static_cast<double>(plan.products) * options.products_factor) +
                rows_of_refused_products(options, plan);
  plan.allowed_miss = goal.t / goal.checks;
  for (OpPlan& entry : plan.ops) {
    if (!entry.offloaded) continue;
    TEMPO_RETURN_IF_ERROR(choose_rounds(options, goal, entry));
    const EngineBytes bytes = engine_bytes_of(options, entry);
    kept += bytes.kept;
    called = std::max(called, bytes.call);
    const ConvGeometry& g = entry.op.geometry;
    if (entry.op.of_activations) {
      largest_right = std::max(largest_right, entry.op.instances * g.m() * g.n());
    }
  }
  // The executor turns right operands into this shape, and in training their gradients back.
  const std::uint64_t copies = options.mode == StepMode::kTraining ? 2 : 1;
  plan.engine_bytes =
      kept + called + copies * sizeof(float) * static_cast<std::uint64_t>(largest_right);
  TEMPO_RETURN_IF_ERROR(check_worker_memory(options, plan));
  return plan;
}

}  // namespace tempo
