// File: enclave/nn/op_oracles.h
// The operators once more, in float64 and as plainly as can be, in ONNX's order. For tests.
#pragma once

#include <vector>

#include "enclave/graph/graph.h"

namespace tempo::oracle {

using Values = std::vector<double>;

struct Window2d {
  Shape kernel, stride{1, 1}, pads{0, 0, 0, 0}, dilation{1, 1};
  Shape out;  // height and width, as the test's author worked them out
};

// x: (n, c, h, w); weights: (m, c / groups, kh, kw); bias: m values or none.
Values conv(const Shape& x_shape, const Values& x, std::int64_t m, const Values& weights,
            const Values& bias, const Window2d& window, std::int64_t groups = 1);
Values max_pool(const Shape& x_shape, const Values& x, const Window2d& window);
// A window's sum by the number of its taps inside the image, or inside image and padding.
Values average_pool(const Shape& x_shape, const Values& x, const Window2d& window,
                    bool count_include_pad);
// Over all dimensions but the second, with the batch's statistics.
Values batch_norm(const Shape& x_shape, const Values& x, const Values& scale, const Values& bias,
                  double epsilon);
// The same with given statistics.
Values affine_norm(const Shape& x_shape, const Values& x, const Values& scale, const Values& bias,
                   const Values& mean, const Values& variance, double epsilon);
Values relu(Values x);
// a: (rows, inner), b: (inner, columns), `batches` of them.
Values mat_mul(const Values& a, const Values& b, std::int64_t batches, std::int64_t rows,
               std::int64_t inner, std::int64_t columns);
// x, of shape `from`, broadcast to `to`.
Values expand(const Shape& from, const Values& x, const Shape& to);
// b broadcasts to a's shape.
Values add(const Shape& a_shape, const Values& a, const Shape& b_shape, const Values& b);
// Dimension i of the result is dimension order[i] of x.
Values transpose(const Shape& shape, const Values& x, const Shape& order);
// Sums over the dimensions in `axes`, ascending, times `scale`.
Values reduce(const Shape& shape, const Values& x, const Shape& axes, double scale);
// The same by any fold of the elements that become one.
Values reduce_by(const Shape& shape, const Values& x, const Shape& axes,
                 double (*fold)(const Values& group));
// Each run of `width` by its own mean and variance, then scale and bias (or none) a column.
Values layer_norm(const Values& x, std::int64_t width, const Values& scale, const Values& bias,
                  double epsilon);
// Each of `groups` runs of channels of each image by its own mean and variance, then a scale and a
// bias a channel, or a group.
Values group_norm(const Shape& x_shape, const Values& x, std::int64_t groups, const Values& scale,
                  const Values& bias, double epsilon);
// Over `length` neighbours that are `inner` apart.
Values softmax(const Values& x, std::int64_t outer, std::int64_t length, std::int64_t inner);

}  // namespace tempo::oracle
