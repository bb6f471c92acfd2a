#include "enclave/train/optimizer.h"

#include <cmath>
#include <string>

namespace tempo {
namespace {

void sgd_update(const OptimizerSpec& spec, const UpdateStep& step, const UpdateRun& run) {
  const auto decay = static_cast<float>(spec.weight_decay);
  const auto momentum = static_cast<float>(spec.momentum);
  const auto rate = static_cast<float>(step.rate);
  const auto scale = static_cast<float>(step.scale);
  const std::size_t size = run.weights.size();
  float* __restrict w = run.weights.data();
  const float* __restrict g = run.gradient.data();
  if (run.first.empty()) {
    for (std::size_t i = 0; i < size; ++i) w[i] -= rate * (scale * g[i] + decay * w[i]);
    return;
  }
  float* __restrict v = run.first.data();
  for (std::size_t i = 0; i < size; ++i) {
    const float moved = momentum * v[i] + (scale * g[i] + decay * w[i]);
    v[i] = moved;
    w[i] -= rate * moved;
  }
}

void adam_update(const OptimizerSpec& spec, const UpdateStep& step, const UpdateRun& run) {
  const bool is_decoupled = spec.kind == OptimizerKind::kAdamW;
  const auto t = static_cast<double>(step.number);
  const auto keep = static_cast<float>(is_decoupled ? 1 - step.rate * spec.weight_decay : 1);
  const auto decay = static_cast<float>(is_decoupled ? 0 : spec.weight_decay);
  const auto scale = static_cast<float>(step.scale);
  const auto beta1 = static_cast<float>(spec.beta1);
  const auto beta2 = static_cast<float>(spec.beta2);
  const auto rest1 = static_cast<float>(1 - spec.beta1);
  const auto rest2 = static_cast<float>(1 - spec.beta2);
  const auto rate = static_cast<float>(step.rate / (1 - std::pow(spec.beta1, t)));
  const auto inverse_root = static_cast<float>(1 / std::sqrt(1 - std::pow(spec.beta2, t)));
  const auto epsilon = static_cast<float>(spec.epsilon);
  const std::size_t size = run.weights.size();
  float* __restrict w = run.weights.data();
  float* __restrict m = run.first.data();
  float* __restrict v = run.second.data();
  const float* __restrict gradient = run.gradient.data();
  for (std::size_t i = 0; i < size; ++i) {
    const float kept = keep * w[i];
    const float g = scale * gradient[i] + decay * kept;
    m[i] = beta1 * m[i] + rest1 * g;
    v[i] = beta2 * v[i] + rest2 * (g * g);
    w[i] = kept - rate * m[i] / (std::sqrt(v[i]) * inverse_root + epsilon);
  }
}

Status check(const OptimizerSpec& spec) {
  const auto bad = [](const char* where, const char* expected, double got) -> Status {
    return Error{ErrorCode::kUsage,
                 "the optimiser's setting makes no sense",
                 where,
                 expected,
                 std::to_string(got),
                 "correct this value"};
  };
  const auto is_fraction = [](double beta) { return beta >= 0 && beta < 1; };
  if (!(spec.momentum >= 0 && std::isfinite(spec.momentum))) {
    return bad("momentum", "a finite number, 0 or more", spec.momentum);
  }
  if (!(spec.weight_decay >= 0 && std::isfinite(spec.weight_decay))) {
    return bad("weight decay", "a finite number, 0 or more", spec.weight_decay);
  }
  if (!is_fraction(spec.beta1)) return bad("beta1", "0 or more, below 1", spec.beta1);
  if (!is_fraction(spec.beta2)) return bad("beta2", "0 or more, below 1", spec.beta2);
  if (!(spec.epsilon > 0 && std::isfinite(spec.epsilon))) {
    return bad("epsilon", "a finite number above 0", spec.epsilon);
  }
  return {};
}

}  // namespace

int optimizer_state_values(const OptimizerSpec& spec) {
  if (spec.kind != OptimizerKind::kSgd) return 2;
  return spec.momentum == 0 ? 0 : 1;
}

void update(const OptimizerSpec& spec, const UpdateStep& step, const UpdateRun& run) {
  const int states = optimizer_state_values(spec);
  const std::size_t size = run.weights.size();
  TEMPO_ASSERT(run.gradient.size() == size && run.first.size() == (states > 0 ? size : 0) &&
               run.second.size() == (states > 1 ? size : 0));
  spec.kind == OptimizerKind::kSgd ? sgd_update(spec, step, run) : adam_update(spec, step, run);
}

Result<Optimizer> Optimizer::create(const Parameters& parameters, const OptimizerSpec& spec) {
  TEMPO_RETURN_IF_ERROR(check(spec));
  return Optimizer(parameters, spec);
}

Optimizer::Optimizer(const Parameters& parameters, const OptimizerSpec& spec)
    : parameters_(&parameters), spec_(spec), state_(parameters.size()) {
  const auto states = static_cast<std::size_t>(optimizer_state_values(spec));
  for (std::size_t k = 0; k < state_.size(); ++k) {
    for (std::size_t s = 0; s < states; ++s) {
      state_[k][s] = AlignedBuffer<float>(parameters.weights(k).size());
    }
  }
}

void Optimizer::step(double rate, const Gradients& gradients, double scale) {
  TEMPO_ASSERT(gradients.size() == state_.size());
  const UpdateStep step = begin_step(rate, scale);
  parameters_->for_each_piece([&](const Parameters::Piece& piece, std::size_t /*number*/) {
    update_piece(step, piece, gradients[piece.parameter]);
  });
}

void Optimizer::update_piece(const UpdateStep& step, const Parameters::Piece& piece,
                             std::span<const float> gradient) {
  const auto part = [&piece](AlignedBuffer<float>& state) {
    return state.empty() ? std::span<float>() : piece.of(state.span());
  };
  auto& [first, second] = state_[piece.parameter];
  update(spec_, step,
         {piece.of(parameters_->weights(piece.parameter)), piece.of(gradient), part(first),
          part(second)});
}

std::uint64_t Optimizer::state_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [first, second] : state_) {
    bytes += (first.size() + second.size()) * sizeof(float);
  }
  return bytes;
}

}  // namespace tempo
