#include "enclave/offload/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>

#include "enclave/obfuscation/kernels.h"

namespace tempo {
namespace {

constexpr std::int64_t kMinTileRows = 64;
constexpr std::int64_t kMinSliceFeatures = 16;
constexpr std::int64_t kTilesInFlight = 4;  // one each: being encoded, sent, multiplied, decoded
// Products of activations in one plan: bounds the plan, and what a worker has to keep apart.
constexpr std::int64_t kMaxInstances = std::int64_t{1} << 18;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Cuts a range into `parts` whose sizes differ by at most one.
std::vector<Slice> cut(const Slice& all, std::int64_t parts) {
  parts = std::clamp<std::int64_t>(parts, 1, all.size());
  std::vector<Slice> slices;
  for (std::int64_t i = 0; i < parts; ++i) {
    slices.push_back(
        {all.begin + all.size() * i / parts, all.begin + all.size() * (i + 1) / parts});
  }
  return slices;
}

// How many parts keep rows x width floats within `bytes`.
std::int64_t parts_within(std::int64_t rows, std::int64_t width, std::uint64_t bytes) {
  const std::int64_t rows_per_part =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes / sizeof(float)) / width);
  return ceil_div(rows, rows_per_part);
}

struct Share {
  Slice slice;
  int worker = 0;
};

// Cuts [0, total) among the workers by their speed. A share of less than `least` is not worth its
// worker: the slowest go without, until nobody gets less.
std::vector<Share> share_out(std::int64_t total, std::int64_t least,
                             const std::vector<PlannedWorker>& workers) {
  std::vector<int> members(workers.size());
  std::iota(members.begin(), members.end(), 0);
  std::stable_sort(members.begin(), members.end(),
                   [&](int a, int b) { return workers[a].speed > workers[b].speed; });
  const auto speed_of = [&](int worker) { return workers[static_cast<std::size_t>(worker)].speed; };
  const auto all = [&] {
    return std::accumulate(members.begin(), members.end(), 0.0,
                           [&](double sum, int w) { return sum + speed_of(w); });
  };
  const auto least_share = static_cast<double>(least);
  while (members.size() > 1 &&
         speed_of(members.back()) * static_cast<double>(total) < least_share * all()) {
    members.pop_back();
  }
  if (members.empty()) return {{{0, total}, 0}};
  std::sort(members.begin(), members.end());
  const double sum = all();
  std::vector<Share> shares;
  double speed = 0;
  std::int64_t begin = 0;
  for (const int worker : members) {
    speed += speed_of(worker);
    const std::int64_t end =
        worker == members.back() ? total : std::llround(static_cast<double>(total) * (speed / sum));
    if (begin < end) shares.push_back({{begin, end}, worker});
    begin = std::max(begin, end);
  }
  return shares;
}

// The smallest matrix is the cheapest one to repeat.
Parallelism best_parallelism(const LinearOp& op) {
  if (op.of_activations) return Parallelism::kInstances;
  return op.geometry.m() <= op.geometry.p() ? Parallelism::kData : Parallelism::kOutFeatures;
}

// Into how many pieces `rows` positions are cut: they fit their slots and are about as large as
// tiles should be, and there are several, so that encoding, sending, multiplying and decoding
// overlap.
std::int64_t pieces_of(const PlanOptions& options, const ConvGeometry& g, std::int64_t rows) {
  const std::int64_t width = std::max(g.n(), g.m());
  const std::int64_t fitting = parts_within(rows, width, options.max_slot_bytes);
  const std::int64_t wanted =
      std::max(parts_within(rows, width, std::min(options.tile_bytes, options.max_slot_bytes)),
               kTilesInFlight);
  return std::max({fitting, std::min(wanted, ceil_div(rows, kMinTileRows)),
                   ceil_div(rows, options.max_gradient_inner)});
}

// Workers take turns, so that all have something to do from the start.
void issue_in_turns(OpPlan& plan) {
  std::map<int, int> position;  // by worker: tiles so far
  std::vector<std::pair<int, Tile>> tiles;
  for (const Tile& tile : plan.tiles) tiles.emplace_back(position[tile.worker]++, tile);
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::transform(tiles.begin(), tiles.end(), plan.tiles.begin(),
                 [](const auto& tile) { return tile.second; });
}

void deal_positions(const PlanOptions& options, OpPlan& plan) {
  const ConvGeometry& g = plan.op.geometry;
  plan.m_slices = cut({0, g.m()}, parts_within(g.m(), g.n(), options.max_slot_bytes));
  for (const Share& share : share_out(g.p(), kMinTileRows, options.workers)) {
    for (const Slice& piece : cut(share.slice, pieces_of(options, g, share.slice.size()))) {
      const int p_slice = static_cast<int>(plan.p_slices.size());
      plan.p_slices.push_back(piece);
      for (int m = 0; m < static_cast<int>(plan.m_slices.size()); ++m) {
        plan.tiles.push_back({p_slice, m, share.worker});
      }
    }
  }
}

void deal_out_features(const PlanOptions& options, OpPlan& plan) {
  const ConvGeometry& g = plan.op.geometry;
  plan.p_slices = cut({0, g.p()}, pieces_of(options, g, g.p()));
  for (const Share& share : share_out(g.m(), kMinSliceFeatures, options.workers)) {
    const std::int64_t parts = parts_within(share.slice.size(), g.n(), options.max_slot_bytes);
    for (const Slice& piece : cut(share.slice, parts)) {
      const int m_slice = static_cast<int>(plan.m_slices.size());
      plan.m_slices.push_back(piece);
      for (int p = 0; p < static_cast<int>(plan.p_slices.size()); ++p) {
        plan.tiles.push_back({p, m_slice, share.worker});
      }
    }
  }
}

void deal_instances(const PlanOptions& options, OpPlan& plan) {
  const ConvGeometry& g = plan.op.geometry;
  const std::int64_t width = std::max(g.n(), g.m());
  const auto p_parts =
      std::max(parts_within(g.p(), width, std::min(options.tile_bytes, options.max_slot_bytes)),
               ceil_div(g.p(), options.max_gradient_inner));
  const std::vector<Slice> p_slices = cut({0, g.p()}, p_parts);
  const std::vector<Slice> m_slices =
      cut({0, g.m()}, parts_within(g.m(), g.n(), options.max_slot_bytes));
  std::vector<double> load(std::max<std::size_t>(options.workers.size(), 1), 0.0);
  for (std::size_t instance = 0; instance < plan.instance_count(); ++instance) {
    std::size_t next = 0;
    double soonest = std::numeric_limits<double>::infinity();
    for (std::size_t w = 0; w < options.workers.size(); ++w) {
      const double speed = options.workers[w].speed;
      if (speed > 0 && (load[w] + 1) / speed < soonest) {
        next = w;
        soonest = (load[w] + 1) / speed;
      }
    }
    load[next] += 1;
    const auto first_p = static_cast<int>(plan.p_slices.size());
    const auto first_m = static_cast<int>(plan.m_slices.size());
    plan.p_slices.insert(plan.p_slices.end(), p_slices.begin(), p_slices.end());
    plan.m_slices.insert(plan.m_slices.end(), m_slices.begin(), m_slices.end());
    for (int p = 0; p < static_cast<int>(p_slices.size()); ++p) {
      for (int m = 0; m < static_cast<int>(m_slices.size()); ++m) {
        plan.tiles.push_back({first_p + p, first_m + m, static_cast<int>(next)});
      }
    }
  }
}

void deal_tiles(const PlanOptions& options, OpPlan& plan) {
  plan.p_slices.clear();
  plan.m_slices.clear();
  plan.tiles.clear();
  switch (plan.parallelism) {
    case Parallelism::kData:
      deal_positions(options, plan);
      break;
    case Parallelism::kOutFeatures:
      deal_out_features(options, plan);
      break;
    case Parallelism::kInstances:
      deal_instances(options, plan);
      break;
  }
  issue_in_turns(plan);
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
  std::uint64_t operand_elements = 0;
  std::set<std::pair<int, int>> weights;  // (m_slice, worker)
  std::set<std::pair<int, int>> inputs;   // (p_slice, worker)
  for (const Tile& tile : plan.tiles) {
    const auto rows = static_cast<std::uint64_t>(plan.p_slices[tile.p_slice].size());
    const auto features = static_cast<std::uint64_t>(plan.m_slices[tile.m_slice].size());
    const auto n = static_cast<std::uint64_t>(g.n());
    if (weights.insert({tile.m_slice, tile.worker}).second) {
      (keeps_weights(options, plan.op) ? to_once : operand_elements) += features * n;
    }
    if (inputs.insert({tile.p_slice, tile.worker}).second) operand_elements += rows * n;
    from += rows * features;
    if (mode == StepMode::kTraining && plan.op.has_backward()) {
      to += rows * features;
      if (plan.op.needs_input_gradient) from += rows * n;
    }
  }
  to += operand_elements;
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
  if (mode == StepMode::kTraining && plan.op.has_backward() && !plan.keeps_operands) {
    to += operand_elements;
    plan.tasks += 2 * operands;
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
          "raise t or e of --integrity"};
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

// What an operator takes of a worker's memory.
struct WorkerLoad {
  std::uint64_t weights = 0;  // bytes of W'
  std::uint64_t inputs = 0;   // of X'
  std::uint64_t others = 0;   // of D' and dW'
};

WorkerLoad load_of(const OpPlan& op, int worker) {
  WorkerLoad load;
  std::set<int> weights;
  std::set<int> inputs;
  const auto n = static_cast<std::uint64_t>(op.op.geometry.n()) * sizeof(float);
  for (const Tile& tile : op.tiles) {
    if (tile.worker != worker) continue;
    const auto rows = static_cast<std::uint64_t>(op.p_slices[tile.p_slice].size());
    const auto features = static_cast<std::uint64_t>(op.m_slices[tile.m_slice].size());
    if (weights.insert(tile.m_slice).second) load.weights += features * n;
    if (inputs.insert(tile.p_slice).second) load.inputs += rows * n;
    load.others += rows * features * sizeof(float);
  }
  for (const GradientGroup& group : op.groups) {
    if (group.worker == worker && op.op.needs_weight_gradient) {
      load.others += static_cast<std::uint64_t>(op.m_slices[group.m_slice].size()) * n;
    }
  }
  return load;
}

// At the worst moment of a step: what stays, and the largest of what comes and goes.
std::uint64_t peak_of(const PlanOptions& options, const Plan& plan,
                      const std::vector<WorkerLoad>& loads) {
  std::uint64_t kept = 0;
  std::uint64_t transient = 0;
  for (std::size_t i = 0; i < loads.size(); ++i) {
    const WorkerLoad& load = loads[i];
    const OpPlan& op = plan.ops[i];
    // The next operator's weights come while this one is under way.
    const std::uint64_t ahead = i + 1 < loads.size() ? loads[i + 1].weights : 0;
    const std::uint64_t operands = load.weights + load.inputs;
    if (keeps_weights(options, op.op)) {
      kept += load.weights;
      transient = std::max(transient, load.inputs + ahead);
    } else if (options.mode == StepMode::kInference || !op.op.has_backward()) {
      transient = std::max(transient, operands + ahead);
    } else {
      kept += op.keeps_operands ? operands : 0;
      transient = std::max(transient, load.others + (op.keeps_operands ? 0 : operands + ahead));
    }
  }
  return kept + transient;
}

// Where operands cannot all stay, the largest are sent a second time.
Status fit_worker_memory(const PlanOptions& options, Plan& plan) {
  plan.resident_bytes.assign(options.workers.size(), 0);
  for (std::size_t w = 0; w < options.workers.size(); ++w) {
    std::vector<WorkerLoad> loads;
    for (const OpPlan& op : plan.ops) {
      loads.push_back(op.offloaded ? load_of(op, static_cast<int>(w)) : WorkerLoad{});
    }
    const std::uint64_t limit = options.workers[w].memory_limit_bytes;
    std::uint64_t& peak = plan.resident_bytes[w];
    for (peak = peak_of(options, plan, loads); peak > limit;) {
      OpPlan* largest = nullptr;
      std::uint64_t bytes = 0;
      for (std::size_t i = 0; i < loads.size(); ++i) {
        const std::uint64_t operands = loads[i].weights + loads[i].inputs;
        const bool stays = plan.ops[i].keeps_operands && plan.ops[i].op.has_backward() &&
                           options.mode == StepMode::kTraining;
        if (!stays || operands <= bytes) continue;
        largest = &plan.ops[i];
        bytes = operands;
      }
      if (largest == nullptr) {
        return Error{ErrorCode::kOutOfMemory,
                     "a worker's memory does not hold its share of an operator",
                     "worker " + std::to_string(w),
                     std::to_string(peak >> 20) + " MiB",
                     std::to_string(limit >> 20) + " MiB",
                     "use a smaller --batch, more workers, or workers with more memory"};
      }
      largest->keeps_operands = false;
      peak = peak_of(options, plan, loads);
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

namespace {

// Everything about the offloaded operators that depends on the workers.
Result<Plan> deal(Plan plan, const PlanOptions& options) {
  for (OpPlan& op : plan.ops) {
    if (!op.offloaded) continue;
    deal_tiles(options, op);
    if (options.mode == StepMode::kTraining) group_gradients(options.max_gradient_inner, op);
    op.keeps_operands = true;
  }
  TEMPO_RETURN_IF_ERROR(fit_worker_memory(options, plan));
  plan.bytes_to_workers = plan.bytes_to_workers_once = plan.bytes_from_workers = 0;
  plan.products = 0;
  for (OpPlan& op : plan.ops) {
    if (!op.offloaded) continue;
    count_traffic(options, op);
    plan.bytes_to_workers += op.bytes_to_workers;
    plan.bytes_to_workers_once += op.bytes_to_workers_once;
    plan.bytes_from_workers += op.bytes_from_workers;
    plan.products += op.products;
  }
  SoundnessGoal goal = options.goal;
  plan.checks_planned = static_cast<double>(plan.products) * options.products_factor;
  goal.checks = std::max(1.0, plan.checks_planned) + rows_of_refused_products(options, plan);
  plan.allowed_miss = goal.t / goal.checks;
  std::uint64_t kept = 0;
  std::uint64_t called = 0;
  std::uint64_t called_before = 0;
  std::int64_t largest_right = 0;  // elements of the right operands of an operator
  for (OpPlan& op : plan.ops) {
    if (!op.offloaded) continue;
    TEMPO_RETURN_IF_ERROR(choose_rounds(options, goal, op));
    const EngineBytes bytes = engine_bytes_of(options, op);
    kept += bytes.kept;
    // One is under way while the next one's weights are sent, or the gradients of the one after it
    // are awaited.
    called = std::max(called, called_before + bytes.call);
    called_before = bytes.call;
    const ConvGeometry& g = op.op.geometry;
    if (op.op.of_activations) {
      largest_right = std::max(largest_right, op.op.instances * g.m() * g.n());
    }
  }
  // The executor turns right operands into this shape, and in training their gradients back.
  const std::uint64_t copies = options.mode == StepMode::kTraining ? 2 : 1;
  plan.engine_bytes =
      kept + called + copies * sizeof(float) * static_cast<std::uint64_t>(largest_right);
  return plan;
}

}  // namespace

std::string_view parallelism_name(Parallelism parallelism) {
  switch (parallelism) {
    case Parallelism::kData:
      return "data";
    case Parallelism::kOutFeatures:
      return "out-features";
    case Parallelism::kInstances:
      return "instances";
  }
  return "";
}

Result<Plan> make_plan(const std::vector<LinearOp>& ops, const PlanOptions& options) {
  Plan plan;
  std::int64_t instances = 0;
  for (const LinearOp& op : ops) {
    OpPlan entry;
    entry.op = op;
    const bool is_countable = !op.of_activations || op.instances <= kMaxInstances - instances;
    if (offloads(options.scheme) && op.geometry.groups == 1 && is_countable) {
      if (op.of_activations) instances += op.instances;
      entry.parallelism = best_parallelism(op);
      deal_tiles(options, entry);
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
    plan.multiply_adds += entry.op.multiply_adds();
    if (entry.offloaded) plan.offloaded_multiply_adds += entry.op.multiply_adds();
    plan.ops.push_back(std::move(entry));
  }
  return deal(std::move(plan), options);
}

Result<Plan> deal_again(const Plan& plan, const PlanOptions& options) {
  return deal(plan, options);
}

}  // namespace tempo
