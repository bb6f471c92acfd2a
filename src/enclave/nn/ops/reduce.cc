// The Reduce family: many elements become one, over any axes.
#include <algorithm>
#include <cmath>
#include <vector>

#include "enclave/nn/ops/op_defs.h"
#include "enclave/nn/ops/strided.h"
#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

// By dimension of the input: whether it is summed over. Axes are an attribute in older opsets, an
// input in newer ones.
Result<std::vector<bool>> reduced_dims(const Graph& graph, const Node& node, std::size_t rank) {
  std::vector<std::int64_t> axes = node.ints_or("axes", {});
  if (const Tensor* input = input_tensor(graph, node, 1)) axes = input->ints;
  const bool all = axes.empty() && node.int_or("noop_with_empty_axes", 0) == 0;
  std::vector<bool> reduced(rank, all);
  for (const std::int64_t axis : axes) {
    const std::int64_t dim = axis < 0 ? axis + static_cast<std::int64_t>(rank) : axis;
    if (dim < 0 || dim >= static_cast<std::int64_t>(rank)) {
      return shape_error(node, "an axis of " + node.op_type + " is out of range",
                         "below " + std::to_string(rank), std::to_string(axis));
    }
    reduced[static_cast<std::size_t>(dim)] = true;
  }
  return reduced;
}

Result<std::vector<Shape>> infer(const ShapeContext& context) {
  TEMPO_RETURN_IF_ERROR(check_inputs(context, 1));
  const Shape& in = context.inputs[0];
  auto reduced = reduced_dims(context.graph, context.node, in.size());
  if (!reduced) return reduced.error();
  const bool keeps = context.node.int_or("keepdims", 1) != 0;
  Shape out;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!(*reduced)[i]) {
      out.push_back(in[i]);
    } else if (keeps) {
      out.push_back(1);
    }
  }
  return std::vector<Shape>{out};
}

// The input as kept x summed dimensions.
struct Reduction {
  Shape kept, kept_in, kept_out;  // sizes, strides in the input and in the result
  Shape summed, summed_in;
  std::int64_t count = 1;  // elements of one sum

  explicit Reduction(const OpContext& context) {
    const Shape& in = context.in_shape(0);
    const Shape in_strides = activation_strides(in, context.in_block(0));
    const Shape out_strides = activation_strides(context.out_shape(0), context.out_block(0));
    const std::vector<bool> reduced = *reduced_dims(context.graph, context.node, in.size());
    const bool keeps = context.node.int_or("keepdims", 1) != 0;
    std::size_t out_dim = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (reduced[i]) {
        summed.push_back(in[i]);
        summed_in.push_back(in_strides[i]);
        count *= in[i];
        out_dim += keeps ? 1 : 0;
      } else {
        kept.push_back(in[i]);
        kept_in.push_back(in_strides[i]);
        kept_out.push_back(out_strides[out_dim++]);
      }
    }
  }
};

// --- Sums, which have kernels of their own ---

bool is_mean(const OpContext& context) {
  return context.node.op_type == "ReduceMean";
}

void sum_forward(OpContext& context) {
  const Reduction r(context);
  const double scale = is_mean(context) ? 1.0 / static_cast<double>(r.count) : 1.0;
  sum_parts(context.pool, r.kept, context.in[0], r.kept_in, r.summed, r.summed_in, context.out[0],
            r.kept_out, false, scale);
}

void sum_backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const Reduction r(context);
  Shape dims = r.kept, from = r.kept_out, to = r.kept_in;
  dims.insert(dims.end(), r.summed.begin(), r.summed.end());
  from.resize(dims.size(), 0);  // every element of a sum has its gradient
  to.insert(to.end(), r.summed_in.begin(), r.summed_in.end());
  const float scale = is_mean(context) ? 1.0F / static_cast<float>(r.count) : 1.0F;
  strided_copy(context.pool, dims, context.d_out[0], from, context.d_in[0], to,
               context.accumulate[0], scale);
}

// --- All others ---

// The elements that become one.
class Group {
 public:
  Group(const float* first, const std::vector<std::int64_t>& offsets)
      : first_(first), offsets_(offsets) {}

  // The sum of f(x) over the elements.
  template <class F>
  double sum(const F& f) const {
    double total = 0;
    for (const std::int64_t offset : offsets_) total += f(static_cast<double>(first_[offset]));
    return total;
  }
  // By comparison; NaN when one of them is.
  template <class Better>
  double best(const Better& better) const {
    double found = static_cast<double>(*first_);
    for (const std::int64_t offset : offsets_) {
      const auto x = static_cast<double>(first_[offset]);
      if (better(x, found) || std::isnan(x)) found = x;
      if (std::isnan(found)) break;
    }
    return found;
  }
  double largest() const {
    return best([](double a, double b) { return a > b; });
  }
  double smallest() const {
    return best([](double a, double b) { return a < b; });
  }

 private:
  const float* first_;
  const std::vector<std::int64_t>& offsets_;
};

// A fold has value(group), and, made of a group and that value, slope(x): the derivative of the
// value by an element x of the group.

struct L1Fold {
  static double value(const Group& group) {
    return group.sum([](double x) { return std::abs(x); });
  }
  L1Fold(const Group&, double) {}
  static double slope(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }
};

// At 0, where there is no slope, 0, as in PyTorch.
struct L2Fold {
  static double value(const Group& group) {
    return std::sqrt(group.sum([](double x) { return x * x; }));
  }
  double norm;
  L2Fold(const Group&, double value) : norm(value) {}
  double slope(double x) const { return norm == 0 ? 0 : x / norm; }
};

struct LogSumFold {
  static double value(const Group& group) {
    return std::log(group.sum([](double x) { return x; }));
  }
  double share;
  LogSumFold(const Group& group, double) : share(1 / group.sum([](double x) { return x; })) {}
  double slope(double) const { return share; }
};

// By the largest element, so that no exponential overflows.
struct LogSumExpFold {
  static double value(const Group& group) {
    const double largest = group.largest();
    if (std::isinf(largest)) return largest;
    return largest + std::log(group.sum([=](double x) { return std::exp(x - largest); }));
  }
  double whole;
  LogSumExpFold(const Group&, double value) : whole(value) {}
  double slope(double x) const { return std::isinf(whole) ? 0 : std::exp(x - whole); }
};

// Elements that are equally extreme share the gradient, as in torch.amax.
struct ExtremeFold {
  double extreme, share;
  ExtremeFold(const Group& group, double value)
      : extreme(value), share(1 / group.sum([=](double x) { return x == value ? 1 : 0; })) {}
  double slope(double x) const { return x == extreme ? share : 0; }
};
struct MaxFold : ExtremeFold {
  using ExtremeFold::ExtremeFold;
  static double value(const Group& group) { return group.largest(); }
};
struct MinFold : ExtremeFold {
  using ExtremeFold::ExtremeFold;
  static double value(const Group& group) { return group.smallest(); }
};

// The slope is the product of the other elements.
struct ProdFold {
  static double value(const Group& group) { return product(group, false); }
  double others;  // the product of all that are not 0
  double zeros;
  ProdFold(const Group& group, double)
      : others(product(group, true)), zeros(group.sum([](double x) { return x == 0 ? 1 : 0; })) {}
  double slope(double x) const {
    if (zeros > 1 || (zeros == 1 && x != 0)) return 0;
    return x == 0 ? others : others / x;
  }

 private:
  static double product(const Group& group, bool without_zeros) {
    double product = 1;
    group.sum([&](double x) {
      if (x != 0 || !without_zeros) product *= x;
      return 0.0;
    });
    return product;
  }
};

struct SumSquareFold {
  static double value(const Group& group) {
    return group.sum([](double x) { return x * x; });
  }
  SumSquareFold(const Group&, double) {}
  static double slope(double x) { return 2 * x; }
};

// Calls body(offset of the first element, offset in the result, offsets of the others from the
// first) for every group.
template <class Body>
void for_groups(ThreadPool& pool, const Reduction& r, const Body& body) {
  const std::vector<std::int64_t> offsets = offsets_of(r.summed, r.summed_in);
  pool.parallel_for(
      element_count(r.kept), grain_for(r.count), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
          body(offset_of(k, r.kept, r.kept_in), offset_of(k, r.kept, r.kept_out), offsets);
        }
      });
}

template <class Fold>
void forward(OpContext& context) {
  for_groups(context.pool, Reduction(context),
             [&](std::int64_t from, std::int64_t to, const std::vector<std::int64_t>& offsets) {
               context.out[0][to] =
                   static_cast<float>(Fold::value(Group(context.in[0] + from, offsets)));
             });
}

template <class Fold>
void backward(OpContext& context) {
  if (context.d_in[0] == nullptr) return;
  const bool accumulate = context.accumulate[0];
  for_groups(context.pool, Reduction(context),
             [&](std::int64_t from, std::int64_t to, const std::vector<std::int64_t>& offsets) {
               const float* x = context.in[0] + from;
               float* dx = context.d_in[0] + from;
               const Group group(x, offsets);
               const Fold fold(group, Fold::value(group));
               const auto dy = static_cast<double>(context.d_out[0][to]);
               for (const std::int64_t offset : offsets) {
                 const auto share =
                     static_cast<float>(dy * fold.slope(static_cast<double>(x[offset])));
                 dx[offset] = accumulate ? dx[offset] + share : share;
               }
             });
}

std::string unsupported(const Graph& graph, const Node& node) {
  const Tensor* axes = input_tensor(graph, node, 1);
  if (axes != nullptr && (axes->kind != TensorKind::kConstant || axes->type != DataType::kInt64)) {
    return "its axes are not constant";
  }
  return unsupported_storage(graph, node);
}

OpDef sum_op(std::string_view type) {
  return {.type = type,
          .unsupported = unsupported,
          .infer = infer,
          .forward = sum_forward,
          .backward = sum_backward};
}

template <class Fold>
OpDef reduce_op(std::string_view type) {
  return {.type = type,
          .unsupported = unsupported,
          .infer = infer,
          .forward = forward<Fold>,
          .backward = backward<Fold>,
          .needs = {.inputs = true}};
}

}  // namespace

OpDef reduce_l1_op() {
  return reduce_op<L1Fold>("ReduceL1");
}
OpDef reduce_l2_op() {
  return reduce_op<L2Fold>("ReduceL2");
}
OpDef reduce_log_sum_exp_op() {
  return reduce_op<LogSumExpFold>("ReduceLogSumExp");
}
OpDef reduce_log_sum_op() {
  return reduce_op<LogSumFold>("ReduceLogSum");
}
OpDef reduce_max_op() {
  return reduce_op<MaxFold>("ReduceMax");
}
OpDef reduce_mean_op() {
  return sum_op("ReduceMean");
}
OpDef reduce_min_op() {
  return reduce_op<MinFold>("ReduceMin");
}
OpDef reduce_prod_op() {
  return reduce_op<ProdFold>("ReduceProd");
}
OpDef reduce_sum_op() {
  return sum_op("ReduceSum");
}
OpDef reduce_sum_square_op() {
  return reduce_op<SumSquareFold>("ReduceSumSquare");
}

}  // namespace tempo
