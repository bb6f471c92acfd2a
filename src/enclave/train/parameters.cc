#include "enclave/train/parameters.h"

#include <algorithm>
#include <cmath>

namespace tempo {
namespace {

constexpr std::size_t kElementsPerPiece = 16384;  // 64 KiB a stream: an update's four fit in L2

}  // namespace

Parameters::Parameters(Graph& graph, ThreadPool& pool) : graph_(&graph), pool_(&pool) {
  for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
    if (graph.tensors[i].kind != TensorKind::kParameter) continue;
    const std::size_t size = graph.tensors[i].floats.size();
    first_pieces_.push_back(pieces_.size());
    for (std::size_t begin = 0; begin < size; begin += kElementsPerPiece) {
      pieces_.push_back({ids_.size(), begin, std::min(kElementsPerPiece, size - begin)});
    }
    ids_.push_back(static_cast<TensorId>(i));
  }
  first_pieces_.push_back(pieces_.size());
}

std::size_t Parameters::index_of(TensorId id) const {
  const auto found = std::lower_bound(ids_.begin(), ids_.end(), id);
  TEMPO_ASSERT(found != ids_.end() && *found == id);
  return static_cast<std::size_t>(found - ids_.begin());
}

std::span<float> Parameters::weights(std::size_t k) const {
  return graph_->tensors[static_cast<std::size_t>(ids_[k])].floats;
}

Gradients Parameters::gradients(
    const std::function<std::span<const float>(TensorId)>& gradient_of) const {
  Gradients gradients;
  for (std::size_t k = 0; k < ids_.size(); ++k) {
    gradients.push_back(gradient_of(ids_[k]));
    TEMPO_ASSERT(gradients.back().empty() || gradients.back().size() == weights(k).size());
  }
  return gradients;
}

void Parameters::for_pieces(std::size_t begin, std::size_t end, const PieceWork& work) const {
  pool_->parallel_for(static_cast<std::int64_t>(end - begin), 1,
                      [&](std::int64_t first, std::int64_t last) {
                        for (std::int64_t i = first; i < last; ++i) {
                          const std::size_t number = begin + static_cast<std::size_t>(i);
                          work(pieces_[number], number);
                        }
                      });
}

double global_norm(const Parameters& parameters, const Gradients& gradients) {
  TEMPO_ASSERT(gradients.size() == parameters.size());
  std::vector<double> sums(parameters.piece_count(), 0.0);
  parameters.for_each_piece([&](const Parameters::Piece& piece, std::size_t number) {
    for (const float g : piece.of(gradients[piece.parameter])) {
      sums[number] += static_cast<double>(g) * static_cast<double>(g);
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

Result<double> clip_factor(double norm, double max_norm) {
  if (!std::isfinite(norm)) {
    return Error{ErrorCode::kDiverged,
                 "the gradient is not a number",
                 "",
                 "a finite norm",
                 std::isnan(norm) ? "NaN" : "infinity",
                 "lower the learning rate, or add warm-up"};
  }
  constexpr double kPyTorchsEpsilon = 1e-6;
  return std::min(1.0, max_norm / (norm + kPyTorchsEpsilon));
}

GradientSum::GradientSum(const Parameters& parameters) : parameters_(&parameters) {
  for (std::size_t k = 0; k < parameters.size(); ++k) {
    sums_.emplace_back(parameters.weights(k).size());
  }
}

void GradientSum::add(const Gradients& gradients) {
  TEMPO_ASSERT(gradients.size() == sums_.size());
  parameters_->for_each_piece([&](const Parameters::Piece& piece, std::size_t /*number*/) {
    const auto from = piece.of(gradients[piece.parameter]);
    const auto to = piece.of(sums_[piece.parameter].span());
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = is_empty_ ? from[i] : to[i] + from[i];
  });
  is_empty_ = false;
}

Gradients GradientSum::gradients() const {
  Gradients gradients;
  for (const auto& sum : sums_) gradients.push_back(sum.span());
  return gradients;
}

}  // namespace tempo
