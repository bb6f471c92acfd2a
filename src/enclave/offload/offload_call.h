// File: enclave/offload/offload_call.h
// One forward or backward of one operator on its way through the offload engine: which units of
// work are open, who was asked for them, and where the slices of the operator lie in memory.
// Thread safety: plain data.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "enclave/offload/linear.h"
#include "enclave/offload/plan.h"
#include "enclave/offload/tile_passes.h"
#include "enclave/schemes/scheme.h"

namespace tempo {

inline constexpr std::uint64_t kNotResident = 0;

using SharedChecks = std::shared_ptr<const ProductChecks>;

// One offloaded operator from its forward, or the moment its weights are sent ahead, to its
// backward.
struct OperatorStep {
  std::vector<OperatorKeys> keys;                     // by instance
  std::vector<TileRows> rows;                         // by p-slice
  std::vector<std::vector<std::uint64_t>> weight_id;  // [m-slice][worker]
  std::vector<std::vector<std::uint64_t>> input_id;   // [p-slice][worker]
  std::vector<int> group_of_tile;                     // -1: no weight gradient is wanted
  std::vector<SharedChecks> gradient_checks;          // by group: of dW
  std::vector<InputProjections> projections;          // by tile
  std::vector<bool> gradient_checks_used;             // by group: a verdict was given with them
};

// A worker that was asked for a unit, and what its answer will be judged with: nothing of it serves
// a second attempt.
struct Attempt {
  std::uint32_t generation = 0;
  int worker = 0;
  std::chrono::steady_clock::time_point deadline;
  bool shares_vectors = false;         // forward: with other tiles of its m-slice
  SharedChecks checks;                 // of Z forward, of dW backward
  SharedChecks input_checks;           // of dX
  std::vector<ExpectedRows> expected;  // by tile of the unit: of Z forward, of dX backward
  ExpectedRows weight_expected;        // of dW
};

// A tile forward, a gradient group backward. Whichever attempt passes its check first counts.
struct Unit {
  bool is_done = false;
  int issues = 0;                 // attempts so far
  std::vector<Attempt> attempts;  // that may still be answered

  bool is_open() const { return !is_done && attempts.empty(); }
  Attempt* find(std::uint32_t generation) {
    const auto found = std::find_if(attempts.begin(), attempts.end(), [&](const Attempt& attempt) {
      return attempt.generation == generation;
    });
    return found == attempts.end() ? nullptr : &*found;
  }
  bool is_asked(int worker) const {
    return std::any_of(attempts.begin(), attempts.end(),
                       [&](const Attempt& attempt) { return attempt.worker == worker; });
  }
};

// What a task's answer is: of a put, nothing but that it was done.
enum class NoteKind : std::uint8_t { kPut, kOutput, kInputGradient, kWeightGradient };

// What a call needs that outlives its step: copies of all that it reads.
struct CarriedCall {
  OpPlan plan;
  std::unique_ptr<OperatorStep> step;
  std::vector<std::uint32_t> epochs;  // of the workers that may be asked already
  AlignedBuffer<float> input;
  std::vector<AlignedBuffer<float>> d_outputs;  // by part
};

struct OffloadCall {
  struct TaskNote {
    NoteKind kind;
    int unit, tile;
    std::uint32_t generation;
  };

  std::uint64_t number = 0;
  bool is_backward = false;
  const OpPlan* plan = nullptr;
  OperatorStep* step = nullptr;
  ThreadPool* pool = nullptr;
  CheckDistribution distribution = CheckDistribution::kUniform;
  const float* input = nullptr;
  std::vector<Unit> units;
  std::vector<TaskNote> notes;  // of its tasks, by the low half of their tags
  // forward
  std::vector<ForwardPart> outputs;
  bool wants_moments = false;
  std::vector<bool> vectors_retired;           // by m-slice: tiles no longer have the same ones
  std::vector<SharedChecks> vectors;           // by m-slice: those that its tiles share
  std::vector<ColumnMoments> moments;          // by tile
  std::vector<AlignedBuffer<float>> partials;  // by n-slice: its product, p x m
  // backward
  std::vector<BackwardPart> gradients;
  float* d_input = nullptr;
  std::vector<std::vector<std::uint8_t>> weight_applied;  // by group
  std::vector<bool> weight_done;                          // by group
  std::vector<std::vector<std::uint8_t>> input_applied;   // by tile
  std::vector<bool> input_done;                           // by tile
  std::unique_ptr<CarriedCall> carried;                   // null in the call's own step

  int planned_worker(int unit) const {
    return is_backward ? plan->groups[unit].worker : plan->tiles[unit].worker;
  }
  bool is_complete() const {
    return std::all_of(units.begin(), units.end(), [](const Unit& u) { return u.is_done; });
  }
  bool has_open_unit() const {
    return std::any_of(units.begin(), units.end(), [](const Unit& u) { return u.is_open(); });
  }
  // Whether the next operator can go on: only weight gradients may be missing.
  bool is_passable() const {
    return is_backward ? std::find(input_done.begin(), input_done.end(), false) == input_done.end()
                       : is_complete();
  }
  void close_if_done(int unit) {
    const std::vector<int>& tiles = plan->groups[unit].tiles;
    units[unit].is_done = weight_done[unit] && std::all_of(tiles.begin(), tiles.end(),
                                                           [&](int t) { return input_done[t]; });
    if (units[unit].is_done) units[unit].attempts.clear();
  }

  // ---- the instance that a slice of out-features belongs to ------------------------------------

  TileContext context(int m_slice) const {
    const OperatorKeys& keys = step->keys[plan->instance_of(m_slice)];
    return {&plan->op.geometry, &keys.n, &keys.p, pool, distribution};
  }
  const AxisKey& m_key(int m_slice) const {
    const std::size_t slice = static_cast<std::size_t>(m_slice) % plan->m_slices_each();
    return step->keys[plan->instance_of(m_slice)].m[slice];
  }
  const float* input_of(int m_slice) const { return input + input_offset(m_slice); }
  float* d_input_of(int m_slice) const { return d_input + input_offset(m_slice); }
  std::int64_t input_offset(int m_slice) const {
    return instance_in_memory(m_slice) * plan->op.geometry.input_elements();
  }
  // N-slices are of the same tensors.
  std::int64_t instance_in_memory(int m_slice) const {
    return plan->n_slices.empty() ? static_cast<std::int64_t>(plan->instance_of(m_slice)) : 0;
  }

  // ---- where the out-features of a slice lie ---------------------------------------------------

  // Calls visit(part, its first out-feature in the slice, how many, out-features of the part).
  template <class Visit>
  void for_each_part(const Slice& slice, Visit visit) const {
    const std::vector<LinearPart>& parts = plan->op.parts;
    const std::size_t count = std::max<std::size_t>(parts.size(), 1);
    std::int64_t first = 0;  // of the part, among the operator's
    for (std::size_t k = 0; k < count; ++k) {
      const std::int64_t features = parts.empty() ? plan->op.geometry.m() : parts[k].features;
      const std::int64_t begin = std::max(slice.begin, first);
      const std::int64_t end = std::min(slice.end, first + features);
      if (begin < end) visit(k, begin - first, end - begin, features);
      first += features;
    }
  }
  // By out-feature of the slice: rows of n of a matrix of each part.
  template <class T, class MatrixOf>
  std::vector<T*> rows_of(int m_slice, MatrixOf matrix_of) const {
    const ConvGeometry& g = plan->op.geometry;
    const std::int64_t instance = instance_in_memory(m_slice);
    std::vector<T*> rows;
    for_each_part(plan->m_slices[m_slice], [&](std::size_t k, std::int64_t first,
                                               std::int64_t count, std::int64_t /*features*/) {
      T* const matrix = matrix_of(k) + instance * g.m() * g.n();
      for (std::int64_t a = first; a < first + count; ++a) rows.push_back(matrix + a * g.n());
    });
    return rows;
  }
  WeightRows weights(int m_slice) const {
    return rows_of<const float>(m_slice, [&](std::size_t k) {
      return is_backward ? gradients[k].weights : outputs[k].weights;
    });
  }
  std::vector<float*> d_weights(int m_slice) const {
    return rows_of<float>(m_slice, [&](std::size_t k) { return gradients[k].d_weights; });
  }
  // Where the slice's product goes: the operator's outputs, or its n-slice's part of the sum.
  std::vector<OutputColumns> output(int m_slice) {
    const Slice& slice = plan->m_slices[m_slice];
    if (!partials.empty()) {
      float* const data = partials[plan->instance_of(m_slice)].data() + slice.begin;
      return {{data, nullptr, static_cast<std::size_t>(slice.size()),
               static_cast<std::size_t>(plan->op.geometry.m())}};
    }
    return columns_of_outputs(slice, output_offset(m_slice));
  }
  // Of its product; those of a sum are taken of the sum.
  ColumnMoments* moments_of(int tile) {
    return wants_moments && partials.empty() ? &moments[tile] : nullptr;
  }
  std::vector<OutputColumns> columns_of_outputs(const Slice& slice, std::int64_t offset) const {
    std::vector<OutputColumns> columns;
    for_each_part(
        slice, [&](std::size_t k, std::int64_t first, std::int64_t count, std::int64_t features) {
          const ForwardPart& part = outputs[k];
          columns.push_back({part.output + offset + first,
                             part.bias != nullptr ? part.bias + first : nullptr,
                             static_cast<std::size_t>(count), static_cast<std::size_t>(features)});
        });
    return columns;
  }
  std::vector<Columns> d_output(int m_slice) const {
    std::vector<Columns> columns;
    for_each_part(plan->m_slices[m_slice], [&](std::size_t k, std::int64_t first,
                                               std::int64_t count, std::int64_t features) {
      columns.push_back({gradients[k].d_output + output_offset(m_slice) + first,
                         static_cast<std::size_t>(count), static_cast<std::size_t>(features)});
    });
    return columns;
  }
  std::int64_t output_offset(int m_slice) const {
    return instance_in_memory(m_slice) * plan->op.geometry.p() * plan->op.geometry.m();
  }
};

}  // namespace tempo
