#include "enclave/offload/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
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
// worker: the slowest go without, until nobody gets less, and there are at most `most`.
std::vector<Share> share_out(std::int64_t total, std::int64_t least,
                             const std::vector<PlannedWorker>& workers,
                             std::size_t most = SIZE_MAX) {
  std::vector<int> members(workers.size());
  std::iota(members.begin(), members.end(), 0);
  std::stable_sort(members.begin(), members.end(),
                   [&](int a, int b) { return workers[a].speed > workers[b].speed; });
  const auto speed_of = [&](int worker) { return workers[static_cast<std::size_t>(worker)].speed; };
  const auto all = [&] {
    return std::accumulate(members.begin(), members.end(), 0.0,
                           [&](double sum, int w) { return sum + speed_of(w); });
  };
  if (members.size() > most) members.resize(std::max<std::size_t>(most, 1));
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

// Into how many pieces `rows` positions are cut: they fit their slots and are about as large as
// tiles should be, and there are several, so that encoding, sending, multiplying and decoding
// overlap.
std::int64_t pieces_of(const PlanOptions& options, std::int64_t width, std::int64_t rows) {
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
  const std::int64_t width = std::max(g.n(), g.m());
  plan.m_slices = cut({0, g.m()}, parts_within(g.m(), g.n(), options.max_slot_bytes));
  for (const Share& share : share_out(g.p(), kMinTileRows, options.workers)) {
    for (const Slice& piece : cut(share.slice, pieces_of(options, width, share.slice.size()))) {
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
  plan.p_slices = cut({0, g.p()}, pieces_of(options, std::max(g.n(), g.m()), g.p()));
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

// Adds an instance: every pair of its slices is a tile of `worker`.
void add_instance(const std::vector<Slice>& p_slices, const std::vector<Slice>& m_slices,
                  int worker, OpPlan& plan) {
  const auto first_p = static_cast<int>(plan.p_slices.size());
  const auto first_m = static_cast<int>(plan.m_slices.size());
  plan.p_slices.insert(plan.p_slices.end(), p_slices.begin(), p_slices.end());
  plan.m_slices.insert(plan.m_slices.end(), m_slices.begin(), m_slices.end());
  for (int p = 0; p < static_cast<int>(p_slices.size()); ++p) {
    for (int m = 0; m < static_cast<int>(m_slices.size()); ++m) {
      plan.tiles.push_back({first_p + p, first_m + m, worker});
    }
  }
}

void deal_in_features(const PlanOptions& options, OpPlan& plan) {
  const ConvGeometry& g = plan.op.geometry;
  const std::vector<Share> shares =
      share_out(g.n(), kMinSliceFeatures, options.workers, plan.max_n_slices);
  for (const Share& share : shares) plan.n_slices.push_back(share.slice);
  const std::int64_t n = plan.widest_input();
  const std::vector<Slice> p_slices =
      cut({0, g.p()}, pieces_of(options, std::max(n, g.m()), g.p()));
  const std::vector<Slice> m_slices =
      cut({0, g.m()}, parts_within(g.m(), n, options.max_slot_bytes));
  for (const Share& share : shares) add_instance(p_slices, m_slices, share.worker, plan);
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
    add_instance(p_slices, m_slices, static_cast<int>(next), plan);
  }
}

void deal_tiles(const PlanOptions& options, OpPlan& plan) {
  plan.n_slices.clear();
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
    case Parallelism::kInFeatures:
      deal_in_features(options, plan);
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
  std::uint64_t to = 0;
  std::uint64_t to_once = 0;
  std::uint64_t from = 0;
  std::uint64_t operand_elements = 0;
  std::set<std::pair<int, int>> weights;  // (m_slice, worker)
  std::set<std::pair<int, int>> inputs;   // (p_slice, worker)
  for (const Tile& tile : plan.tiles) {
    const auto rows = static_cast<std::uint64_t>(plan.p_slices[tile.p_slice].size());
    const auto features = static_cast<std::uint64_t>(plan.m_slices[tile.m_slice].size());
    const auto n = static_cast<std::uint64_t>(plan.in_features_of(tile.m_slice));
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
      from += static_cast<std::uint64_t>(plan.m_slices[group.m_slice].size() *
                                         plan.in_features_of(group.m_slice));
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

std::int64_t key_entries(const OpPlan& plan) {
  const ConvGeometry& g = plan.op.geometry;
  const auto instances = static_cast<std::int64_t>(plan.instance_count());
  return instances * (g.m() + g.p()) + (plan.n_slices.empty() ? instances : 1) * g.n();
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
  // Every n-slice takes its columns from whole rows of X, W and their gradients, and adds to Z.
  const double gathered = static_cast<double>(plan.n_slices.size()) *
                          (products * static_cast<double>((g.m() + g.p()) * g.n()) +
                           static_cast<double>(g.p() * g.m()));
  // What is sent once costs a step its share; no sums are taken over it.
  plan.offloaded_cost_ms =
      (static_cast<double>(plan.bytes_to_workers) / sizeof(float) *
           (options.cost.encode_ns + checks) +
       static_cast<double>(plan.bytes_to_workers_once) / sizeof(float) * options.cost.encode_ns /
           std::max(1.0, options.products_factor) +
       static_cast<double>(plan.bytes_from_workers) / sizeof(float) *
           (options.cost.decode_ns + rounds) +
       static_cast<double>(key_entries(plan)) * options.cost.key_ns +
       gathered * options.cost.gather_ns + static_cast<double>(plan.tasks) * options.cost.task_ns) *
      1e-6;
}

// Cuts and deals an operator; all that follows from it alone.
void lay_out(const PlanOptions& options, Parallelism parallelism, OpPlan& plan) {
  plan.parallelism = parallelism;
  plan.keeps_operands = true;
  deal_tiles(options, plan);
  if (options.mode == StepMode::kTraining) group_gradients(options.max_gradient_inner, plan);
  count_traffic(options, plan);
  estimate_costs(options, plan);
}

std::size_t workers_of(const OpPlan& plan) {
  std::set<int> workers;
  for (const Tile& tile : plan.tiles) workers.insert(tile.worker);
  return workers.size();
}

bool names(const ParallelismRule& rule, const LinearOp& op) {
  return rule.op == op.name || std::any_of(op.parts.begin(), op.parts.end(),
                                           [&](const auto& part) { return part.name == rule.op; });
}

std::optional<Parallelism> parallelism_of(ParallelismChoice choice) {
  switch (choice) {
    case ParallelismChoice::kAuto:
      return std::nullopt;
    case ParallelismChoice::kData:
      return Parallelism::kData;
    case ParallelismChoice::kOutFeatures:
      return Parallelism::kOutFeatures;
    case ParallelismChoice::kInFeatures:
      return Parallelism::kInFeatures;
  }
  return std::nullopt;
}

// How the user wants it cut. What names the operator goes before what is for all.
std::optional<Parallelism> rule_for(const PlanOptions& options, const LinearOp& op) {
  std::optional<Parallelism> wanted;
  for (const bool is_for_all : {true, false}) {
    for (const ParallelismRule& rule : options.parallelism) {
      if (rule.op.empty() != is_for_all || !(is_for_all || names(rule, op))) continue;
      wanted = parallelism_of(rule.choice);
      if (wanted && !can_be_cut(op, *wanted)) wanted.reset();
    }
  }
  return wanted;
}

// The smallest matrix is the cheapest one to repeat: W or X, or D where that pays for gathering.
void lay_out_best(const PlanOptions& options, OpPlan& plan) {
  const LinearOp& op = plan.op;
  if (op.of_activations) return lay_out(options, Parallelism::kInstances, plan);
  if (const auto wanted = rule_for(options, op)) return lay_out(options, *wanted, plan);
  const bool repeats_weights = op.geometry.m() <= op.geometry.p();
  lay_out(options, repeats_weights ? Parallelism::kData : Parallelism::kOutFeatures, plan);
  if (!can_be_cut(op, Parallelism::kInFeatures)) return;
  OpPlan other = plan;
  lay_out(options, Parallelism::kInFeatures, other);
  if (workers_of(other) >= workers_of(plan) && other.offloaded_cost_ms < plan.offloaded_cost_ms) {
    plan = std::move(other);
  }
}

bool rows_fit_slots(const PlanOptions& options, const ConvGeometry& g) {
  return static_cast<std::uint64_t>(std::max(g.n(), g.m())) <=
         options.max_slot_bytes / sizeof(float);
}

void place(const PlanOptions& options, OpPlan& plan) {
  if (!offloads(options.scheme)) {
    plan.reason = "scheme local";
  } else if (plan.op.geometry.groups > 1) {
    plan.reason = "grouped convolution";
  } else if (!rows_fit_slots(options, plan.op.geometry)) {
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
  const std::int64_t inputs = plan.widest_input();
  plan.rounds_forward = rounds_needed({inputs, features}, goal);
  if (plan.rounds_forward == 0) return unreachable_goal(plan);
  if (options.mode == StepMode::kInference) return {};
  if (plan.op.needs_input_gradient) {
    plan.rounds_input_gradient = rounds_needed({features, inputs}, goal);
    if (plan.rounds_input_gradient == 0) return unreachable_goal(plan);
  }
  if (!plan.op.needs_weight_gradient) return {};
  plan.rounds_weight_gradient = rounds_needed({plan.longest_gradient(), inputs}, goal);
  if (plan.rounds_weight_gradient == 0) return unreachable_goal(plan);
  return {};
}

// What an operator takes of a worker's memory.
struct WorkerLoad {
  std::uint64_t weights = 0;  // bytes of W'
  std::uint64_t inputs = 0;   // of X'
  std::uint64_t others = 0;   // of D' and dW'
  std::uint64_t operands() const { return weights + inputs; }
};

WorkerLoad load_of(const OpPlan& op, int worker) {
  WorkerLoad load;
  std::set<int> weights;
  std::set<int> inputs;
  for (const Tile& tile : op.tiles) {
    if (tile.worker != worker) continue;
    const auto n = static_cast<std::uint64_t>(op.in_features_of(tile.m_slice)) * sizeof(float);
    const auto rows = static_cast<std::uint64_t>(op.p_slices[tile.p_slice].size());
    const auto features = static_cast<std::uint64_t>(op.m_slices[tile.m_slice].size());
    if (weights.insert(tile.m_slice).second) load.weights += features * n;
    if (inputs.insert(tile.p_slice).second) load.inputs += rows * n;
    load.others += rows * features * sizeof(float);
  }
  for (const GradientGroup& group : op.groups) {
    if (group.worker == worker && op.op.needs_weight_gradient) {
      load.others += static_cast<std::uint64_t>(op.m_slices[group.m_slice].size() *
                                                op.in_features_of(group.m_slice)) *
                     sizeof(float);
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
    // The next offloaded operator's weights come while this one is under way.
    std::size_t next = i + 1;
    while (next < loads.size() && !plan.ops[next].offloaded) ++next;
    const std::uint64_t ahead = next < loads.size() ? loads[next].weights : 0;
    const std::uint64_t operands = load.operands();
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

// Where operands cannot all stay, the largest are sent a second time. False, with the worker, when
// it does not hold even what it needs at one time.
bool fit_worker(const PlanOptions& options, std::size_t worker, Plan& plan) {
  std::vector<WorkerLoad> loads;
  for (const OpPlan& op : plan.ops) {
    loads.push_back(op.offloaded ? load_of(op, static_cast<int>(worker)) : WorkerLoad{});
  }
  std::uint64_t& peak = plan.resident_bytes[worker];
  for (peak = peak_of(options, plan, loads); peak > options.workers[worker].memory_limit_bytes;) {
    OpPlan* largest = nullptr;
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < loads.size(); ++i) {
      const std::uint64_t operands = loads[i].operands();
      const bool stays = plan.ops[i].keeps_operands && plan.ops[i].op.has_backward() &&
                         options.mode == StepMode::kTraining;
      if (!stays || operands <= bytes) continue;
      largest = &plan.ops[i];
      bytes = operands;
    }
    if (largest == nullptr) return false;
    largest->keeps_operands = false;
    count_traffic(options, *largest);
    peak = peak_of(options, plan, loads);
  }
  return true;
}

// Cuts the operator of which `worker` holds the most otherwise, so that it holds less of it. False
// when none can be.
bool cut_for_memory(const PlanOptions& options, int worker, Plan& plan) {
  OpPlan* target = nullptr;
  OpPlan smaller;
  std::uint64_t most = 0;
  for (OpPlan& op : plan.ops) {
    if (!op.offloaded || rule_for(options, op.op)) continue;
    const std::uint64_t held = load_of(op, worker).operands();
    if (held <= most) continue;
    std::uint64_t least = held;
    for (const Parallelism parallelism : {Parallelism::kOutFeatures, Parallelism::kInFeatures}) {
      // Never back to what it was before.
      if (parallelism <= op.parallelism || !can_be_cut(op.op, parallelism)) continue;
      if (parallelism == Parallelism::kInFeatures && op.max_n_slices == 0) continue;
      OpPlan other = op;
      lay_out(options, parallelism, other);
      const std::uint64_t bytes = load_of(other, worker).operands();
      if (bytes >= least) continue;
      least = bytes;
      most = held;
      target = &op;
      smaller = std::move(other);
    }
  }
  if (target == nullptr) return false;
  *target = std::move(smaller);
  return true;
}

Status fit_worker_memory(const PlanOptions& options, Plan& plan) {
  plan.resident_bytes.assign(options.workers.size(), 0);
  for (std::size_t w = 0; w < options.workers.size();) {
    if (fit_worker(options, w, plan)) {
      ++w;
    } else if (cut_for_memory(options, static_cast<int>(w), plan)) {
      for (OpPlan& op : plan.ops) {
        if (!std::exchange(op.keeps_operands, true)) count_traffic(options, op);
      }
      w = 0;
    } else {
      return Error{ErrorCode::kOutOfMemory,
                   "a worker's memory does not hold its share of an operator",
                   "worker " + std::to_string(w),
                   std::to_string(plan.resident_bytes[w] >> 20) + " MiB",
                   std::to_string(options.workers[w].memory_limit_bytes >> 20) + " MiB",
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
  const auto vectors = [](int rounds, std::uint64_t columns) {  // ProductChecks
    return static_cast<std::uint64_t>(rounds + 1) * columns * sizeof(float);
  };
  const auto sums = [](int rounds, std::uint64_t rows) {  // ExpectedRows
    return static_cast<std::uint64_t>(rounds + 1) * rows * sizeof(double);
  };
  const auto instances = static_cast<std::uint64_t>(plan.instance_count());
  const std::uint64_t position_keys = kKeyBytes * instances * static_cast<std::uint64_t>(g.p());
  const auto slices = static_cast<std::uint64_t>(plan.n_slices.size());
  const std::uint64_t weight_keys =
      kKeyBytes * static_cast<std::uint64_t>(key_entries(plan)) - position_keys +
      (slices > 0 ? sizeof(std::uint32_t) * static_cast<std::uint64_t>(g.n()) : 0);  // subsets
  std::uint64_t step = weight_keys + position_keys +
                       instances * static_cast<std::uint64_t>(g.p()) * 2 * sizeof(std::uint32_t);
  // The products of n-slices wait for each other.
  std::uint64_t forward = slices * static_cast<std::uint64_t>(g.p() * g.m()) * sizeof(float);
  std::uint64_t backward = 0;
  for (const Tile& tile : plan.tiles) {
    const auto rows = static_cast<std::uint64_t>(plan.p_slices[tile.p_slice].size());
    const auto features = static_cast<std::uint64_t>(plan.m_slices[tile.m_slice].size());
    const auto n = static_cast<std::uint64_t>(plan.in_features_of(tile.m_slice));
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
      const auto n = static_cast<std::uint64_t>(plan.in_features_of(group.m_slice));
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

std::int64_t OpPlan::widest_input() const {
  return n_slices.empty() ? op.geometry.n() : widest(n_slices);
}

std::int64_t OpPlan::longest_gradient() const {
  std::int64_t longest = 1;
  for (const GradientGroup& group : groups) longest = std::max(longest, group_inner(*this, group));
  return longest;
}

namespace {

// What follows from the shares of all operators together.
Result<Plan> complete(Plan plan, const PlanOptions& options) {
  TEMPO_RETURN_IF_ERROR(fit_worker_memory(options, plan));
  plan.bytes_to_workers = plan.bytes_to_workers_once = plan.bytes_from_workers = 0;
  plan.products = 0;
  for (const OpPlan& op : plan.ops) {
    if (!op.offloaded) continue;
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
    op.kept_bytes = bytes.kept;
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
    case Parallelism::kInFeatures:
      return "in-features";
    case Parallelism::kInstances:
      return "instances";
  }
  return "";
}

bool can_be_cut(const LinearOp& op, Parallelism parallelism) {
  switch (parallelism) {
    case Parallelism::kData:
    case Parallelism::kOutFeatures:
      return op.geometry.groups == 1 && !op.of_activations;
    case Parallelism::kInFeatures:
      return op.geometry.is_direct() && !op.of_activations;
    case Parallelism::kInstances:
      return op.of_activations;
  }
  return false;
}

Result<Plan> make_plan(const std::vector<LinearOp>& ops, const PlanOptions& options) {
  Plan plan;
  std::int64_t instances = 0;
  for (const LinearOp& op : ops) {
    OpPlan entry;
    entry.op = op;
    const bool is_countable = !op.of_activations || op.instances <= kMaxInstances - instances;
    if (offloads(options.scheme) && op.geometry.groups == 1 && is_countable &&
        rows_fit_slots(options, op.geometry)) {
      if (op.of_activations) instances += op.instances;
      lay_out_best(options, entry);
    } else {
      estimate_costs(options, entry);
    }
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
  auto whole = complete(std::move(plan), options);
  if (!whole.ok()) return whole;
  for (OpPlan& op : whole->ops) op.max_n_slices = op.n_slices.size();
  return whole;
}

Result<Plan> deal_again(const Plan& plan, const PlanOptions& options) {
  Plan again = plan;
  for (OpPlan& op : again.ops) {
    if (op.offloaded) lay_out(options, op.parallelism, op);
  }
  return complete(std::move(again), options);
}

Status check_parallelism(const Plan& plan, const std::vector<ParallelismRule>& rules) {
  for (const ParallelismRule& rule : rules) {
    const std::optional<Parallelism> wanted = parallelism_of(rule.choice);
    const OpPlan* named = nullptr;
    bool fits_any = !rule.op.empty() || !wanted || plan.offloaded_multiply_adds == 0;
    for (const OpPlan& op : plan.ops) {
      if (!rule.op.empty() && names(rule, op.op)) named = &op;
      fits_any = fits_any || (op.offloaded && can_be_cut(op.op, *wanted));
    }
    const auto refuse = [&](const char* what, std::string got, const char* next) -> Status {
      return Error{ErrorCode::kUsage, what, "parallelism", "", std::move(got), next};
    };
    const std::string choice(wanted ? parallelism_name(*wanted) : "auto");
    if (!fits_any) {
      return refuse("no offloaded operator can be cut so", choice, "choose another, or auto");
    }
    if (rule.op.empty()) continue;
    if (named == nullptr) {
      return refuse("there is no such linear operator", rule.op, "tempo plan lists them");
    }
    if (!named->offloaded) {
      return refuse("the operator is not offloaded", rule.op + " (" + named->reason + ")",
                    "use --offload all, or leave it out");
    }
    if (wanted && !can_be_cut(named->op, *wanted)) {
      return refuse(named->op.of_activations
                        ? "products of activations are dealt out whole"
                        : "only operators without kernel and stride can be cut by in-features",
                    rule.op + "=" + choice, "choose another, or auto");
    }
  }
  return {};
}

}  // namespace tempo
