// One table of operator cases. Every case runs forward against a float64 oracle and backward, of
// all its inputs and parameters, against central differences of that oracle; in every memory
// layout that the operators may be asked for, with one thread and with several.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "enclave/graph/storage.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/graph_builder.h"
#include "enclave/nn/op_oracles.h"
#include "enclave/offload/local_engine.h"

namespace tempo {
namespace {

using oracle::Values;
using oracle::Window2d;
using Ids = std::vector<TensorId>;
using Ints = std::vector<std::int64_t>;

struct OpCase {
  std::string name;
  std::vector<Shape> activations;
  // Adds the operator; parameters that it makes come after the activations in oracle's arguments.
  std::function<TensorId(GraphBuilder&, const Ids&)> build;
  std::function<Values(const std::vector<Values>&)> oracle;
  int opset = 13;
};

struct Variant {
  int block, threads;
  bool as_images;
};

Attribute ints(Ints values) {
  return {std::move(values)};
}
Attribute number(std::int64_t value) {
  return {value};
}

std::vector<OpCase> conv_cases() {
  struct Conv {
    std::string name;
    Shape x;
    std::int64_t m;
    Window2d window;
    bool bias;
    GraphBuilder::Attributes extra;
    std::int64_t groups = 1;
  };
  const std::vector<Conv> convs = {
      {"3x3", {2, 3, 5, 4}, 4, {.kernel = {3, 3}, .pads = {1, 1, 1, 1}, .out = {5, 4}}, true, {}},
      {"3x3_blocked",
       {2, 8, 3, 3},
       16,
       {.kernel = {3, 3}, .pads = {1, 1, 1, 1}, .out = {3, 3}},
       true,
       {}},
      {"1x1", {2, 8, 3, 3}, 8, {.kernel = {1, 1}, .out = {3, 3}}, false, {}},
      {"strided",
       {2, 5, 7, 6},
       3,
       {.kernel = {3, 2}, .stride = {2, 3}, .pads = {1, 0, 0, 1}, .out = {3, 2}},
       true,
       {}},
      {"dilated",
       {1, 2, 7, 8},
       3,
       {.kernel = {3, 3}, .pads = {2, 1, 2, 1}, .dilation = {2, 3}, .out = {7, 4}},
       false,
       {}},
      {"one_channel", {2, 1, 6, 6}, 8, {.kernel = {3, 3}, .out = {4, 4}}, true, {}},
      {"of_one_position", {3, 8, 1, 1}, 5, {.kernel = {1, 1}, .out = {1, 1}}, true, {}},
      {"same_upper",
       {1, 2, 5, 6},
       2,
       {.kernel = {3, 4}, .stride = {2, 2}, .pads = {1, 1, 1, 1}, .out = {3, 3}},
       false,
       {{"auto_pad", {std::string("SAME_UPPER")}}}},
      {"same_lower",
       {1, 2, 4, 4},
       2,
       {.kernel = {2, 2}, .pads = {1, 1, 0, 0}, .out = {4, 4}},
       false,
       {{"auto_pad", {std::string("SAME_LOWER")}}}},
      {"depthwise",
       {2, 8, 5, 4},
       8,
       {.kernel = {3, 3}, .pads = {1, 1, 1, 1}, .out = {5, 4}},
       true,
       {},
       8},
      {"depthwise_odd_channels_strided",
       {2, 5, 7, 6},
       5,
       {.kernel = {5, 3}, .stride = {2, 1}, .pads = {2, 1, 2, 1}, .out = {4, 6}},
       false,
       {},
       5},
      {"depthwise_dilated",  // oneDNN has its gradients channels last only
       {1, 8, 6, 7},
       8,
       {.kernel = {3, 3}, .pads = {2, 2, 2, 2}, .dilation = {2, 2}, .out = {6, 7}},
       true,
       {},
       8},
      {"depthwise_of_two_a_channel",
       {2, 8, 4, 4},
       16,
       {.kernel = {3, 3}, .pads = {1, 1, 1, 1}, .out = {4, 4}},
       true,
       {},
       8},
      {"two_groups_strided_dilated",
       {2, 6, 9, 8},
       4,
       {.kernel = {3, 2},
        .stride = {2, 2},
        .pads = {2, 0, 1, 1},
        .dilation = {2, 3},
        .out = {4, 3}},
       true,
       {},
       2},
      {"two_groups_1x1", {2, 8, 3, 3}, 16, {.kernel = {1, 1}, .out = {3, 3}}, false, {}, 2},
      {"two_groups_of_one_position",
       {3, 8, 1, 1},
       6,
       {.kernel = {1, 1}, .out = {1, 1}},
       true,
       {},
       2},
      {"groups_of_four_blocked",
       {1, 16, 4, 4},
       16,
       {.kernel = {3, 3}, .pads = {1, 1, 1, 1}, .out = {4, 4}},
       false,
       {},
       4},
  };
  std::vector<OpCase> cases;
  for (const Conv& c : convs) {
    const Window2d w = c.window;
    cases.push_back(
        {"Conv_" + c.name,
         {c.x},
         [c, w](GraphBuilder& b, const Ids& in) {
           Ids inputs = {in[0], b.parameter({c.m, c.x[1] / c.groups, w.kernel[0], w.kernel[1]},
                                            0.5F, 0, Storage::kConvWeights)};
           if (c.bias) inputs.push_back(b.parameter({c.m}, 1));
           GraphBuilder::Attributes attributes = c.extra;
           attributes["strides"] = ints(w.stride);
           attributes["dilations"] = ints(w.dilation);
           if (c.groups != 1) attributes["group"] = number(c.groups);
           if (!attributes.contains("auto_pad")) attributes["pads"] = ints(w.pads);
           return b.node("Conv", inputs, attributes);
         },
         [c, w](const std::vector<Values>& v) {
           return oracle::conv(c.x, v[0], c.m, v[1], c.bias ? v[2] : Values{}, w, c.groups);
         }});
  }
  return cases;
}

std::vector<OpCase> product_cases() {
  return {
      {"Gemm",
       {{3, 7}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("Gemm", {in[0], b.parameter({7, 5}, 1, 0, Storage::kTransposed),
                                b.parameter({1, 5}, 1)});
       },
       [](const std::vector<Values>& v) {
         return oracle::add({3, 5}, oracle::mat_mul(v[0], v[1], 1, 3, 7, 5), {5}, v[2]);
       }},
      {"Gemm_transposed_weights",
       {{2, 4}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("Gemm", {in[0], b.parameter({3, 4}, 1)}, {{"transB", number(1)}});
       },
       [](const std::vector<Values>& v) {
         Values w(12);
         for (std::size_t i = 0; i < 3; ++i) {
           for (std::size_t j = 0; j < 4; ++j) w[j * 3 + i] = v[1][i * 4 + j];
         }
         return oracle::mat_mul(v[0], w, 1, 2, 4, 3);
       }},
      {"MatMul_by_weight",
       {{2, 3, 5}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("MatMul", {in[0], b.parameter({5, 4}, 1, 0, Storage::kTransposed)});
       },
       [](const std::vector<Values>& v) { return oracle::mat_mul(v[0], v[1], 1, 6, 5, 4); }},
      {"MatMul_by_weight_rank_4",  // between Identity nodes, as import writes it
       {{2, 8, 3, 5}},
       [](GraphBuilder& b, const Ids& in) {
         const TensorId x = b.node("Identity", {in[0]});
         const TensorId weights = b.parameter({5, 4}, 1, 0, Storage::kTransposed);
         return b.node("Identity", {b.node("MatMul", {x, weights})});
       },
       [](const std::vector<Values>& v) { return oracle::mat_mul(v[0], v[1], 1, 48, 5, 4); }},
      {"MatMul_by_transposed_weight",
       {{2, 3, 5}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("MatMul", {in[0], b.parameter({4, 5}, 1)}, {{"transB", number(1)}});
       },
       [](const std::vector<Values>& v) {
         return oracle::mat_mul(v[0], oracle::transpose({4, 5}, v[1], {1, 0}), 1, 6, 5, 4);
       }},
      {"MatMul_of_activations",
       {{2, 3, 5}, {2, 5, 4}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("MatMul", {in[0], in[1]});
       },
       [](const std::vector<Values>& v) { return oracle::mat_mul(v[0], v[1], 2, 3, 5, 4); }},
      {"MatMul_rank_4",
       {{2, 8, 3, 5}, {2, 8, 5, 2}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("MatMul", {in[0], in[1]});
       },
       [](const std::vector<Values>& v) { return oracle::mat_mul(v[0], v[1], 16, 3, 5, 2); }},
      {"MatMul_by_broadcast_weight",
       {{2, 3, 2, 5}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("MatMul", {in[0], b.parameter({3, 5, 4}, 1)});
       },
       [](const std::vector<Values>& v) {
         Values twice(v[1]);
         twice.insert(twice.end(), v[1].begin(), v[1].end());
         return oracle::mat_mul(v[0], twice, 6, 2, 5, 4);
       }},
  };
}

OpCase add_case(const std::string& name, const Shape& a, const Shape& b) {
  return {"Add_" + name,
          {a},
          [b](GraphBuilder& g, const Ids& in) { return g.add(in[0], g.parameter(b, 1)); },
          [a, b](const std::vector<Values>& v) { return oracle::add(a, v[0], b, v[1]); }};
}

std::vector<OpCase> add_cases() {
  std::vector<OpCase> cases = {
      add_case("channel_bias", {2, 16, 3, 2}, {16, 1, 1}),
      add_case("channel_bias_rank_4", {2, 16, 3, 2}, {1, 16, 1, 1}),
      add_case("row_bias", {3, 6}, {6}),
      add_case("trailing_bias", {2, 3, 5}, {5}),
      add_case("position_embedding", {2, 3, 5}, {1, 3, 5}),
      add_case("image", {2, 16, 3, 2}, {16, 3, 2}),
      add_case("width_only", {2, 16, 3, 4}, {4}),
      add_case("same_shape_rank_4_parameter", {2, 16, 3, 2}, {2, 16, 3, 2}),
      {"Add_activations",
       {{2, 16, 3, 2}, {2, 16, 3, 2}},
       [](GraphBuilder& b, const Ids& in) { return b.add(in[0], in[1]); },
       [](const std::vector<Values>& v) {
         return oracle::add({2, 16, 3, 2}, v[0], {2, 16, 3, 2}, v[1]);
       }},
      {"Add_broadcast_activation",
       {{2, 16, 1, 1}, {2, 16, 3, 2}},
       [](GraphBuilder& b, const Ids& in) { return b.add(in[0], in[1]); },
       [](const std::vector<Values>& v) {
         return oracle::add({2, 16, 3, 2}, v[1], {2, 16, 1, 1}, v[0]);
       }},
      {"Add_to_itself",
       {{2, 5}},
       [](GraphBuilder& b, const Ids& in) { return b.add(in[0], in[0]); },
       [](const std::vector<Values>& v) {
         return oracle::add({2, 5}, v[0], {2, 5}, v[0]);
       }},
      {"Add_to_itself_Relu",
       {{2, 5}},
       [](GraphBuilder& b, const Ids& in) { return b.relu(b.add(in[0], in[0])); },
       [](const std::vector<Values>& v) {
         return oracle::relu(oracle::add({2, 5}, v[0], {2, 5}, v[0]));
       }},
      {"Add_Relu",
       {{2, 16, 3, 2}, {2, 16, 3, 2}},
       [](GraphBuilder& b, const Ids& in) { return b.relu(b.add(in[0], in[1])); },
       [](const std::vector<Values>& v) {
         return oracle::relu(oracle::add({2, 16, 3, 2}, v[0], {2, 16, 3, 2}, v[1]));
       }},
      {"Add_bias_Relu",
       {{2, 16, 3, 2}},
       [](GraphBuilder& b, const Ids& in) {
         return b.relu(b.add(b.parameter({16, 1, 1}, 1), in[0]));
       },
       [](const std::vector<Values>& v) {
         return oracle::relu(oracle::add({2, 16, 3, 2}, v[0], {16, 1, 1}, v[1]));
       }},
  };
  return cases;
}

OpCase batch_norm_case(const std::string& name, const Shape& x, bool with_relu) {
  return {"BatchNormalization_" + name,
          {x},
          [x, with_relu](GraphBuilder& b, const Ids& in) {
            const TensorId y = b.batch_norm(in[0], x[1]);
            return with_relu ? b.relu(y) : y;
          },
          [x, with_relu](const std::vector<Values>& v) {
            Values y = oracle::batch_norm(x, v[0], v[1], v[2], 1e-5F);
            return with_relu ? oracle::relu(std::move(y)) : y;
          }};
}

OpCase pool_case(const std::string& type, const std::string& name, const Shape& x,
                 const Window2d& w, GraphBuilder::Attributes extra = {}) {
  const bool include_pad = extra.contains("count_include_pad");
  const bool is_max = type == "MaxPool";
  return {type + "_" + name,
          {x},
          [type, w, extra](GraphBuilder& b, const Ids& in) {
            GraphBuilder::Attributes attributes = extra;
            attributes["kernel_shape"] = ints(w.kernel);
            attributes["strides"] = ints(w.stride);
            attributes["dilations"] = ints(w.dilation);
            if (!attributes.contains("auto_pad")) attributes["pads"] = ints(w.pads);
            return b.node(type, in, attributes);
          },
          [x, w, include_pad, is_max](const std::vector<Values>& v) {
            return is_max ? oracle::max_pool(x, v[0], w)
                          : oracle::average_pool(x, v[0], w, include_pad);
          }};
}

std::vector<OpCase> channel_cases() {
  std::vector<OpCase> cases = {
      batch_norm_case("images", {3, 16, 2, 3}, false),
      batch_norm_case("images_Relu", {3, 16, 2, 3}, true),
      batch_norm_case("odd_channels", {2, 5, 3, 3}, false),
      batch_norm_case("rows", {6, 19}, true),
      batch_norm_case("rank_3", {3, 4, 5}, false),
      {"Conv_BatchNormalization_Relu",  // the engine delivers the moments
       {{2, 8, 4, 4}},
       [](GraphBuilder& b, const Ids& in) {
         return b.relu(b.batch_norm(b.conv(in[0], 8, 8, 3, 1, 1, 0.3F), 8));
       },
       [](const std::vector<Values>& v) {
         const Values z = oracle::conv({2, 8, 4, 4}, v[0], 8, v[1], {},
                                       {.kernel = {3, 3}, .pads = {1, 1, 1, 1}, .out = {4, 4}});
         return oracle::relu(oracle::batch_norm({2, 8, 4, 4}, z, v[2], v[3], 1e-5F));
       }},
      {"Conv_depthwise_BatchNormalization",
       {{2, 8, 4, 4}},
       [](GraphBuilder& b, const Ids& in) {
         return b.batch_norm(b.conv(in[0], 8, 8, 3, 1, 1, 0.3F, false, 8), 8);
       },
       [](const std::vector<Values>& v) {
         const Values z = oracle::conv({2, 8, 4, 4}, v[0], 8, v[1], {},
                                       {.kernel = {3, 3}, .pads = {1, 1, 1, 1}, .out = {4, 4}}, 8);
         return oracle::batch_norm({2, 8, 4, 4}, z, v[2], v[3], 1e-5F);
       }},
      {"Relu",
       {{2, 8, 3, 3}},
       [](GraphBuilder& b, const Ids& in) { return b.relu(in[0]); },
       [](const std::vector<Values>& v) { return oracle::relu(v[0]); }},
      {"GlobalAveragePool",
       {{2, 16, 3, 5}},
       [](GraphBuilder& b, const Ids& in) { return b.node("GlobalAveragePool", in); },
       [](const std::vector<Values>& v) {
         return oracle::average_pool({2, 16, 3, 5}, v[0], {.kernel = {3, 5}, .out = {1, 1}}, false);
       }},
      {"Dropout_of_nothing",
       {{2, 6}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("Dropout", {in[0], b.filled({}, 0, TensorKind::kConstant)});
       },
       [](const std::vector<Values>& v) { return v[0]; }},
  };
  for (const char* type : {"MaxPool", "AveragePool"}) {
    const auto add = [&](const std::string& name, const Shape& x, const Window2d& w,
                         GraphBuilder::Attributes extra = {}) {
      cases.push_back(pool_case(type, name, x, w, std::move(extra)));
    };
    add("2x2", {2, 16, 4, 6}, {.kernel = {2, 2}, .stride = {2, 2}, .out = {2, 3}});
    add("overlapping", {2, 8, 5, 5},
        {.kernel = {3, 3}, .stride = {2, 2}, .pads = {1, 1, 1, 1}, .out = {3, 3}});
    add("odd_channels", {1, 3, 5, 4}, {.kernel = {2, 3}, .pads = {1, 0, 0, 2}, .out = {5, 4}});
    add("dilated", {1, 2, 6, 6},
        {.kernel = {2, 2}, .pads = {0, 1, 1, 0}, .dilation = {2, 3}, .out = {5, 4}});
    add("ceil", {1, 8, 6, 6}, {.kernel = {3, 3}, .stride = {2, 2}, .out = {3, 3}},
        {{"ceil_mode", number(1)}});
    // Rounding up would give a window that starts behind the image: there is none.
    add("ceil_without_empty_windows", {1, 2, 5, 5},
        {.kernel = {2, 2}, .stride = {3, 3}, .pads = {1, 1, 1, 1}, .out = {2, 2}},
        {{"ceil_mode", number(1)}});
    add("same_upper", {1, 2, 5, 5},
        {.kernel = {2, 2}, .stride = {2, 2}, .pads = {0, 0, 1, 1}, .out = {3, 3}},
        {{"auto_pad", {std::string("SAME_UPPER")}}});
  }
  cases.push_back(
      pool_case("AveragePool", "count_include_pad", {1, 8, 5, 5},
                {.kernel = {3, 3}, .stride = {2, 2}, .pads = {1, 1, 1, 1}, .out = {3, 3}},
                {{"count_include_pad", number(1)}}));
  cases.push_back(
      pool_case("AveragePool", "count_include_pad_ceil", {1, 2, 6, 6},
                {.kernel = {3, 3}, .stride = {2, 2}, .pads = {1, 1, 0, 0}, .out = {3, 3}},
                {{"count_include_pad", number(1)}, {"ceil_mode", number(1)}}));
  return cases;
}

std::vector<OpCase> order_cases() {
  const auto unchanged = [](const std::vector<Values>& v) { return v[0]; };
  const auto softmax_case = [](const std::string& name, const Shape& x, std::int64_t axis,
                               std::int64_t outer, std::int64_t length, std::int64_t inner,
                               int opset, const std::string& type = "Softmax") {
    return OpCase{type + "_" + name,
                  {x},
                  [=](GraphBuilder& b, const Ids& in) {
                    return b.node(type, in, {{"axis", number(axis)}});
                  },
                  [=](const std::vector<Values>& v) {
                    Values y = oracle::softmax(v[0], outer, length, inner);
                    if (type == "Softmax") return y;
                    for (double& p : y) p = std::log(p);
                    return y;
                  },
                  opset};
  };
  const auto reshape_case = [&](const std::string& name, const Shape& x, const Ints& target) {
    return OpCase{"Reshape_" + name,
                  {x},
                  [target](GraphBuilder& b, const Ids& in) {
                    return b.node("Reshape", {in[0], b.ints(target)});
                  },
                  unchanged};
  };
  return {
      softmax_case("rows", {3, 7}, -1, 3, 7, 1, 13),
      softmax_case("channels", {2, 8, 3, 2}, 1, 2, 8, 6, 13),
      softmax_case("height", {2, 5, 3, 2}, 2, 10, 3, 2, 13),
      softmax_case("flat_from_1", {2, 5, 3, 2}, 1, 2, 30, 1, 11),
      softmax_case("flat_from_2", {2, 5, 3, 2}, 2, 10, 6, 1, 11),
      softmax_case("flat_from_3", {2, 5, 3, 2}, 3, 30, 2, 1, 11),
      softmax_case("rows", {3, 7}, -1, 3, 7, 1, 13, "LogSoftmax"),
      softmax_case("channels", {2, 8, 3, 2}, 1, 2, 8, 6, 13, "LogSoftmax"),
      softmax_case("flat_from_2", {2, 5, 3, 2}, 2, 10, 6, 1, 11, "LogSoftmax"),
      // Its operand lies channels last, and nothing says how its result lies.
      {"Softmax_after_an_image",
       {{2, 8, 3, 2}},
       [](GraphBuilder& b, const Ids& in) {
         const TensorId image = b.node("MaxPool", in, {{"kernel_shape", ints({1, 1})}});
         return b.node("Softmax", {image}, {{"axis", number(3)}});
       },
       [](const std::vector<Values>& v) { return oracle::softmax(v[0], 48, 2, 1); }},
      reshape_case("flattens", {2, 8, 3, 2}, {0, -1}),
      reshape_case("to_images", {2, 24}, {0, 4, 3, 2}),
      reshape_case("between_images", {2, 16, 3, 2}, {0, 8, -1, 4}),
      reshape_case("to_tokens", {2, 8, 3, 2}, {0, 8, 6}),
      {"Flatten_after_images",
       {{2, 8, 3, 2}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("Flatten", in, {{"axis", number(-2)}});
       },
       unchanged},
      {"Identity",
       {{2, 8, 3, 2}},
       [](GraphBuilder& b, const Ids& in) { return b.node("Identity", in); },
       unchanged},
      {"Identity_twice_added",  // two readers of one tensor, neither may overwrite it
       {{2, 8, 3, 2}},
       [](GraphBuilder& b, const Ids& in) {
         const TensorId same = b.node("Identity", in);
         return b.add(b.relu(same), b.node("Identity", {same}));
       },
       [](const std::vector<Values>& v) {
         return oracle::add({2, 8, 3, 2}, oracle::relu(v[0]), {2, 8, 3, 2}, v[0]);
       }},
  };
}

// f of each element, which lies in [low, low + 2).
OpCase pointwise_case(const std::string& type, double low, std::function<double(double)> f,
                      const std::string& name = "", GraphBuilder::Attributes attributes = {},
                      int opset = 20) {
  return {type + name,
          {{2, 8, 3, 3}},
          [=](GraphBuilder& b, const Ids& in) {
            const auto offset = static_cast<float>(low + 1);
            const TensorId x = b.add(in[0], b.filled({}, offset, TensorKind::kConstant));
            return b.node(type, {x}, attributes);
          },
          [=](const std::vector<Values>& v) {
            Values y;
            for (const double x : v[0]) y.push_back(f(x + static_cast<float>(low + 1)));
            return y;
          },
          opset};
}

// f of half of each element: away from -1 and 1, where it has no slope.
OpCase halved_case(const std::string& type, std::function<double(double)> f) {
  return {
      type,
      {{2, 8, 3, 3}},
      [=](GraphBuilder& b, const Ids& in) {
        return b.node(type, {b.node("Mul", {in[0], b.filled({}, 0.5F, TensorKind::kConstant)})});
      },
      [=](const std::vector<Values>& v) {
        Values y;
        for (const double x : v[0]) y.push_back(f(x / 2));
        return y;
      }};
}

std::vector<OpCase> pointwise_cases() {
  const auto shrink = [](double lambda, double bias) {
    return [=](double x) { return x < -lambda ? x + bias : x > lambda ? x - bias : 0; };
  };
  const auto gelu = [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); };
  const auto gelu_by_tanh = [](double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
  };
  const auto hard_swish = [](double x) { return x * std::clamp(x / 6 + 0.5, 0.0, 1.0); };
  const auto leaky = [](double alpha) {
    return [alpha](double x) { return x < 0 ? alpha * x : x; };
  };
  const auto elu = [](double alpha) {
    return [alpha](double x) { return x < 0 ? alpha * std::expm1(x) : x; };
  };
  const auto celu = [](double alpha) {
    return [alpha](double x) { return x < 0 ? alpha * std::expm1(x / alpha) : x; };
  };
  const auto selu = [](double alpha, double gamma) {
    return [=](double x) { return gamma * (x < 0 ? alpha * std::expm1(x) : x); };
  };
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const auto softplus = [](double x) { return std::log(1 + std::exp(x)); };
  const auto mish = [=](double x) { return x * std::tanh(softplus(x)); };
  return {
      pointwise_case("Abs", -1, [](double x) { return std::abs(x); }),
      pointwise_case("Ceil", -1, [](double x) { return std::ceil(x); }),
      pointwise_case("Celu", -1, celu(1)),
      pointwise_case("Celu", -1, celu(2), "_alpha", {{"alpha", {2.0F}}}),
      pointwise_case("Cos", -1, [](double x) { return std::cos(x); }),
      pointwise_case("Clip", -1, [](double x) { return x; }),
      pointwise_case(
          "Clip", -1, [](double x) { return std::clamp(x, -0.5, 0.25); }, "_opset_6",
          {{"min", {-0.5F}}, {"max", {0.25F}}}, 6 + 1),
      {"Clip_by_inputs",
       {{2, 8, 3, 3}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("Clip", {in[0], kNoTensor, b.filled({}, 0.5F, TensorKind::kConstant)});
       },
       [](const std::vector<Values>& v) {
         Values y = v[0];
         for (double& x : y) x = std::min(x, 0.5);
         return y;
       }},
      pointwise_case("Elu", -1, elu(1)),
      pointwise_case("Elu", -1, elu(0.5), "_alpha", {{"alpha", {0.5F}}}),
      pointwise_case("Erf", -1, [](double x) { return std::erf(x); }),
      pointwise_case("Exp", -1, [](double x) { return std::exp(x); }),
      pointwise_case("Floor", -1, [](double x) { return std::floor(x); }),
      pointwise_case("Gelu", -1, gelu),
      pointwise_case("Gelu", -3, gelu, "_negative"),
      pointwise_case("Gelu", -1, gelu_by_tanh, "_by_tanh",
                     {{"approximate", {std::string("tanh")}}}),
      pointwise_case("HardSigmoid", -1, [](double x) { return 0.2F * x + 0.5; }),
      pointwise_case("HardSigmoid", -1, [](double x) { return std::clamp(2 * x, 0.0, 1.0); },
                     "_steep", {{"alpha", {2.0F}}, {"beta", {0.0F}}}),
      pointwise_case("HardSwish", -1, hard_swish),
      pointwise_case("HardSwish", -4, hard_swish, "_low"),
      pointwise_case("HardSwish", 2, hard_swish, "_high"),
      pointwise_case("LeakyRelu", -1, leaky(0.01F)),
      pointwise_case("LeakyRelu", -1, leaky(0.25), "_alpha", {{"alpha", {0.25F}}}),
      pointwise_case("Log", 1, [](double x) { return std::log(x); }),
      pointwise_case("Mish", -1, mish),
      pointwise_case("Mish", -5, mish, "_negative"),
      pointwise_case("Mish", 20, mish, "_large"),
      pointwise_case("Neg", -1, [](double x) { return -x; }),
      pointwise_case("Reciprocal", 1, [](double x) { return 1 / x; }),
      pointwise_case("Round", -1, [](double x) { return std::round(x); }),
      pointwise_case("Selu", -1, selu(1.67326319217681884765625, 1.05070102214813232421875)),
      pointwise_case("Selu", -1, selu(0.5, 2), "_alpha_gamma",
                     {{"alpha", {0.5F}}, {"gamma", {2.0F}}}),
      pointwise_case("Sigmoid", -1, sigmoid),
      pointwise_case("Sign", -1, [](double x) { return x > 0 ? 1.0 : -1.0; }),
      pointwise_case("Sin", -1, [](double x) { return std::sin(x); }),
      pointwise_case("Softplus", -1, softplus),
      pointwise_case(
          "Softplus", 90, [](double x) { return x; }, "_large"),
      pointwise_case("Softsign", -1, [](double x) { return x / (1 + std::abs(x)); }),
      pointwise_case("Sqrt", 1, [](double x) { return std::sqrt(x); }),
      pointwise_case("Swish", -1, [sigmoid](double x) { return x * sigmoid(x); }),
      pointwise_case("Swish", -3, [sigmoid](double x) { return x * sigmoid(1.5 * x); }, "_alpha",
                     {{"alpha", {1.5F}}}),
      pointwise_case("Tanh", -1, [](double x) { return std::tanh(x); }),
      pointwise_case("Acosh", 1.5, [](double x) { return std::acosh(x); }),
      pointwise_case("Asinh", -1, [](double x) { return std::asinh(x); }),
      pointwise_case("Atan", -1, [](double x) { return std::atan(x); }),
      pointwise_case("Cosh", -1, [](double x) { return std::cosh(x); }),
      pointwise_case("Shrink", -1, shrink(0.5, 0)),
      pointwise_case("Shrink", -1, shrink(0.25, 0.125), "_biased",
                     {{"lambd", {0.25F}}, {"bias", {0.125F}}}),
      pointwise_case("Sinh", -1, [](double x) { return std::sinh(x); }),
      pointwise_case("Tan", -1, [](double x) { return std::tan(x); }),
      pointwise_case("ThresholdedRelu", 0, [](double x) { return x > 1 ? x : 0; }),
      pointwise_case("ThresholdedRelu", -1, [](double x) { return x > -0.25 ? x : 0; }, "_alpha",
                     {{"alpha", {-0.25F}}}),
      halved_case("Acos", [](double x) { return std::acos(x); }),
      halved_case("Asin", [](double x) { return std::asin(x); }),
      halved_case("Atanh", [](double x) { return std::atanh(x); }),
  };
}

// f(a, b) of two activations, both shifted into [1, 3) where `positive`.
OpCase binary_case(const std::string& type, const std::string& name, const Shape& a, const Shape& b,
                   std::function<double(double, double)> f, bool positive = false) {
  const double offset = positive ? 2 : 0;
  return {type + name,
          {a, b},
          [=](GraphBuilder& builder, const Ids& in) {
            const auto shifted = [&](TensorId x) {
              return builder.add(
                  x, builder.filled({}, static_cast<float>(offset), TensorKind::kConstant));
            };
            return builder.node(type, {shifted(in[0]), shifted(in[1])});
          },
          [=](const std::vector<Values>& v) {
            Shape shape = a;  // both have its rank
            for (std::size_t d = 0; d < a.size(); ++d) shape[d] = std::max(a[d], b[d]);
            const Values left = oracle::expand(a, v[0], shape);
            const Values right = oracle::expand(b, v[1], shape);
            Values y;
            for (std::size_t i = 0; i < left.size(); ++i) {
              y.push_back(f(left[i] + offset, right[i] + offset));
            }
            return y;
          }};
}

std::vector<OpCase> binary_cases() {
  std::vector<OpCase> cases;
  const std::vector<std::tuple<std::string, Shape, Shape>> shapes = {
      {"", {2, 8, 3, 3}, {2, 8, 3, 3}},
      {"_by_channel", {2, 8, 3, 3}, {2, 8, 1, 1}},
      {"_of_position", {2, 1, 3, 2}, {2, 8, 3, 2}},
      {"_rank_3", {2, 4, 5}, {2, 1, 5}},
  };
  for (const auto& [name, a, b] : shapes) {
    cases.push_back(binary_case(
        "Div", name, a, b, [](double x, double y) { return x / y; }, true));
    OpCase remainder = binary_case(
        "Mod", name, a, b, [](double x, double y) { return std::fmod(x, y); }, true);
    remainder.build = [](GraphBuilder& builder, const Ids& in) {
      const auto shifted = [&](TensorId x) {
        return builder.add(x, builder.filled({}, 2, TensorKind::kConstant));
      };
      return builder.node("Mod", {shifted(in[0]), shifted(in[1])}, {{"fmod", number(1)}});
    };
    cases.push_back(std::move(remainder));
    cases.push_back(
        binary_case("Max", name, a, b, [](double x, double y) { return std::max(x, y); }));
    cases.push_back(
        binary_case("Min", name, a, b, [](double x, double y) { return std::min(x, y); }));
    cases.push_back(binary_case("Mul", name, a, b, [](double x, double y) { return x * y; }));
    cases.push_back(binary_case(
        "Pow", name, a, b, [](double x, double y) { return std::pow(x, y); }, true));
    cases.push_back(binary_case("Sub", name, a, b, [](double x, double y) { return x - y; }));
  }
  cases.push_back({"Mul_by_a_scale",  // a parameter that goes to every row
                   {{3, 4, 5}},
                   [](GraphBuilder& b, const Ids& in) {
                     return b.node("Mul", {in[0], b.parameter({5}, 1)});
                   },
                   [](const std::vector<Values>& v) {
                     Values y = v[0];
                     for (std::size_t i = 0; i < y.size(); ++i) y[i] *= v[1][i % 5];
                     return y;
                   }});
  const std::vector<std::tuple<std::string, Shape, Shape>> slopes = {
      {"by_channel", {2, 8, 3, 2}, {8, 1, 1}},
      {"one_slope", {2, 8, 3, 2}, {1}},
      {"by_element", {2, 8, 3, 2}, {8, 3, 2}},
      {"rows", {3, 7}, {7}},
  };
  for (const auto& [name, x, slope] : slopes) {
    cases.push_back({"PRelu_" + name,
                     {x},
                     [slope = slope](GraphBuilder& b, const Ids& in) {
                       return b.node("PRelu", {in[0], b.parameter(slope, 1)});
                     },
                     [x = x, slope = slope](const std::vector<Values>& v) {
                       const Values factor = oracle::expand(slope, v[1], x);
                       Values y = v[0];
                       for (std::size_t i = 0; i < y.size(); ++i) {
                         if (y[i] < 0) y[i] *= factor[i];
                       }
                       return y;
                     }});
  }
  cases.push_back({"Pow_of_2",
                   {{3, 4}},
                   [](GraphBuilder& b, const Ids& in) {
                     return b.node("Pow", {in[0], b.filled({}, 2, TensorKind::kConstant)});
                   },
                   [](const std::vector<Values>& v) {
                     Values y = v[0];
                     for (double& x : y) x *= x;
                     return y;
                   }});
  return cases;
}

std::vector<OpCase> transpose_cases() {
  std::vector<OpCase> cases;
  const std::vector<std::tuple<std::string, Shape, Ints>> orders = {
      {"rank_3", {2, 5, 3}, {0, 2, 1}},
      {"heads", {2, 5, 4, 3}, {0, 2, 1, 3}},
      {"keys", {2, 5, 4, 3}, {0, 2, 3, 1}},
      {"images", {2, 8, 3, 4}, {0, 3, 1, 2}},
      {"none", {2, 8, 3, 4}, {0, 1, 2, 3}},
      {"batch", {3, 4}, {1, 0}},
      {"rank_5", {2, 3, 2, 4, 2}, {0, 4, 2, 1, 3}},
  };
  for (const auto& [name, x, order] : orders) {
    cases.push_back({"Transpose_" + name,
                     {x},
                     [order = order](GraphBuilder& b, const Ids& in) {
                       return b.node("Transpose", in, {{"perm", ints(order)}});
                     },
                     [x = x, order = order](const std::vector<Values>& v) {
                       return oracle::transpose(x, v[0], order);
                     }});
  }
  return cases;
}

std::vector<OpCase> layer_norm_cases() {
  const auto make = [](const std::string& name, const Shape& x, const Shape& features,
                       bool with_bias) {
    const std::int64_t axis = -static_cast<std::int64_t>(features.size());
    return OpCase{"LayerNormalization_" + name,
                  {x},
                  [=](GraphBuilder& b, const Ids& in) {
                    Ids inputs = {in[0], b.parameter(features, 0.5F, 1)};
                    if (with_bias) inputs.push_back(b.parameter(features, 1));
                    return b.node("LayerNormalization", inputs,
                                  {{"axis", number(axis)}, {"epsilon", {0.01F}}});
                  },
                  [=](const std::vector<Values>& v) {
                    return oracle::layer_norm(v[0], element_count(features), v[1],
                                              with_bias ? v[2] : Values{}, 0.01F);
                  },
                  17};
  };
  return {make("tokens", {2, 5, 7}, {7}, true), make("without_bias", {3, 6}, {6}, false),
          make("two_dimensions", {2, 3, 4}, {3, 4}, true),
          make("images", {2, 8, 3, 4}, {8, 3, 4}, true),
          make("rank_4_last", {2, 8, 3, 4}, {4}, true)};
}

// The result's elements one by one; value(index) of an index into the result, in ONNX's order.
Values elements(const Shape& shape, const std::function<double(const Shape&)>& value) {
  Values out;
  Shape index(shape.size(), 0);
  for (std::int64_t i = 0; i < element_count(shape); ++i) {
    std::int64_t rest = i;
    for (std::size_t d = shape.size(); d-- > 0;) {
      index[d] = rest % shape[d];
      rest /= shape[d];
    }
    out.push_back(value(index));
  }
  return out;
}
double element(const Shape& shape, const Values& values, const Shape& index) {
  std::int64_t at = 0;
  for (std::size_t d = 0; d < shape.size(); ++d) at = at * shape[d] + index[d];
  return values[static_cast<std::size_t>(at)];
}

double total(const Values& values, double (*f)(double)) {
  double sum = 0;
  for (const double x : values) sum += f(x);
  return sum;
}

std::vector<OpCase> reduce_cases() {
  std::vector<OpCase> cases;
  const std::vector<std::tuple<std::string, Shape, Ints, Ints>> axes_of = {
      // name, shape, axes as written, axes ascending
      {"tokens", {2, 5, 3}, {1}, {1}},
      {"features", {2, 5, 3}, {-1}, {2}},
      {"channels", {2, 8, 3, 4}, {1}, {1}},
      {"width_and_channels", {2, 8, 3, 4}, {3, -3}, {1, 3}},
      {"one_row", {2, 8, 3, 4}, {1, 2, 3}, {1, 2, 3}},
  };
  struct Fold {
    std::string type;
    double (*value)(const Values& group);
    double offset = 0;  // added to the elements
  };
  const std::vector<Fold> folds = {
      {"ReduceL1", [](const Values& g) { return total(g, [](double x) { return std::abs(x); }); }},
      {"ReduceL2",
       [](const Values& g) { return std::sqrt(total(g, [](double x) { return x * x; })); }},
      {"ReduceLogSum",
       [](const Values& g) { return std::log(total(g, [](double x) { return x; })); }, 2},
      {"ReduceLogSumExp",
       [](const Values& g) { return std::log(total(g, [](double x) { return std::exp(x); })); }},
      {"ReduceMax", [](const Values& g) { return *std::ranges::max_element(g); }},
      {"ReduceMin", [](const Values& g) { return *std::ranges::min_element(g); }},
      {"ReduceProd",
       [](const Values& g) {
         return std::accumulate(g.begin(), g.end(), 1.0, std::multiplies<>());
       },
       1},
      {"ReduceSumSquare", [](const Values& g) { return total(g, [](double x) { return x * x; }); }},
  };
  for (const Fold& fold : folds) {
    for (const auto& [name, x, axes, ascending] : axes_of) {
      cases.push_back({fold.type + "_" + name,
                       {x},
                       [=, axes = axes](GraphBuilder& b, const Ids& in) {
                         const TensorId offset =
                             b.filled({}, static_cast<float>(fold.offset), TensorKind::kConstant);
                         return b.node(fold.type, {b.add(in[0], offset)},
                                       {{"axes", ints(axes)}, {"keepdims", number(0)}});
                       },
                       [=, x = x, ascending = ascending](const std::vector<Values>& v) {
                         Values shifted = v[0];
                         for (double& value : shifted) value += fold.offset;
                         return oracle::reduce_by(x, shifted, ascending, fold.value);
                       }});
    }
  }
  // Products of one zero and of several, and extremes that two elements have.
  const auto with_equals = [&](const std::string& type, std::int64_t count, float value,
                               double (*fold)(const Values&)) {
    cases.push_back(
        {type + "_of_" + std::to_string(count) + "_equal",
         {{2, 3, 4}},
         [=](GraphBuilder& b, const Ids& in) {
           const TensorId equal = b.filled({2, count, 4}, value, TensorKind::kParameter);
           const TensorId all = b.node("Concat", {in[0], equal}, {{"axis", number(1)}});
           return b.node(type, {all, b.ints({1})}, {{"keepdims", number(0)}});
         },
         [=](const std::vector<Values>& v) {
           const Shape all = {2, 3 + count, 4};
           const Values joined = elements(all, [&](Shape i) {
             if (i[1] < 3) return element({2, 3, 4}, v[0], i);
             i[1] -= 3;
             return element({2, count, 4}, v[1], i);
           });
           return oracle::reduce_by(all, joined, {1}, fold);
         },
         18});
  };
  const auto find = [&](const std::string& type) {
    return std::ranges::find(folds, type, &Fold::type)->value;
  };
  with_equals("ReduceProd", 1, 0, find("ReduceProd"));
  with_equals("ReduceProd", 2, 0, find("ReduceProd"));
  with_equals("ReduceMax", 2, 3, find("ReduceMax"));
  with_equals("ReduceMin", 2, -3, find("ReduceMin"));
  with_equals("ReduceLogSumExp", 3, 1000, [](const Values& g) {  // beyond exp in float64
    return 1000 + std::log(total(g, [](double x) { return std::exp(x - 1000); }));
  });
  cases.push_back({"ReduceSumSquare_of_no_axes",
                   {{2, 3}},
                   [](GraphBuilder& b, const Ids& in) {
                     return b.node("ReduceSumSquare", {in[0], b.ints({})},
                                   {{"noop_with_empty_axes", number(1)}});
                   },
                   [](const std::vector<Values>& v) {
                     Values y = v[0];
                     for (double& x : y) x *= x;
                     return y;
                   },
                   18});
  for (const char* type : {"ReduceMean", "ReduceSum"}) {
    for (const auto& [name, x, axes, ascending] : axes_of) {
      double count = 1;
      for (const std::int64_t axis : ascending) {
        count *= static_cast<double>(x[static_cast<std::size_t>(axis)]);
      }
      const double scale = type == std::string("ReduceMean") ? 1 / count : 1;
      const auto oracle = [x = x, ascending = ascending, scale](const std::vector<Values>& v) {
        return oracle::reduce(x, v[0], ascending, scale);
      };
      for (const std::int64_t keeps : {0, 1}) {
        cases.push_back(
            {type + ("_" + name) + (keeps != 0 ? "_kept" : ""),
             {x},
             [=, axes = axes](GraphBuilder& b, const Ids& in) {
               return b.node(type, in, {{"axes", ints(axes)}, {"keepdims", number(keeps)}});
             },
             oracle});
      }
      cases.push_back({type + ("_" + name) + "_opset_18",
                       {x},
                       [=, axes = axes](GraphBuilder& b, const Ids& in) {
                         return b.node(type, {in[0], b.ints(axes)});
                       },
                       oracle,
                       18});
    }
  }
  return cases;
}

// Operators that only move elements: where element `index` of the result is from.
OpCase move_case(const std::string& name, const Shape& x, const Shape& y,
                 std::function<TensorId(GraphBuilder&, const Ids&)> build,
                 std::function<Shape(Shape)> source, int opset = 13) {
  return {name,
          {x},
          std::move(build),
          [=](const std::vector<Values>& v) {
            return elements(y, [&](const Shape& index) { return element(x, v[0], source(index)); });
          },
          opset};
}

std::vector<OpCase> move_cases() {
  const auto node = [](const std::string& type, const std::vector<Ints>& lists,
                       GraphBuilder::Attributes attributes = {}) {
    return [=](GraphBuilder& b, const Ids& in) {
      Ids inputs = in;
      for (const Ints& list : lists) inputs.push_back(b.ints(list));
      return b.node(type, inputs, attributes);
    };
  };
  return {
      {"Concat_channels",
       {{2, 8, 3, 2}, {2, 16, 3, 2}},
       node("Concat", {}, {{"axis", number(1)}}),
       [](const std::vector<Values>& v) {
         return elements({2, 24, 3, 2}, [&](Shape i) {
           if (i[1] < 8) return element({2, 8, 3, 2}, v[0], i);
           i[1] -= 8;
           return element({2, 16, 3, 2}, v[1], i);
         });
       }},
      {"Concat_a_class_token",  // a parameter, expanded over the batch
       {{2, 3, 5}},
       [](GraphBuilder& b, const Ids& in) {
         const TensorId token = b.parameter({1, 1, 5}, 1);
         const TensorId tokens = b.node("Expand", {token, b.ints({2, 1, 1})});
         return b.node("Concat", {tokens, in[0]}, {{"axis", number(-2)}});
       },
       [](const std::vector<Values>& v) {
         return elements({2, 4, 5}, [&](Shape i) {
           if (i[1] == 0) return v[1][static_cast<std::size_t>(i[2])];
           i[1] -= 1;
           return element({2, 3, 5}, v[0], i);
         });
       }},
      {"Concat_to_itself",
       {{2, 3}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("Concat", {in[0], in[0]}, {{"axis", number(1)}});
       },
       [](const std::vector<Values>& v) {
         return elements({2, 6}, [&](Shape i) { return element({2, 3}, v[0], {i[0], i[1] % 3}); });
       }},
      move_case("Slice_images", {2, 8, 5, 4}, {2, 8, 2, 2},
                node("Slice", {{1, -3}, {5, 3}, {2, 3}, {2, 1}}),
                [](Shape i) {
                  return Shape{i[0], i[1], 1 + 2 * i[2], 1 + i[3]};
                }),
      move_case("Slice_backwards", {2, 5, 3}, {2, 3, 3}, node("Slice", {{-1}, {-100}, {1}, {-2}}),
                [](Shape i) {
                  return Shape{i[0], 4 - 2 * i[1], i[2]};
                }),
      move_case(
          "Slice_of_opset_9", {2, 5, 3}, {2, 2, 2},
          node("Slice", {}, {{"starts", ints({0, 2, 1})}, {"ends", ints({9, 4, 3})}}),
          [](Shape i) {
            return Shape{i[0], 2 + i[1], 1 + i[2]};
          },
          9),
      {"Slice_twice",  // both gradients meet
       {{2, 5}},
       [](GraphBuilder& b, const Ids& in) {
         const auto cut = [&](std::int64_t from, std::int64_t to) {
           return b.node("Slice", {in[0], b.ints({from}), b.ints({to}), b.ints({1})});
         };
         const TensorId left = cut(0, 3), right = cut(2, 5);
         return b.add(left, right);
       },
       [](const std::vector<Values>& v) {
         return elements({2, 3}, [&](Shape i) {
           return element({2, 5}, v[0], i) + element({2, 5}, v[0], {i[0], i[1] + 2});
         });
       }},
      {"Slice_a_parameter",
       {{2, 3}},
       [](GraphBuilder& b, const Ids& in) {
         const TensorId table = b.parameter({7, 3}, 1);
         return b.add(in[0], b.node("Slice", {table, b.ints({4}), b.ints({6}), b.ints({0})}));
       },
       [](const std::vector<Values>& v) {
         return elements({2, 3}, [&](Shape i) {
           return element({2, 3}, v[0], i) + element({7, 3}, v[1], {4 + i[0], i[1]});
         });
       }},
      {"Pad_by_a_number",
       {{2, 8, 3, 2}},
       [](GraphBuilder& b, const Ids& in) {
         return b.node("Pad", {in[0], b.ints({0, 0, 1, -1, 0, 0, 2, 1}),
                               b.filled({}, 0.5F, TensorKind::kConstant)});
       },
       [](const std::vector<Values>& v) {
         return elements({2, 8, 6, 2}, [&](Shape i) {
           const Shape from = {i[0], i[1], i[2] - 1, i[3] + 1};
           const bool inside = from[2] >= 0 && from[2] < 3 && from[3] >= 0 && from[3] < 2;
           return inside ? element({2, 8, 3, 2}, v[0], from) : 0.5;
         });
       }},
      move_case(
          "Gather_one", {2, 5, 3}, {2, 3},
          [](GraphBuilder& b, const Ids& in) {
            return b.node("Gather", {in[0], b.scalar(-2)}, {{"axis", number(1)}});
          },
          [](Shape i) {
            return Shape{i[0], 3, i[1]};
          }),
      move_case("Gather_channels", {2, 8, 3, 2}, {2, 3, 3, 2},
                node("Gather", {{7, 0, 7}}, {{"axis", number(1)}}),
                [](Shape i) {
                  return Shape{i[0], i[1] == 1 ? 0 : 7, i[2], i[3]};
                }),
      {"Gather_embeddings",
       {{2, 3, 4}},
       [](GraphBuilder& b, const Ids& in) {
         const TensorId table = b.parameter({5, 4}, 1);
         return b.add(in[0], b.node("Gather", {table, b.ints({4, 0, 4})}));
       },
       [](const std::vector<Values>& v) {
         return elements({2, 3, 4}, [&](Shape i) {
           return element({2, 3, 4}, v[0], i) + element({5, 4}, v[1], {i[1] == 1 ? 0 : 4, i[2]});
         });
       }},
      move_case("Tile", {2, 8, 1, 3}, {2, 16, 4, 3}, node("Tile", {{1, 2, 4, 1}}),
                [](Shape i) {
                  return Shape{i[0], i[1] % 8, 0, i[3]};
                }),
      move_case(
          "GatherND_of_places", {2, 5, 3}, {3, 3},
          [](GraphBuilder& b, const Ids& in) {
            const TensorId places =
                b.node("Reshape", {b.ints({1, 4, 0, -5, 1, 4}), b.ints({3, 2})});
            return b.node("GatherND", {in[0], places});
          },
          [](Shape i) {
            return i[0] == 1 ? Shape{0, 0, i[1]} : Shape{1, 4, i[1]};
          }),
      {"CumSum",
       {{2, 8, 3, 2}},
       node("CumSum", {{1}}),
       [](const std::vector<Values>& v) {
         return elements({2, 8, 3, 2}, [&](Shape i) {
           double sum = 0;
           for (Shape k = {i[0], 0, i[2], i[3]}; k[1] <= i[1]; ++k[1]) {
             sum += element({2, 8, 3, 2}, v[0], k);
           }
           return sum;
         });
       }},
      {"CumSum_from_the_end_without_itself",
       {{2, 5, 3}},
       node("CumSum", {{-2}}, {{"exclusive", number(1)}, {"reverse", number(1)}}),
       [](const std::vector<Values>& v) {
         return elements({2, 5, 3}, [&](Shape i) {
           double sum = 0;
           for (Shape k = {i[0], i[1] + 1, i[2]}; k[1] < 5; ++k[1]) {
             sum += element({2, 5, 3}, v[0], k);
           }
           return sum;
         });
       }},
      {"GatherElements_of_the_extremes",  // indices from the data, gradients to the data
       {{2, 8, 3, 2}},
       [](GraphBuilder& b, const Ids& in) {
         const TensorId largest = b.node("ArgMax", in, {{"axis", number(1)}});
         const TensorId smallest = b.node("ArgMin", in, {{"axis", number(1)}});
         const TensorId both = b.node("Concat", {smallest, largest}, {{"axis", number(1)}});
         return b.node("GatherElements", {in[0], both}, {{"axis", number(1)}});
       },
       [](const std::vector<Values>& v) {
         return elements({2, 2, 3, 2}, [&](const Shape& i) {
           double extreme = element({2, 8, 3, 2}, v[0], {i[0], 0, i[2], i[3]});
           for (std::int64_t c = 1; c < 8; ++c) {
             const double x = element({2, 8, 3, 2}, v[0], {i[0], c, i[2], i[3]});
             extreme = i[1] == 0 ? std::min(extreme, x) : std::max(extreme, x);
           }
           return extreme;
         });
       }},
      move_case("Unsqueeze", {2, 5}, {2, 1, 5, 1}, node("Unsqueeze", {{1, -1}}),
                [](Shape i) {
                  return Shape{i[0], i[2]};
                }),
      move_case(
          "Unsqueeze_of_opset_11", {2, 5}, {1, 2, 5}, node("Unsqueeze", {}, {{"axes", ints({0})}}),
          [](Shape i) {
            return Shape{i[1], i[2]};
          },
          11),
      move_case("Squeeze", {2, 8, 1, 3}, {2, 8, 3}, node("Squeeze", {{2}}),
                [](Shape i) {
                  return Shape{i[0], i[1], 0, i[2]};
                }),
      move_case("Expand_images", {2, 8, 1, 3}, {2, 8, 4, 3}, node("Expand", {{1, 1, 4, 3}}),
                [](Shape i) {
                  return Shape{i[0], i[1], 0, i[3]};
                }),
      {"Trilu_upper",
       {{2, 3, 4}},
       node("Trilu", {{1}}),
       [](const std::vector<Values>& v) {
         return elements({2, 3, 4}, [&](Shape i) {
           return i[2] >= i[1] + 1 ? element({2, 3, 4}, v[0], i) : 0.0;
         });
       },
       14},
      {"Trilu_lower",
       {{2, 8, 4, 3}},
       node("Trilu", {}, {{"upper", number(0)}}),
       [](const std::vector<Values>& v) {
         return elements({2, 8, 4, 3}, [&](Shape i) {
           return i[3] <= i[2] ? element({2, 8, 4, 3}, v[0], i) : 0.0;
         });
       },
       14},
  };
}

// Where and what makes its condition.
std::vector<OpCase> choice_cases() {
  struct Comparison {
    const char* type;
    bool (*holds)(double, double);
    int opset;
  };
  const std::vector<Comparison> comparisons = {
      {"Greater", [](double a, double b) { return a > b; }, 9},
      {"GreaterOrEqual", [](double a, double b) { return a >= b; }, 12},
      {"Less", [](double a, double b) { return a < b; }, 9},
      {"LessOrEqual", [](double a, double b) { return a <= b; }, 12},
  };
  std::vector<OpCase> cases;
  for (const Comparison& c : comparisons) {
    cases.push_back({std::string("Where_") + c.type,
                     {{2, 8, 3, 2}, {2, 8, 1, 2}},
                     [c](GraphBuilder& b, const Ids& in) {
                       const TensorId flags = b.node(c.type, {in[0], in[1]});
                       return b.node("Where", {flags, in[1], in[0]});
                     },
                     [c](const std::vector<Values>& v) {
                       return elements({2, 8, 3, 2}, [&](Shape i) {
                         const double a = element({2, 8, 3, 2}, v[0], i);
                         const double b = element({2, 8, 1, 2}, v[1], {i[0], i[1], 0, i[3]});
                         return c.holds(a, b) ? b : a;
                       });
                     },
                     c.opset});
  }
  cases.push_back({"Where_of_flags",  // a mask, filled with a constant
                   {{2, 3, 3}},
                   [](GraphBuilder& b, const Ids& in) {
                     const TensorId zero = b.filled({}, 0, TensorKind::kConstant);
                     const TensorId half = b.filled({}, 0.5F, TensorKind::kConstant);
                     const TensorId flags =
                         b.node("Or", {b.node("Not", {b.node("Less", {in[0], half})}),
                                       b.node("And", {b.node("Less", {in[0], half}),
                                                      b.node("Greater", {in[0], zero})})});
                     return b.node("Where", {flags, in[0], half});
                   },
                   [](const std::vector<Values>& v) {
                     Values y = v[0];
                     for (double& x : y) x = x > 0 ? x : 0.5;
                     return y;
                   }});
  cases.push_back({"Cast_of_flags",
                   {{2, 8, 3, 2}},
                   [](GraphBuilder& b, const Ids& in) {
                     const TensorId zero = b.filled({}, 0, TensorKind::kConstant);
                     const TensorId flags = b.node("Greater", {in[0], zero});
                     return b.node("Mul", {in[0], b.node("Cast", {flags}, {{"to", number(1)}})});
                   },
                   [](const std::vector<Values>& v) { return oracle::relu(v[0]); }});
  return cases;
}

std::vector<OpCase> group_norm_cases() {
  const auto make = [](const std::string& type, const std::string& name, const Shape& x,
                       std::int64_t groups, int opset, bool with_relu = false) {
    const Shape parameters = {type == "GroupNormalization" && opset < 21 ? groups : x[1]};
    return OpCase{
        type + "_" + name,
        {x},
        [=](GraphBuilder& b, const Ids& in) {
          GraphBuilder::Attributes attributes = {{"epsilon", {0.01F}}};
          if (type == "GroupNormalization") attributes["num_groups"] = number(groups);
          const TensorId scale = b.parameter(parameters, 0.5F, 1);
          const TensorId y = b.node(type, {in[0], scale, b.parameter(parameters, 1)}, attributes);
          return with_relu ? b.relu(y) : y;
        },
        [=](const std::vector<Values>& v) {
          Values y = oracle::group_norm(x, v[0], groups, v[1], v[2], 0.01F);
          return with_relu ? oracle::relu(std::move(y)) : y;
        },
        opset};
  };
  std::vector<OpCase> cases;
  for (const int opset : {18, 21}) {
    const std::string since = "_opset_" + std::to_string(opset);
    const auto add = [&](const std::string& name, const Shape& x, std::int64_t groups,
                         bool with_relu = false) {
      cases.push_back(make("GroupNormalization", name + since, x, groups, opset, with_relu));
    };
    add("one_group", {2, 16, 3, 2}, 1);
    add("within_blocks", {2, 16, 3, 2}, 4);
    add("within_blocks_Relu", {2, 16, 3, 2}, 4, true);
    add("odd_channels", {3, 6, 3, 3}, 2);
    add("rank_3", {2, 6, 5}, 3);
    add("rank_3_in_pieces", {2, 6, 24}, 3);
    add("images_in_pieces", {2, 8, 4, 8}, 2, true);
    add("rank_5", {2, 4, 2, 3, 2}, 2, true);
    add("rows", {3, 12}, 3);
  }
  cases.push_back(make("InstanceNormalization", "images", {2, 16, 3, 4}, 16, 13));
  cases.push_back(make("InstanceNormalization", "images_Relu", {1, 8, 3, 4}, 8, 13, true));
  cases.push_back(make("InstanceNormalization", "rank_3", {2, 4, 9}, 4, 13));
  return cases;
}

std::vector<OpCase> all_cases() {
  std::vector<OpCase> cases;
  for (auto make : {conv_cases, product_cases, add_cases, channel_cases, order_cases,
                    pointwise_cases, binary_cases, transpose_cases, reduce_cases, layer_norm_cases,
                    group_norm_cases, move_cases, choice_cases}) {
    for (OpCase& c : make()) cases.push_back(std::move(c));
  }
  return cases;
}

// --- Integers ---

struct Pair {
  std::int64_t a, b;
};
constexpr std::int64_t kLowest = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kHighest = std::numeric_limits<std::int64_t>::max();

// The operator's results for pairs of integers.
Ints combine(const std::string& type, const std::vector<Pair>& pairs,
             GraphBuilder::Attributes attributes = {}) {
  GraphBuilder b(13);
  const auto count = static_cast<std::int64_t>(pairs.size());
  const TensorId both = b.input({2, count}, DataType::kInt64);
  const auto operand = [&](std::int64_t row) {
    return b.node("Gather", {both, b.scalar(row)}, {{"axis", number(1)}});
  };
  Graph graph = b.finish(b.node(type, {operand(0), operand(1)}, attributes));
  ThreadPool pool(1);
  TimeLedger ledger;
  LocalEngine engine(pool, ledger);
  auto executor = Executor::create(graph, {.mode = StepMode::kInference}, engine, pool, ledger);
  if (!executor.ok()) throw std::runtime_error(executor.error().one_line());
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    (*executor)->input_ints(0)[i] = pairs[i].a;
    (*executor)->input_ints(0)[pairs.size() + i] = pairs[i].b;
  }
  const Status status = (*executor)->forward(0);
  if (!status.ok()) {
    EXPECT_EQ(status.error().code, ErrorCode::kBadData);
    return {};
  }
  return {(*executor)->output_ints(0).begin(), (*executor)->output_ints(0).end()};
}

__extension__ using Wide = __int128;

TEST(IntegerOps, AreExactModuloTheWordAndNeverTrap) {
  std::vector<Pair> pairs;
  const Ints values = {kLowest, kLowest + 1, -7, -2, -1, 1, 2, 3, 7, kHighest};
  for (const std::int64_t a : values) {
    for (const std::int64_t b : values) pairs.push_back({a, b});
    pairs.push_back({0, a});
  }
  const auto word = [](Wide x) { return static_cast<std::int64_t>(x); };
  const Ints sums = combine("Add", pairs), differences = combine("Sub", pairs),
             products = combine("Mul", pairs), quotients = combine("Div", pairs),
             rests = combine("Mod", pairs), c_rests = combine("Mod", pairs, {{"fmod", number(1)}}),
             most = combine("Max", pairs), least = combine("Min", pairs),
             powers = combine("Pow", pairs);
  ASSERT_EQ(powers.size(), pairs.size());
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const Wide a = pairs[i].a, b = pairs[i].b;
    SCOPED_TRACE(std::to_string(pairs[i].a) + ", " + std::to_string(pairs[i].b));
    EXPECT_EQ(sums[i], word(a + b));
    EXPECT_EQ(differences[i], word(a - b));
    EXPECT_EQ(products[i], word(a * b));
    EXPECT_EQ(quotients[i], word(a / b));
    EXPECT_EQ(c_rests[i], word(a % b));
    EXPECT_EQ(rests[i], word(((a % b) + b) % b)) << "has the sign of b";
    EXPECT_EQ(most[i], word(std::max(a, b)));
    EXPECT_EQ(least[i], word(std::min(a, b)));
    if (b < 0 || b > 7) continue;
    std::uint64_t power = 1;
    for (Wide k = 0; k < b; ++k) power *= static_cast<std::uint64_t>(pairs[i].a);
    EXPECT_EQ(powers[i], static_cast<std::int64_t>(power));
  }
}

TEST(IntegerOps, RefuseToDivideByZero) {
  EXPECT_TRUE(combine("Div", {{1, 1}, {1, 0}}).empty());
  EXPECT_TRUE(combine("Mod", {{0, 0}, {1, 1}}).empty());
}

TEST(IntegerOps, PowersTowardsZero) {
  EXPECT_EQ(combine("Pow", {{2, -1}, {-1, kLowest}, {-1, -3}, {1, kLowest}, {0, 0}, {3, kHighest}})
                .size(),
            6U);
  EXPECT_EQ(combine("Pow", {{2, -1}, {-1, -3}, {-1, -4}, {1, -9}}), (Ints{0, -1, 1, 1}));
}

class OpCases : public testing::TestWithParam<OpCase> {};

// The case's graph: an input of zeros, to which a parameter is added for every activation, so that
// gradients of activations are gradients of parameters.
struct CaseGraph {
  Graph graph;
  Ids parameters;
  std::int64_t batch;

  // `as_images`: operands and result of rank 4 go through a pooling of one position, which takes
  // and gives images; otherwise only the operator says in which order they lie.
  CaseGraph(const OpCase& op_case, bool as_images) : batch(op_case.activations[0][0]) {
    GraphBuilder b(op_case.opset);
    const auto image = [&](TensorId x) {
      return b.node("MaxPool", {x}, {{"kernel_shape", ints({1, 1})}});
    };
    const TensorId input = b.input({1});
    Ids activations;
    for (const Shape& shape : op_case.activations) {
      Ints ones(shape.size(), 1);
      ones[0] = 0;
      const TensorId zeros = b.node("Reshape", {input, b.ints(ones)});
      // Identity takes any layout, so that what follows is free to be blocked.
      TensorId x = b.node("Identity", {b.add(zeros, b.parameter(shape, 1))});
      if (as_images && shape.size() == 4) x = image(x);
      activations.push_back(x);
    }
    TensorId result = op_case.build(b, activations);
    if (as_images && b.rank(result, batch) == 4) result = image(result);
    graph = b.finish(b.node("Flatten", {result}));
    for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
      if (graph.tensors[id].kind == TensorKind::kParameter) {
        parameters.push_back(static_cast<TensorId>(id));
      }
    }
  }

  Values in_onnx_order(TensorId id, std::span<const float> stored) const {
    const Tensor& tensor = graph.tensors[static_cast<std::size_t>(id)];
    std::vector<float> values(stored.size());
    from_storage(stored, tensor.declared, tensor.storage, values);
    return {values.begin(), values.end()};
  }
};

double largest(const Values& values) {
  double most = 0;
  for (const double v : values) most = std::max(most, std::abs(v));
  return most;
}

// float32 sums of up to some hundred products of numbers around 1: errors of a few units in the
// last place of the largest partial sum.
constexpr double kTolerance = 64 * static_cast<double>(std::numeric_limits<float>::epsilon());

TEST_P(OpCases, AgreeWithTheOracleForwardAndBackward) {
  const OpCase& op_case = GetParam();
  for (const auto& [block, threads, as_images] :
       {Variant{0, 1, false}, {0, 2, true}, {8, 1, true}}) {
    SCOPED_TRACE("channel block " + std::to_string(block) + (as_images ? ", images" : ""));
    CaseGraph c(op_case, as_images);
    ThreadPool pool(threads);
    TimeLedger ledger;
    LocalEngine engine(pool, ledger);
    auto executor =
        Executor::create(c.graph, {.batch = c.batch, .channel_block = block}, engine, pool, ledger);
    ASSERT_TRUE(executor.ok()) << executor.error().one_line();
    std::vector<Values> arguments;
    for (const TensorId id : c.parameters) {
      arguments.push_back(
          c.in_onnx_order(id, c.graph.tensors[static_cast<std::size_t>(id)].floats));
    }
    const Values want = op_case.oracle(arguments);
    Values weights(want.size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
      weights[i] = static_cast<double>(hashed_value(99, static_cast<std::uint32_t>(i)));
    }
    // Twice: the second step must not see what the first one left.
    for (const std::uint64_t step : {0, 1}) {
      std::ranges::fill((*executor)->input(), 0.0F);
      ASSERT_TRUE((*executor)->forward(step).ok());
      const auto got = (*executor)->output();
      ASSERT_EQ(got.size(), want.size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(got[i], want[i], kTolerance * std::max(1.0, largest(want))) << i;
      }
      std::ranges::copy(weights, (*executor)->d_output().begin());
      ASSERT_TRUE((*executor)->backward().ok());
    }
    for (std::size_t k = 0; k < arguments.size(); ++k) {
      const Values gradient =
          c.in_onnx_order(c.parameters[k], (*executor)->gradient(c.parameters[k]));
      Values differences(gradient.size());
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        constexpr double kStep = 1e-5;  // float64: truncation and rounding are both near 1e-10
        const double x = arguments[k][i];
        double difference = 0;
        for (const double sign : {1.0, -1.0}) {
          arguments[k][i] = x + sign * kStep;
          const Values moved = op_case.oracle(arguments);
          for (std::size_t j = 0; j < moved.size(); ++j) {
            difference += sign * weights[j] * moved[j];
          }
        }
        arguments[k][i] = x;
        differences[i] = difference / (2 * kStep);
      }
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        ASSERT_NEAR(gradient[i], differences[i], kTolerance * std::max(1.0, largest(differences)))
            << "parameter " << k << ", element " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Table, OpCases, testing::ValuesIn(all_cases()),
                         [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace tempo
