// File: enclave/train/parameters.h
// The trained parameters of a graph, and arithmetic over all of them at once: what an optimiser,
// clipping and accumulation share. Results have the same bits with any number of threads.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/graph/graph.h"

namespace tempo {

// One a parameter, in the order of Parameters, with as many values.
using Gradients = std::vector<std::span<const float>>;

// All tensors of TensorKind::kParameter. The graph and the pool must outlive it. One thread.
class Parameters {
 public:
  Parameters(Graph& graph, ThreadPool& pool);

  std::size_t size() const { return ids_.size(); }
  std::span<float> weights(std::size_t k) const;
  // Which one it is. Precondition: a parameter of the graph.
  std::size_t index_of(TensorId id) const;
  // What gradient_of gives for each parameter; may be empty.
  Gradients gradients(const std::function<std::span<const float>(TensorId)>& gradient_of) const;

  // A part of one parameter, small enough for a core's cache.
  struct Piece {
    std::size_t parameter = 0;
    std::size_t begin = 0;
    std::size_t size = 0;
    template <class T>
    std::span<T> of(std::span<T> values) const {
      return values.subspan(begin, size);
    }
  };
  std::size_t piece_count() const { return pieces_.size(); }
  // Pieces of parameter k are those from number first_piece(k) up to first_piece(k + 1).
  std::size_t first_piece(std::size_t k) const { return first_pieces_[k]; }
  // Calls `work` with every piece and its number, in any order, from the threads of the pool.
  using PieceWork = std::function<void(const Piece&, std::size_t number)>;
  void for_each_piece(const PieceWork& work) const { for_pieces(0, piece_count(), work); }
  // The same with those from number begin up to end.
  void for_pieces(std::size_t begin, std::size_t end, const PieceWork& work) const;

 private:
  Graph* graph_;
  ThreadPool* pool_;
  std::vector<TensorId> ids_;
  std::vector<Piece> pieces_;
  std::vector<std::size_t> first_pieces_;  // by parameter, and their number
};

// The Euclidean norm of all gradients together, summed in float64.
double global_norm(const Parameters& parameters, const Gradients& gradients);

// What torch.nn.utils.clip_grad_norm_ multiplies gradients by: max_norm / (norm + 1e-6), at most 1.
// Error kDiverged for a norm that is not finite.
Result<double> clip_factor(double norm, double max_norm);

// Sums of gradients over the batches of a step. Takes as much memory as the parameters.
class GradientSum {
 public:
  // `parameters` must outlive it.
  explicit GradientSum(const Parameters& parameters);
  // The first one after construction or reset() overwrites.
  void add(const Gradients& gradients);
  void reset() { is_empty_ = true; }
  // Valid until the next add().
  Gradients gradients() const;

 private:
  const Parameters* parameters_;
  std::vector<AlignedBuffer<float>> sums_;
  bool is_empty_ = true;
};

}  // namespace tempo
