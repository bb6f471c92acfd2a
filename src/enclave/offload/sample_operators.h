// File: enclave/offload/sample_operators.h
// Test only: small operators with everything that they read and write in a step, and the step as
// the local engine does it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "enclave/offload/linear.h"
#include "enclave/offload/local_engine.h"

namespace tempo {

inline ConvGeometry conv(int batch, int hw, int in_c, int out_c, int kernel, int stride, int pad) {
  ConvGeometry g;
  g.batch = batch;
  g.in_h = g.in_w = hw;
  g.in_c = in_c;
  g.out_c = out_c;
  g.kernel_h = g.kernel_w = kernel;
  g.stride_h = g.stride_w = stride;
  g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = pad;
  g.out_h = g.out_w = (hw + 2 * pad - kernel) / stride + 1;
  return g;
}

inline ConvGeometry fully_connected(int batch, int in, int out) {
  ConvGeometry g;
  g.batch = batch;
  g.in_c = in;
  g.out_c = out;
  return g;
}

// An operator: one layer, several that share their input, or products of two activations.
struct Layer {
  ConvGeometry geometry;
  std::vector<std::int64_t> parts;  // out-features of each
  std::int64_t instances = 0;       // of products; 0: a layer

  Layer(const ConvGeometry& g) : geometry(g), parts{g.out_c} {}  // NOLINT: a geometry is a layer
  Layer(const ConvGeometry& g, std::vector<std::int64_t> features)
      : geometry(g), parts(std::move(features)) {
    geometry.out_c = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
  }
  std::int64_t copies() const { return std::max<std::int64_t>(instances, 1); }
  static Layer product(std::int64_t instances, int p, int n, int m) {
    Layer layer(fully_connected(p, n, m));
    layer.instances = instances;
    return layer;
  }
};

// Everything that one operator reads and writes in one training step; parts lie one after the
// other.
struct Tensors {
  std::vector<float> input, weights, bias, d_output;
  std::vector<float> output, d_weights, d_input;
  std::vector<ColumnMoments> moments;
  Layer layer;

  explicit Tensors(const Layer& l, unsigned seed = 1) : Tensors(l, l.geometry, seed) {}

  std::vector<ForwardPart> forward_parts() {
    if (layer.instances > 0) return {{weights.data(), nullptr, output.data()}};
    std::vector<ForwardPart> parts;
    std::int64_t first = 0;
    for (std::size_t k = 0; k < layer.parts.size(); ++k) {
      parts.push_back({weights.data() + first * layer.geometry.n(), bias.data() + first,
                       output.data() + first * layer.geometry.p(), &moments[k]});
      first += layer.parts[k];
    }
    return parts;
  }
  std::vector<BackwardPart> backward_parts() {
    std::vector<BackwardPart> parts;
    std::int64_t first = 0;
    for (const std::int64_t features : layer.parts) {
      parts.push_back({weights.data() + first * layer.geometry.n(),
                       d_output.data() + first * layer.geometry.p(),
                       d_weights.data() + first * layer.geometry.n()});
      first += features;
    }
    return parts;
  }

 private:
  Tensors(const Layer& l, const ConvGeometry& g, unsigned seed)
      : input(l.copies() * g.input_elements()),
        weights(l.copies() * g.m() * g.n()),
        bias(g.m()),
        d_output(l.copies() * g.p() * g.m()),
        output(l.copies() * g.p() * g.m()),
        d_weights(l.copies() * g.m() * g.n()),
        d_input(l.copies() * g.input_elements(), 0.25F),
        moments(l.parts.size()),
        layer(l) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    for (auto& x : input) x = std::max(0.0F, normal(rng));  // as after a rectifier
    for (auto& x : weights) x = normal(rng) / std::sqrt(static_cast<float>(g.n()));
    for (auto& x : bias) x = normal(rng);
    for (auto& x : d_output) x = normal(rng) * 1e-3F;
  }
};

inline std::vector<LinearOp> linear_ops(const std::vector<Layer>& layers) {
  std::vector<LinearOp> ops;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    LinearOp op;
    op.index = static_cast<int>(i);
    op.name = "operator" + std::to_string(i);
    op.geometry = layers[i].geometry;
    op.instances = layers[i].copies();
    op.of_activations = layers[i].instances > 0;
    for (std::size_t k = 0; k < layers[i].parts.size() && layers[i].parts.size() > 1; ++k) {
      op.parts.push_back({"part" + std::to_string(k), layers[i].parts[k]});
    }
    ops.push_back(op);
  }
  return ops;
}

// A training step by the local engine, instance by instance.
inline Status local_step(LocalEngine& local, const std::vector<LinearOp>& ops,
                         std::vector<Tensors>& tensors, bool accumulate) {
  TEMPO_RETURN_IF_ERROR(local.begin_step(StepMode::kTraining));
  for (std::size_t i = 0; i < ops.size(); ++i) {
    Tensors& t = tensors[i];
    LinearOp op = ops[i];
    op.of_activations = false;
    const ConvGeometry& g = op.geometry;
    for (std::int64_t k = 0; k < ops[i].instances; ++k) {
      const std::int64_t weights = k * g.m() * g.n();
      const std::int64_t outputs = k * g.p() * g.m();
      std::vector<ForwardPart> forward = t.forward_parts();
      std::vector<BackwardPart> backward = t.backward_parts();
      for (std::size_t part = 0; part < forward.size(); ++part) {
        forward[part].weights += weights;
        forward[part].output += outputs;
        backward[part].weights += weights;
        backward[part].d_output += outputs;
        backward[part].d_weights += weights;
      }
      const float* input = t.input.data() + k * g.input_elements();
      float* d_input = t.d_input.data() + k * g.input_elements();
      TEMPO_RETURN_IF_ERROR(local.forward(op, input, forward));
      TEMPO_RETURN_IF_ERROR(local.backward(op, input, backward, d_input, accumulate, false));
    }
  }
  return local.end_step();
}

inline double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += (double{got[i]} - want[i]) * (double{got[i]} - want[i]);
    norm += double{want[i]} * want[i];
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}

// fp32 products of these lengths differ by a few 1e-7 between summation orders.
inline constexpr double kTolerance = 2e-6;

// As an executor does at the start of a step.
inline void announce_weights(LinearEngine& engine, const std::vector<LinearOp>& ops,
                             std::vector<Tensors>& tensors) {
  for (std::size_t i = 0; i < ops.size(); ++i) {
    if (ops[i].of_activations) continue;
    std::vector<const float*> weights;
    for (const ForwardPart& part : tensors[i].forward_parts()) weights.push_back(part.weights);
    engine.announce(ops[i], weights);
  }
}

}  // namespace tempo
