#include <algorithm>
#include <cmath>

#include "enclave/nn/column_moments.h"
#include "enclave/nn/feature_view.h"
#include "enclave/nn/kernels.h"
#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

std::string unsupported(const Graph& graph, const Node& node) {
  const Tensor* input = input_tensor(graph, node, 0);
  if (input == nullptr || is_fixed(*input)) return "its input must be an activation";
  for (std::size_t i = 1; i < 5; ++i) {
    if (!has_fixed_floats(graph, node, i)) {
      return "scale, bias, mean and variance must be initializers";
    }
  }
  if (node.int_or("spatial", 1) != 1) return "only spatial = 1";
  const float epsilon = node.float_or("epsilon", 1e-5F);
  const float momentum = node.float_or("momentum", 0.9F);
  if (!(epsilon >= 0) || !std::isfinite(epsilon)) return "epsilon must not be negative";
  if (!(momentum >= 0 && momentum <= 1)) return "momentum must be from 0 to 1";
  return "";
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 5));
  const Shape& in = context.inputs[0];
  if (in.size() < 2) {
    return shape_error(context.node, "BatchNormalization needs channels", "rank 2 or more",
                       shape_to_string(in));
  }
  const Shape channels = {in[1]};
  for (std::size_t i = 1; i < 5; ++i) {
    if (context.inputs[i] == channels) continue;
    return shape_error(context.node, "BatchNormalization's parameters do not fit its input",
                       shape_to_string(channels), shape_to_string(context.inputs[i]));
  }
  return std::vector<Shape>{in, channels, channels, channels, channels};
}

// The running statistics hold in training too when the file has frozen them.
bool uses_batch_statistics(const OpContext& context) {
  return context.mode == StepMode::kTraining &&
         input_tensor(context.graph, context.node, 3)->kind == TensorKind::kStatistic &&
         input_tensor(context.graph, context.node, 4)->kind == TensorKind::kStatistic;
}

// What backward needs: a mean and an inverse deviation a channel.
struct Saved {
  float* mean;
  float* inverse_deviation;
};

std::int64_t saved_bytes(const Node& node, const Shapes& shapes) {
  const Shape& in = shapes[static_cast<std::size_t>(node.inputs[0])];
  return 2 * in[1] * static_cast<std::int64_t>(sizeof(float));
}

Saved saved_of(const OpContext& context, std::int64_t channels) {
  auto* floats = reinterpret_cast<float*>(context.saved);
  return {floats, floats + channels};
}

// PyTorch's convention: the running variance is the unbiased one. One value has none, and says
// nothing about the population: PyTorch refuses such a batch, here it only leaves no trace.
void update_running(const OpContext& context, const ColumnMoments& moments) {
  float* mean = context.out[1];
  float* variance = context.out[2];
  if (mean == nullptr || variance == nullptr || moments.count < 2) return;
  const auto keep = static_cast<double>(context.node.float_or("momentum", 0.9F));
  const auto degrees = static_cast<double>(moments.count - 1);
  for (std::size_t c = 0; c < moments.mean.size(); ++c) {
    mean[c] =
        static_cast<float>(keep * static_cast<double>(mean[c]) + (1 - keep) * moments.mean[c]);
    variance[c] = static_cast<float>(keep * static_cast<double>(variance[c]) +
                                     (1 - keep) * moments.m2[c] / degrees);
  }
}

void forward(OpContext& context) {
  const FeatureView view = feature_view(context.in_shape(0), context.in_block(0));
  const std::int64_t channels = view.channels();
  const auto epsilon = static_cast<double>(context.node.float_or("epsilon", 1e-5F));
  std::vector<float> own(context.saved == nullptr ? static_cast<std::size_t>(2 * channels) : 0);
  const Saved saved = context.saved == nullptr ? Saved{own.data(), own.data() + channels}
                                               : saved_of(context, channels);
  if (uses_batch_statistics(context)) {
    ColumnMoments computed;
    if (context.moments == nullptr) computed = column_moments(context.pool, view, context.in[0]);
    const ColumnMoments& moments = context.moments == nullptr ? computed : *context.moments;
    TEMPO_ASSERT(moments.count == view.rows() &&
                 static_cast<std::int64_t>(moments.mean.size()) == channels);
    for (std::size_t c = 0; c < moments.mean.size(); ++c) {
      const double variance = moments.m2[c] / static_cast<double>(moments.count);
      saved.mean[c] = static_cast<float>(moments.mean[c]);
      saved.inverse_deviation[c] = static_cast<float>(1 / std::sqrt(variance + epsilon));
    }
    update_running(context, moments);
  } else {
    for (std::int64_t c = 0; c < channels; ++c) {
      saved.mean[c] = context.in[3][c];
      saved.inverse_deviation[c] =
          static_cast<float>(1 / std::sqrt(static_cast<double>(context.in[4][c]) + epsilon));
    }
  }
  std::vector<float> scale(static_cast<std::size_t>(channels));
  for (std::size_t c = 0; c < scale.size(); ++c) {
    scale[c] = context.in[1][c] * saved.inverse_deviation[c];
  }
  for_row_runs(context.pool, view, [&](const RowRun& run) {
    const kernels::Normalization norm{saved.mean + run.channel, scale.data() + run.channel,
                                      context.in[2] + run.channel, context.fused_relu};
    kernels::normalize(norm, context.in[0] + run.offset, run.rows, run.width,
                       context.out[0] + run.offset);
  });
}

// With v = (x - mean) * inverse_deviation over R rows (batch statistics):
//   d_bias = sum dz, d_scale = sum dz * v,
//   dx = scale * inverse_deviation * (dz - d_bias / R - v * d_scale / R).
// With frozen statistics the last two terms are absent.
void backward(OpContext& context) {
  const FeatureView view = feature_view(context.in_shape(0), context.in_block(0));
  const std::int64_t channels = view.channels();
  const Saved saved = saved_of(context, channels);
  std::vector<float> scale(static_cast<std::size_t>(channels));
  for (std::size_t c = 0; c < scale.size(); ++c) {
    scale[c] = context.in[1][c] * saved.inverse_deviation[c];
  }
  const auto norm_of = [&](const RowRun& run) {
    return kernels::Normalization{saved.mean + run.channel, scale.data() + run.channel,
                                  context.in[2] + run.channel, context.fused_relu};
  };
  std::vector<double> sums = reduce_rows(context.pool, view, 2, [&](const RowRun& run, double* to) {
    kernels::normalize_sums(norm_of(run), context.in[0] + run.offset, context.d_out[0] + run.offset,
                            run.rows, run.width, to, to + run.width);
  });
  std::vector<double> d_bias(sums.begin(), sums.begin() + channels);
  std::vector<double> d_scale(sums.begin() + channels, sums.end());
  for (std::size_t c = 0; c < d_scale.size(); ++c) {
    d_scale[c] *= static_cast<double>(saved.inverse_deviation[c]);
  }
  if (context.d_in[0] != nullptr) {
    std::vector<float> slope(scale.size(), 0.0F), offset(scale.size(), 0.0F);
    if (uses_batch_statistics(context)) {
      const auto rows = static_cast<double>(view.rows());
      for (std::size_t c = 0; c < scale.size(); ++c) {
        const auto factor = static_cast<double>(scale[c]);
        slope[c] = static_cast<float>(-factor * static_cast<double>(saved.inverse_deviation[c]) *
                                      d_scale[c] / rows);
        offset[c] = static_cast<float>(-factor * d_bias[c] / rows);
      }
    }
    for_row_runs(context.pool, view, [&](const RowRun& run) {
      kernels::normalize_backward(norm_of(run), context.in[0] + run.offset,
                                  context.d_out[0] + run.offset, slope.data() + run.channel,
                                  offset.data() + run.channel, run.rows, run.width,
                                  context.d_in[0] + run.offset, context.accumulate[0]);
    });
  }
  if (context.d_in[1] != nullptr) store_sums(d_scale, context.d_in[1], context.accumulate[1]);
  if (context.d_in[2] != nullptr) store_sums(d_bias, context.d_in[2], context.accumulate[2]);
}

}  // namespace

OpDef batch_normalization_op() {
  return {.type = "BatchNormalization",
          .min_opset = 6,
          .notes = "training uses the batch's statistics, inference the running ones",
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward,
          .backward = backward,
          .needs = {.inputs = true},
          .blocking = Blocking::kSame,
          .in_place_inputs = 1,
          .relu_fusion = ReluFusion::kRecomputes,
          .saved_bytes = saved_bytes,
          .flops_an_element = 7};
}

}  // namespace tempo
