#include "enclave/train/sgd.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace tempo {
namespace {

constexpr std::size_t kElementsPerPiece = 16384;  // 192 KiB of three streams: stays in L2

}  // namespace

struct Sgd::Piece {
  std::size_t parameter;  // position in parameters_
  std::size_t begin;
  std::size_t end;
};

void sgd_update(std::span<float> weights, std::span<const float> gradient,
                std::span<float> velocity, double rate, const SgdOptions& options) {
  TEMPO_ASSERT(gradient.size() == weights.size());
  const auto decay = static_cast<float>(options.weight_decay);
  const auto momentum = static_cast<float>(options.momentum);
  const auto step = static_cast<float>(rate);
  float* __restrict w = weights.data();
  const float* __restrict g = gradient.data();
  if (velocity.empty()) {
    for (std::size_t i = 0; i < weights.size(); ++i) w[i] -= step * (g[i] + decay * w[i]);
    return;
  }
  TEMPO_ASSERT(velocity.size() == weights.size());
  float* __restrict v = velocity.data();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float moved = momentum * v[i] + (g[i] + decay * w[i]);
    v[i] = moved;
    w[i] -= step * moved;
  }
}

Result<Sgd> Sgd::create(Graph& graph, const SgdOptions& options, ThreadPool& pool) {
  const auto bad = [](const char* where, double got) {
    return Error{ErrorCode::kUsage,
                 "the optimiser's setting makes no sense",
                 where,
                 "a finite number, 0 or more",
                 std::to_string(got),
                 "correct this value"};
  };
  if (!(options.momentum >= 0 && std::isfinite(options.momentum))) {
    return bad("momentum", options.momentum);
  }
  if (!(options.weight_decay >= 0 && std::isfinite(options.weight_decay))) {
    return bad("weight decay", options.weight_decay);
  }
  return Sgd(graph, options, pool);
}

Sgd::Sgd(Graph& graph, const SgdOptions& options, ThreadPool& pool)
    : graph_(&graph), options_(options), pool_(&pool) {
  for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
    if (graph.tensors[i].kind != TensorKind::kParameter) continue;
    parameters_.push_back(static_cast<TensorId>(i));
    velocity_.emplace_back(options.momentum == 0 ? 0 : graph.tensors[i].floats.size());
  }
}

void Sgd::step(double rate, const std::function<std::span<const float>(TensorId)>& gradient_of) {
  std::vector<std::span<const float>> gradients;
  std::vector<Piece> pieces;
  for (std::size_t k = 0; k < parameters_.size(); ++k) {
    const auto& weights = graph_->tensors[static_cast<std::size_t>(parameters_[k])].floats;
    gradients.push_back(gradient_of(parameters_[k]));
    TEMPO_ASSERT(gradients.back().size() == weights.size());
    for (std::size_t begin = 0; begin < weights.size(); begin += kElementsPerPiece) {
      pieces.push_back({k, begin, std::min(weights.size(), begin + kElementsPerPiece)});
    }
  }
  pool_->parallel_for(
      static_cast<std::int64_t>(pieces.size()), 1, [&](std::int64_t first, std::int64_t last) {
        for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
          const Piece& piece = pieces[i];
          auto& weights = graph_->tensors[static_cast<std::size_t>(parameters_[piece.parameter])];
          auto& velocity = velocity_[piece.parameter];
          const std::size_t size = piece.end - piece.begin;
          sgd_update(
              std::span(weights.floats).subspan(piece.begin, size),
              gradients[piece.parameter].subspan(piece.begin, size),
              velocity.empty() ? std::span<float>() : velocity.span().subspan(piece.begin, size),
              rate, options_);
        }
      });
}

std::uint64_t Sgd::state_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& velocity : velocity_) bytes += velocity.size() * sizeof(float);
  return bytes;
}

}  // namespace tempo
