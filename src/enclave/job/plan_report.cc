#include "enclave/job/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace tempo {
namespace {

double mib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0);
}

std::string lowering(const LinearOp& op) {
  const ConvGeometry& g = op.geometry;
  if (op.of_activations) return fmt::format("product x{}", op.instances);
  if (g.is_fully_connected()) return "dense";
  if (g.is_direct()) return "1x1";
  return fmt::format("{} {}x{}{}", g.groups > 1 ? "grouped" : "im2col", g.kernel_h, g.kernel_w,
                     g.stride_h > 1 ? fmt::format("/{}", g.stride_h) : "");
}

std::string parallelism(const OpPlan& op) {
  return op.offloaded ? std::string(parallelism_name(op.parallelism)) : "-";
}

std::string rounds(const OpPlan& op) {
  if (!op.offloaded) return "-";
  return fmt::format("{}/{}/{}", op.rounds_forward, op.rounds_weight_gradient,
                     op.rounds_input_gradient);
}

// "q (512), k (512), v (512)"
std::string parts(const LinearOp& op) {
  std::string text;
  for (const LinearPart& part : op.parts) {
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", part.name, part.features);
  }
  return text;
}

nlohmann::json parts_json(const LinearOp& op) {
  nlohmann::json list = nlohmann::json::array();
  for (const LinearPart& part : op.parts)
    list.push_back({{"name", part.name}, {"m", part.features}});
  return list;
}

// "8 Gelu, 16 LayerNormalization"
std::string counts(const FusedCounts& fused) {
  std::string text;
  for (const auto& [op_type, count] : fused) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, op_type);
  }
  return text;
}

// An operator that cannot be offloaded has no such cost.
std::string offloaded_ms(const OpPlan& op) {
  return op.tiles.empty() ? "-" : fmt::format("{:.2f}", op.offloaded_cost_ms);
}

// "forward 3, weight gradient 3 to 4, input gradient 3"
std::string rounds_text(const Plan& plan) {
  std::string text;
  for (const auto& [name, rounds] : {std::pair{"forward", &OpPlan::rounds_forward},
                                     std::pair{"weight gradient", &OpPlan::rounds_weight_gradient},
                                     std::pair{"input gradient", &OpPlan::rounds_input_gradient}}) {
    int least = 0;
    int most = 0;
    for (const OpPlan& op : plan.ops) {
      const int of_op = op.*rounds;
      if (!op.offloaded || of_op == 0) continue;
      least = least == 0 ? of_op : std::min(least, of_op);
      most = std::max(most, of_op);
    }
    if (most == 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, least);
    if (most > least) text += fmt::format(" to {}", most);
  }
  return text;
}

std::string work_text(const std::vector<KindWork>& kinds) {
  if (kinds.empty()) return "";
  std::string out = fmt::format("\n{:<24} {:>5} {:>9} {:>9}\n", "in the enclave besides", "nodes",
                                "Mflop", "MiB");
  for (const KindWork& kind : kinds) {
    out += fmt::format("{:<24.24} {:>5} {:>9.1f} {:>9.1f}\n", kind.type, kind.nodes,
                       kind.forward.flops / 1e6, kind.forward.bytes / (1024.0 * 1024.0));
  }
  return out + "\nMflop, MiB: work and memory traffic forward, a step, each operator on its own.\n";
}

// "1250", "12.5"
std::string mb_s(double bandwidth) {
  const double value = bandwidth / 1e6;
  return value < 100 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value);
}

std::string times_text(const StepTimes& times, const Plan& plan) {
  std::string verdict = "nothing is offloaded";
  if (std::isfinite(times.break_even)) {
    verdict = fmt::format("offloading pays above {} MB/s", mb_s(times.break_even));
  } else if (plan.offloaded_multiply_adds > 0) {
    verdict = "offloading does not pay at any bandwidth";
  }
  return fmt::format(
      "predicted of a batch, at {} MB/s each way: {:.3g} s with this plan, {:.3g} s with scheme "
      "local; {}\n",
      mb_s(times.link), times.offloaded_s, times.local_s, verdict);
}

nlohmann::json times_json(const std::optional<StepTimes>& times) {
  if (!times) return nullptr;
  nlohmann::json break_even;  // null: never
  if (std::isfinite(times->break_even)) break_even = times->break_even;
  return {{"link_bytes_per_s", times->link},
          {"local_s", times->local_s},
          {"offloaded_s", times->offloaded_s},
          {"break_even_bytes_per_s", break_even}};
}

}  // namespace

std::vector<KindWork> non_linear_work(const Graph& graph, const Shapes& shapes) {
  std::vector<KindWork> kinds;
  for (const Node& node : graph.nodes) {
    if (is_linear_node(graph, node)) continue;
    auto kind = std::find_if(kinds.begin(), kinds.end(),
                             [&](const KindWork& k) { return k.type == node.op_type; });
    if (kind == kinds.end()) kind = kinds.insert(kind, {.type = node.op_type});
    const OpWork work = forward_work(graph, node, shapes);
    ++kind->nodes;
    kind->forward.flops += work.flops;
    kind->forward.bytes += work.bytes;
  }
  return kinds;
}

std::string integrity_line(const Plan& plan, const SoundnessGoal& goal) {
  if (plan.products == 0) return "";
  std::string line = fmt::format(
      "t={:g}, e={:g}: a result that is off by {:g} of its rms passes anywhere in the job with a "
      "chance below {:g}; {:.0f} checks planned, {} rounds: {}",
      goal.t, goal.e, goal.e, goal.t, plan.checks_planned,
      check_distribution_name(goal.distribution), rounds_text(plan));
  if (goal.distribution == CheckDistribution::kBinary) {
    line +=
        fmt::format(" (Theorem V.2 asks for {})", theorem_v2_rounds(plan.checks_planned, goal.t));
  }
  return line;
}

std::string plan_text(const PlanSummary& summary) {
  const Plan& plan = *summary.plan;
  std::string out =
      fmt::format("scheme {}: {}\n", scheme_name(summary.scheme), scheme_statement(summary.scheme));
  out += summary.trains
             ? fmt::format(
                   "batch {}, {} steps{}; {} values trained{}\n", summary.batch, summary.steps,
                   summary.accumulate > 1 ? fmt::format(" of {} batches", summary.accumulate) : "",
                   summary.trained,
                   summary.frozen > 0 ? fmt::format(", {} frozen", summary.frozen) : "")
             : fmt::format("predictions, batch {}, {} batches\n", summary.batch, summary.batches);
  out += "m out-features, n in-features, p positions\n\n";
  out += fmt::format(
      "{:<24} {:<13} {:>6} {:>6} {:>8}  {:<8} {:<12} {:>5} {:>9} {:>9} {:>9} {:>8} {:>8}  {}\n",
      "operator", "lowering", "m", "n", "p", "where", "shared by", "tiles", "rounds", "MiB out",
      "MiB in", "off ms", "local ms", "why");
  for (const OpPlan& op : plan.ops) {
    const ConvGeometry& g = op.op.geometry;
    out += fmt::format(
        "{:<24.24} {:<13} {:>6} {:>6} {:>8}  {:<8} {:<12} {:>5} {:>9} {:>9.2f} {:>9.2f} {:>8} "
        "{:>8.2f}  {}\n",
        op.op.name, lowering(op.op), g.m(), g.n(), g.p(), op.offloaded ? "workers" : "enclave",
        parallelism(op), op.offloaded ? op.tiles.size() : 0, rounds(op),
        op.offloaded ? mib(op.bytes_to_workers) : 0.0,
        op.offloaded ? mib(op.bytes_from_workers) : 0.0, offloaded_ms(op), op.local_cost_ms,
        op.reason);
    if (!op.op.parts.empty()) out += fmt::format("  = {}\n", parts(op.op));
  }
  out += fmt::format(
      "\nshared by: what several workers have parts of. rounds: forward/weight gradient/input "
      "gradient. off ms, local ms: estimated core-ms of "
      "the "
      "enclave a batch.\n");
  out += work_text(summary.non_linear);
  out += fmt::format(
      "multiply-adds forward: {:.1f} M an image, {:.1f} % offloaded\n",
      static_cast<double>(plan.multiply_adds) / 1e6 / static_cast<double>(summary.batch),
      100 * plan.offloaded_share());
  out += fmt::format(
      "ring traffic a batch: {:.1f} MiB to workers, {:.1f} MiB back; {} checked products\n",
      mib(plan.bytes_to_workers), mib(plan.bytes_from_workers), plan.products);
  if (plan.bytes_to_workers_once > 0) {
    out += fmt::format("with the first batch, weights that stay there: {:.1f} MiB\n",
                       mib(plan.bytes_to_workers_once));
  }
  if (summary.times) out += times_text(*summary.times, plan);
  for (std::size_t w = 0; w < plan.resident_bytes.size(); ++w) {
    out += fmt::format("worker {} holds at most {:.1f} MiB\n", w, mib(plan.resident_bytes[w]));
  }
  if (plan.products > 0) {
    out += fmt::format("integrity: {}\n", integrity_line(plan, summary.goal));
  }
  const MemoryEstimate& m = summary.memory;
  out += fmt::format(
      "peak enclave memory: {:.0f} MiB (activations {:.0f}, parameters and gradients {:.0f}, state "
      "of {} {:.0f}, keys and checks {:.0f}, scratch {:.0f}, data {:.0f}, model file {:.0f}, "
      "program "
      "{:.0f})\n",
      mib(m.total()), mib(m.activations), mib(m.parameters), optimizer_kind_name(summary.optimizer),
      mib(m.optimizer), mib(m.engine), mib(m.scratch), mib(m.data), mib(m.model_file),
      mib(m.program));
  if (!summary.fused.empty()) out += fmt::format("fused: {}\n", counts(summary.fused));
  for (const std::string& note : summary.notes) out += fmt::format("note: {}\n", note);
  for (const std::string& warning : summary.warnings) out += fmt::format("warning: {}\n", warning);
  return out;
}

std::string plan_json(const PlanSummary& summary) {
  const Plan& plan = *summary.plan;
  nlohmann::json ops = nlohmann::json::array();
  for (const OpPlan& op : plan.ops) {
    const ConvGeometry& g = op.op.geometry;
    ops.push_back({{"name", op.op.name},
                   {"parts", parts_json(op.op)},
                   {"lowering", lowering(op.op)},
                   {"instances", op.op.instances},
                   {"groups", g.groups},
                   {"m", g.m()},
                   {"n", g.n()},
                   {"p", g.p()},
                   {"where", op.offloaded ? "workers" : "enclave"},
                   {"reason", op.reason},
                   {"parallelism", parallelism(op)},
                   {"tiles", op.offloaded ? op.tiles.size() : 0},
                   {"rounds",
                    {{"forward", op.rounds_forward},
                     {"weight_gradient", op.rounds_weight_gradient},
                     {"input_gradient", op.rounds_input_gradient}}},
                   {"bytes_to_workers", op.offloaded ? op.bytes_to_workers : 0},
                   {"bytes_to_workers_once", op.offloaded ? op.bytes_to_workers_once : 0},
                   {"bytes_from_workers", op.offloaded ? op.bytes_from_workers : 0},
                   {"offloaded_cost_ms", op.offloaded_cost_ms},
                   {"local_cost_ms", op.local_cost_ms},
                   {"products", op.offloaded ? op.products : 0}});
  }
  nlohmann::json non_linear = nlohmann::json::array();
  for (const KindWork& kind : summary.non_linear) {
    non_linear.push_back({{"operator", kind.type},
                          {"nodes", kind.nodes},
                          {"flops", kind.forward.flops},
                          {"bytes", kind.forward.bytes}});
  }
  const MemoryEstimate& m = summary.memory;
  const nlohmann::json json = {
      {"scheme", scheme_name(summary.scheme)},
      {"statement", scheme_statement(summary.scheme)},
      {"kind", job_kind_name(summary.trains ? JobKind::kTrain : JobKind::kInfer)},
      {"batch", summary.batch},
      {"accumulate", summary.accumulate},
      {"steps", summary.steps},
      {"batches", summary.batches},
      {"trained_values", summary.trained},
      {"frozen_values", summary.frozen},
      {"optimizer", optimizer_kind_name(summary.optimizer)},
      {"operators", ops},
      {"non_linear", non_linear},
      {"multiply_adds", plan.multiply_adds},
      {"offloaded_multiply_adds", plan.offloaded_multiply_adds},
      {"offloaded_share", plan.offloaded_share()},
      {"bytes_to_workers", plan.bytes_to_workers},
      {"bytes_to_workers_once", plan.bytes_to_workers_once},
      {"bytes_from_workers", plan.bytes_from_workers},
      {"products", plan.products},
      {"predicted", times_json(summary.times)},
      {"worker_resident_bytes", plan.resident_bytes},
      {"soundness",
       {{"t", summary.goal.t},
        {"e", summary.goal.e},
        {"check", check_distribution_name(summary.goal.distribution)},
        {"checks_planned", plan.checks_planned},
        {"theorem_v2_rounds", theorem_v2_rounds(plan.checks_planned, summary.goal.t)}}},
      {"fused", summary.fused},
      {"notes", summary.notes},
      {"warnings", summary.warnings},
      {"peak_enclave_bytes",
       {{"activations", m.activations},
        {"parameters", m.parameters},
        {"optimizer", m.optimizer},
        {"engine", m.engine},
        {"scratch", m.scratch},
        {"data", m.data},
        {"model_file", m.model_file},
        {"program", m.program},
        {"total", m.total()}}}};
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace tempo
