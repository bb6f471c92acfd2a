#include "enclave/nn/op_oracles.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tempo::oracle {
namespace {

// Calls body(index in x, index of the tap) for the taps of an output that lie inside the image.
template <class Body>
void visit_taps(const Shape& x, const Window2d& w, std::int64_t plane, std::int64_t oy,
                std::int64_t ox, const Body& body) {
  for (std::int64_t ky = 0; ky < w.kernel[0]; ++ky) {
    for (std::int64_t kx = 0; kx < w.kernel[1]; ++kx) {
      const std::int64_t y = oy * w.stride[0] + ky * w.dilation[0] - w.pads[0];
      const std::int64_t col = ox * w.stride[1] + kx * w.dilation[1] - w.pads[1];
      if (y < 0 || col < 0 || y >= x[2] || col >= x[3]) continue;
      body(static_cast<std::size_t>((plane * x[2] + y) * x[3] + col), ky * w.kernel[1] + kx);
    }
  }
}

template <class Body>
void visit_outputs(const Shape& x, const Window2d& w, const Body& body) {
  for (std::int64_t plane = 0; plane < x[0] * x[1]; ++plane) {
    for (std::int64_t oy = 0; oy < w.out[0]; ++oy) {
      for (std::int64_t ox = 0; ox < w.out[1]; ++ox) body(plane, oy, ox);
    }
  }
}

std::int64_t channel_of(const Shape& x, std::size_t index) {
  std::int64_t inner = 1;
  for (std::size_t i = 2; i < x.size(); ++i) inner *= x[i];
  return static_cast<std::int64_t>(index) / inner % x[1];
}

}  // namespace

Values conv(const Shape& x_shape, const Values& x, std::int64_t m, const Values& weights,
            const Values& bias, const Window2d& w, std::int64_t groups) {
  Values out;
  const std::int64_t channels = x_shape[1] / groups, taps = w.kernel[0] * w.kernel[1];
  for (std::int64_t image = 0; image < x_shape[0]; ++image) {
    for (std::int64_t o = 0; o < m; ++o) {
      for (std::int64_t oy = 0; oy < w.out[0]; ++oy) {
        for (std::int64_t ox = 0; ox < w.out[1]; ++ox) {
          double sum = bias.empty() ? 0 : bias[static_cast<std::size_t>(o)];
          const std::int64_t first = image * x_shape[1] + o / (m / groups) * channels;
          for (std::int64_t c = 0; c < channels; ++c) {
            visit_taps(x_shape, w, first + c, oy, ox, [&](std::size_t i, std::int64_t tap) {
              sum += x[i] * weights[static_cast<std::size_t>((o * channels + c) * taps + tap)];
            });
          }
          out.push_back(sum);
        }
      }
    }
  }
  return out;
}

Values max_pool(const Shape& x_shape, const Values& x, const Window2d& w) {
  Values out;
  visit_outputs(x_shape, w, [&](std::int64_t plane, std::int64_t oy, std::int64_t ox) {
    double best = -std::numeric_limits<double>::infinity();
    visit_taps(x_shape, w, plane, oy, ox,
               [&](std::size_t i, std::int64_t) { best = std::max(best, x[i]); });
    out.push_back(best);
  });
  return out;
}

Values average_pool(const Shape& x_shape, const Values& x, const Window2d& w,
                    bool count_include_pad) {
  Values out;
  visit_outputs(x_shape, w, [&](std::int64_t plane, std::int64_t oy, std::int64_t ox) {
    double sum = 0;
    double count = 0;
    visit_taps(x_shape, w, plane, oy, ox, [&](std::size_t i, std::int64_t) {
      sum += x[i];
      ++count;
    });
    if (count_include_pad) {
      const auto inside = [&](std::size_t i, std::int64_t first) {
        return static_cast<double>(std::min(first + w.kernel[i], x_shape[2 + i] + w.pads[2 + i]) -
                                   first);
      };
      count = inside(0, oy * w.stride[0] - w.pads[0]) * inside(1, ox * w.stride[1] - w.pads[1]);
    }
    out.push_back(sum / count);
  });
  return out;
}

Values batch_norm(const Shape& x_shape, const Values& x, const Values& scale, const Values& bias,
                  double epsilon) {
  const auto channels = static_cast<std::size_t>(x_shape[1]);
  const double rows = static_cast<double>(x.size()) / static_cast<double>(channels);
  Values mean(channels, 0), variance(channels, 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean[static_cast<std::size_t>(channel_of(x_shape, i))] += x[i] / rows;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto c = static_cast<std::size_t>(channel_of(x_shape, i));
    variance[c] += (x[i] - mean[c]) * (x[i] - mean[c]) / rows;
  }
  return affine_norm(x_shape, x, scale, bias, mean, variance, epsilon);
}

Values affine_norm(const Shape& x_shape, const Values& x, const Values& scale, const Values& bias,
                   const Values& mean, const Values& variance, double epsilon) {
  Values out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto c = static_cast<std::size_t>(channel_of(x_shape, i));
    out[i] = (x[i] - mean[c]) / std::sqrt(variance[c] + epsilon) * scale[c] + bias[c];
  }
  return out;
}

Values relu(Values x) {
  for (double& v : x) v = std::max(v, 0.0);
  return x;
}

Values mat_mul(const Values& a, const Values& b, std::int64_t batches, std::int64_t rows,
               std::int64_t inner, std::int64_t columns) {
  Values out(static_cast<std::size_t>(batches * rows * columns), 0);
  for (std::int64_t i = 0; i < batches * rows; ++i) {
    const std::int64_t batch = i / rows;
    for (std::int64_t j = 0; j < columns; ++j) {
      for (std::int64_t k = 0; k < inner; ++k) {
        out[static_cast<std::size_t>(i * columns + j)] +=
            a[static_cast<std::size_t>(i * inner + k)] *
            b[static_cast<std::size_t>((batch * inner + k) * columns + j)];
      }
    }
  }
  return out;
}

Values expand(const Shape& from, const Values& x, const Shape& to) {
  Values out(static_cast<std::size_t>(element_count(to)));
  for (std::size_t i = 0; i < out.size(); ++i) {
    auto rest = static_cast<std::int64_t>(i);
    std::int64_t at = 0, stride = 1;
    for (std::size_t d = 1; d <= to.size(); ++d) {
      const std::int64_t index = rest % to[to.size() - d];
      rest /= to[to.size() - d];
      if (d > from.size()) continue;
      const std::int64_t dim = from[from.size() - d];
      at += (dim == 1 ? 0 : index) * stride;
      stride *= dim;
    }
    out[i] = x[static_cast<std::size_t>(at)];
  }
  return out;
}

Values add(const Shape& a_shape, const Values& a, const Shape& b_shape, const Values& b) {
  Values out = expand(b_shape, b, a_shape);
  for (std::size_t i = 0; i < a.size(); ++i) out[i] += a[i];
  return out;
}

Values transpose(const Shape& shape, const Values& x, const Shape& order) {
  Shape out_shape;
  for (const std::int64_t dim : order) out_shape.push_back(shape[static_cast<std::size_t>(dim)]);
  Values out(x.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    auto rest = static_cast<std::int64_t>(i);
    Shape index(shape.size());
    for (std::size_t d = out_shape.size(); d-- > 0;) {
      index[static_cast<std::size_t>(order[d])] = rest % out_shape[d];
      rest /= out_shape[d];
    }
    std::int64_t at = 0;
    for (std::size_t d = 0; d < shape.size(); ++d) at = at * shape[d] + index[d];
    out[i] = x[static_cast<std::size_t>(at)];
  }
  return out;
}

Values reduce_by(const Shape& shape, const Values& x, const Shape& axes,
                 double (*fold)(const Values& group)) {
  Shape out_shape = shape;
  for (const std::int64_t axis : axes) out_shape[static_cast<std::size_t>(axis)] = 1;
  std::vector<Values> groups(static_cast<std::size_t>(element_count(out_shape)));
  for (std::size_t i = 0; i < x.size(); ++i) {
    auto rest = static_cast<std::int64_t>(i);
    std::int64_t at = 0, stride = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
      if (out_shape[d] != 1) at += rest % shape[d] * stride;
      rest /= shape[d];
      stride *= out_shape[d];
    }
    groups[static_cast<std::size_t>(at)].push_back(x[i]);
  }
  Values out;
  for (const Values& group : groups) out.push_back(fold(group));
  return out;
}

Values reduce(const Shape& shape, const Values& x, const Shape& axes, double scale) {
  Values out = reduce_by(shape, x, axes, [](const Values& group) {
    double sum = 0;
    for (const double value : group) sum += value;
    return sum;
  });
  for (double& value : out) value *= scale;
  return out;
}

Values layer_norm(const Values& x, std::int64_t width, const Values& scale, const Values& bias,
                  double epsilon) {
  Values out(x.size());
  const auto n = static_cast<std::size_t>(width);
  for (std::size_t row = 0; row < x.size(); row += n) {
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < n; ++i) mean += x[row + i] / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) {
      variance += (x[row + i] - mean) * (x[row + i] - mean) / static_cast<double>(n);
    }
    for (std::size_t i = 0; i < n; ++i) {
      out[row + i] = (x[row + i] - mean) / std::sqrt(variance + epsilon) * scale[i] +
                     (bias.empty() ? 0 : bias[i]);
    }
  }
  return out;
}

Values group_norm(const Shape& x_shape, const Values& x, std::int64_t groups, const Values& scale,
                  const Values& bias, double epsilon) {
  // A group is one run of memory in ONNX's order.
  const std::size_t runs = static_cast<std::size_t>(x_shape[0] * groups);
  const std::size_t n = x.size() / runs;
  const auto channels = static_cast<std::size_t>(x_shape[1]);
  Values out(x.size());
  for (std::size_t run = 0; run < runs; ++run) {
    double mean = 0, variance = 0;
    for (std::size_t i = run * n; i < (run + 1) * n; ++i) mean += x[i] / static_cast<double>(n);
    for (std::size_t i = run * n; i < (run + 1) * n; ++i) {
      variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
    }
    for (std::size_t i = run * n; i < (run + 1) * n; ++i) {
      const auto c = static_cast<std::size_t>(channel_of(x_shape, i));
      const std::size_t k = c * scale.size() / channels;
      out[i] = (x[i] - mean) / std::sqrt(variance + epsilon) * scale[k] + bias[k];
    }
  }
  return out;
}

Values softmax(const Values& x, std::int64_t outer, std::int64_t length, std::int64_t inner) {
  Values out(x.size());
  for (std::int64_t lane = 0; lane < outer * inner; ++lane) {
    const std::int64_t first = lane / inner * length * inner + lane % inner;
    double sum = 0;
    for (std::int64_t i = 0; i < length; ++i) {
      sum += std::exp(x[static_cast<std::size_t>(first + i * inner)]);
    }
    for (std::int64_t i = 0; i < length; ++i) {
      const auto at = static_cast<std::size_t>(first + i * inner);
      out[at] = std::exp(x[at]) / sum;
    }
  }
  return out;
}

}  // namespace tempo::oracle
