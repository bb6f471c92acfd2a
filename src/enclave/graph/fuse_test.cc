#include "enclave/graph/fuse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

#include "enclave/graph/test_models.h"
#include "enclave/nn/decomposed.h"
#include "enclave/nn/executor.h"
#include "enclave/offload/local_engine.h"

namespace tempo {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr std::int64_t kWidth = 8;

std::vector<std::string> op_types(const Graph& graph) {
  std::vector<std::string> types;
  for (const Node& node : graph.nodes) types.push_back(node.op_type);
  return types;
}

// x (N, 5, 8) + bias -> chain -> (N, 40): gradients flow through the chain to the bias.
Graph graph_of(const DecomposedForm& form) {
  GraphBuilder b;
  const TensorId x = b.add(b.input({5, kWidth}), b.parameter({kWidth}, 0.5F));
  return b.finish(b.node("Flatten", {form.build(b, x, kWidth)}));
}

struct Outcome {
  std::vector<float> output;
  std::vector<std::vector<float>> gradients;  // of parameters, by TensorId
};

Outcome run(Graph& graph) {
  ThreadPool pool(2);
  TimeLedger ledger;
  LocalEngine engine(pool, ledger);
  auto executor = Executor::create(graph, {.batch = 7}, engine, pool, ledger);
  if (!executor.ok()) throw std::runtime_error(executor.error().one_line());
  const auto input = (*executor)->input();
  for (std::size_t i = 0; i < input.size(); ++i) {
    input[i] = 4 * hashed_value(100, static_cast<std::uint32_t>(i));
  }
  EXPECT_TRUE((*executor)->forward(0).ok());
  Outcome outcome;
  outcome.output.assign((*executor)->output().begin(), (*executor)->output().end());
  const auto d_output = (*executor)->d_output();
  for (std::size_t i = 0; i < d_output.size(); ++i) {
    d_output[i] = hashed_value(101, static_cast<std::uint32_t>(i));
  }
  EXPECT_TRUE((*executor)->backward().ok());
  for (std::size_t id = 0; id < graph.tensors.size(); ++id) {
    if (graph.tensors[id].kind != TensorKind::kParameter) continue;
    const auto gradient = (*executor)->gradient(static_cast<TensorId>(id));
    outcome.gradients.emplace_back(gradient.begin(), gradient.end());
  }
  return outcome;
}

// Up to the rounding of some ten operations on values as large as the largest.
void expect_close(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  float largest = 0;
  for (const float value : want) largest = std::max(largest, std::fabs(value));
  ASSERT_GT(largest, 0);
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 3e-6F * largest) << i;
  }
}

class Fuse : public testing::TestWithParam<DecomposedForm> {};

TEST_P(Fuse, MakesOneNodeThatComputesTheSame) {
  Graph decomposed = graph_of(GetParam());
  Graph fused = graph_of(GetParam());
  EXPECT_THAT(fuse_patterns(&fused), ElementsAre(Pair(GetParam().op_type, 1)));
  EXPECT_THAT(op_types(fused), ElementsAre("Add", GetParam().op_type, "Flatten"));
  const Outcome want = run(decomposed);
  const Outcome got = run(fused);
  expect_close(got.output, want.output);
  ASSERT_EQ(got.gradients.size(), want.gradients.size());
  for (std::size_t i = 0; i < got.gradients.size(); ++i) {
    SCOPED_TRACE("parameter " + std::to_string(i));
    expect_close(got.gradients[i], want.gradients[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, Fuse, testing::ValuesIn(decomposed_forms()),
                         [](const auto& form) { return form.param.name; });

TEST(Fuse, FindsEveryPatternOfANetwork) {
  GraphBuilder b;
  TensorId x = b.input({kWidth});
  for (int i = 0; i < 2; ++i) {
    for (const DecomposedForm& form : decomposed_forms()) {
      x = form.build(b, b.relu(x), kWidth);
    }
  }
  Graph graph = b.finish(x);
  EXPECT_THAT(fuse_patterns(&graph), ElementsAre(Pair("Gelu", 14), Pair("HardSwish", 8),
                                                 Pair("LayerNormalization", 12), Pair("Swish", 2)));
  EXPECT_THAT(fuse_patterns(&graph), IsEmpty()) << "nothing is left";
  EXPECT_EQ(graph.nodes.size(), 4 * decomposed_forms().size()) << "Relu and one more a form";
}

TEST(Fuse, LeavesWhatFollowsAPatternAlone) {
  GraphBuilder b;
  const TensorId x = b.input({kWidth});
  const TensorId y = b.node("Mul", {gelu_chain(b, x), number(b, 3)});  // no part of Gelu
  const TensorId gate = b.node("Mul", {y, b.node("Sigmoid", {y})});
  Graph graph = b.finish(b.node("Mul", {gate, x}));  // SwiGLU: another factor
  EXPECT_THAT(fuse_patterns(&graph), ElementsAre(Pair("Gelu", 1), Pair("Swish", 1)));
  EXPECT_THAT(op_types(graph), ElementsAre("Gelu", "Mul", "Swish", "Mul"));
}

// Fully connected layers of rank 3, as exporters write them.
TEST(Fuse, TakesTheBiasOfAProductIn) {
  const auto build = [](bool is_left, const Shape& bias, bool is_read_twice) {
    GraphBuilder b;
    const TensorId x = b.add(b.input({5, kWidth}), b.parameter({kWidth}, 0.5F));
    const TensorId weights = b.parameter({kWidth, 6}, 0.5F, 0, Storage::kTransposed);
    const TensorId product = b.node("MatMul", {x, weights});
    const TensorId by = b.parameter(bias, 0.5F);
    TensorId y = is_left ? b.add(by, product) : b.add(product, by);
    if (is_read_twice) y = b.node("Mul", {y, product});
    return b.finish(b.node("Flatten", {y}));
  };
  for (const bool is_left : {false, true}) {
    Graph written_out = build(is_left, {6}, false);
    Graph fused = build(is_left, {6}, false);
    EXPECT_THAT(fuse_patterns(&fused), ElementsAre(Pair("MatMul", 1)));
    EXPECT_THAT(op_types(fused), ElementsAre("Add", "MatMul", "Flatten"));
    EXPECT_EQ(fused.nodes[1].name, written_out.nodes[1].name) << "not that of the addition";
    const Outcome want = run(written_out);
    const Outcome got = run(fused);
    expect_close(got.output, want.output);
    ASSERT_EQ(got.gradients.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
      SCOPED_TRACE("parameter " + std::to_string(i));
      expect_close(got.gradients[i], want.gradients[i]);
    }
  }
  Graph other_bias = build(false, {5, 6}, false);
  EXPECT_THAT(fuse_patterns(&other_bias), IsEmpty()) << "one vector a position";
  Graph read_twice = build(false, {6}, true);
  EXPECT_THAT(fuse_patterns(&read_twice), IsEmpty());
}

// Attention's scores: Q K^T, with the heads split off in the same Transpose node.
TEST(Fuse, TakesKeysUnturned) {
  const auto build = [](const std::vector<std::int64_t>& order, bool is_read_twice) {
    GraphBuilder b;
    const bool has_heads = order.size() == 4;
    const Shape rest = has_heads ? Shape{6, 2, kWidth} : Shape{6, kWidth};
    const TensorId x = b.add(b.input(rest), b.parameter({kWidth}, 0.5F));
    const TensorId keys = b.node("Transpose", {b.relu(x)}, {{"perm", {order}}});
    const TensorId queries =
        has_heads ? b.node("Transpose", {x}, {{"perm", {std::vector<std::int64_t>{0, 2, 1, 3}}}})
                  : x;
    const TensorId scores = b.node("MatMul", {queries, keys});
    const TensorId y = is_read_twice ? b.add(scores, b.node("ReduceMean", {keys})) : scores;
    return b.finish(b.node("Flatten", {y}));
  };
  using Order = std::vector<std::int64_t>;
  for (const Order& order : {Order{0, 2, 3, 1}, Order{0, 2, 1}}) {
    Graph written_out = build(order, false);
    Graph fused = build(order, false);
    EXPECT_THAT(fuse_patterns(&fused), IsEmpty()) << "nothing is told: it is no other operator";
    const auto product =
        std::ranges::find_if(fused.nodes, [](const Node& n) { return n.op_type == "MatMul"; });
    EXPECT_EQ(product->int_or("transB", 0), 1);
    const auto turns =
        std::ranges::count_if(fused.nodes, [](const Node& n) { return n.op_type == "Transpose"; });
    EXPECT_EQ(turns, order.size() == 4 ? 2 : 0) << "the one for the heads is still there";
    const Outcome want = run(written_out);
    const Outcome got = run(fused);
    expect_close(got.output, want.output);
    expect_close(got.gradients.at(0), want.gradients.at(0));
  }
  Graph read_twice = build({0, 2, 3, 1}, true);
  fuse_patterns(&read_twice);
  for (const Node& node : read_twice.nodes) EXPECT_EQ(node.int_or("transB", 0), 0);
}

// The values of an .npy file of float32, which are its end.
std::vector<float> npy_values(const std::string& name, std::size_t count) {
  const std::vector<std::byte> file = test::read_fixture(name);
  std::vector<float> values(count);
  const std::size_t bytes = count * sizeof(float);
  if (file.size() < bytes) throw std::runtime_error(name + " is too short");
  std::memcpy(values.data(), file.data() + (file.size() - bytes), bytes);
  return values;
}

TEST(Fuse, PredictsWhatPyTorchPredicts) {
  for (const char* name :
       {"patterns_opset9.onnx", "patterns_opset13.onnx", "patterns_opset18.onnx"}) {
    SCOPED_TRACE(name);
    auto model = OnnxModel::import(test::read_fixture(name), {});
    ASSERT_TRUE(model.ok()) << model.error().one_line();
    EXPECT_FALSE(model->fused.empty());
    ThreadPool pool(1);
    TimeLedger ledger;
    LocalEngine engine(pool, ledger);
    auto executor = Executor::create(model->graph, {.batch = 2, .mode = StepMode::kInference},
                                     engine, pool, ledger);
    ASSERT_TRUE(executor.ok()) << executor.error().one_line();
    const auto input = (*executor)->input();
    std::ranges::copy(npy_values("patterns.input.npy", input.size()), input.begin());
    ASSERT_TRUE((*executor)->forward(0).ok());
    const auto output = (*executor)->output();
    expect_close({output.begin(), output.end()}, npy_values("patterns.output.npy", output.size()));
  }
}

struct NearMiss {
  std::string name;
  std::function<TensorId(GraphBuilder&, TensorId x)> build;
};

TensorId soft_gate(GraphBuilder& b, TensorId x, float cubic, float factor, float power) {
  const TensorId term = b.node("Mul", {b.node("Pow", {x, number(b, power)}), number(b, cubic)});
  const TensorId inner = b.node("Mul", {b.add(x, term), number(b, factor)});
  return b.node("Add", {b.node("Tanh", {inner}), number(b, 1)});
}

TensorId half_of(GraphBuilder& b, TensorId x) {
  return b.node("Mul", {x, number(b, 0.5F)});
}

TensorId hard_gate(GraphBuilder& b, TensorId x, float shift, float low, float high) {
  const TensorId shifted = b.node("Add", {x, number(b, shift)});
  return b.node("Clip", {shifted, number(b, low), number(b, high)});
}

std::vector<NearMiss> near_misses() {
  using B = GraphBuilder;
  const auto norm = [](LayerNormChain form) {
    return [form](B& b, TensorId x) { return layer_norm_chain(b, x, form); };
  };
  const auto gelu = [](GeluChain form) {
    return [form](B& b, TensorId x) { return gelu_chain(b, x, form); };
  };
  const auto soft = [](float cubic, float factor, float power) {
    return [=](B& b, TensorId x) {
      return b.node("Mul", {half_of(b, x), soft_gate(b, x, cubic, factor, power)});
    };
  };
  const auto hard = [](float shift, float low, float high, float divisor) {
    return [=](B& b, TensorId x) {
      const TensorId y = b.node("Mul", {x, hard_gate(b, x, shift, low, high)});
      return b.node("Div", {y, number(b, divisor)});
    };
  };
  return {
      {"norm_over_another_axis", norm({.axes = {1}})},
      {"norm_over_two_axes", norm({.axes = {-2, -1}})},
      {"norm_with_another_power", norm({.exponent = 4})},
      {"norm_below_zero", norm({.epsilon = -1e-5F})},
      {"rms_norm",
       [](B& b, TensorId x) {
         const TensorId square = b.node("Mul", {x, x});
         const TensorId mean =
             b.node("ReduceMean", {square}, {{"axes", {std::vector<std::int64_t>{-1}}}});
         const TensorId sum = b.node("Add", {mean, number(b, 1e-5F)});
         return b.node("Div", {x, b.node("Sqrt", {sum})});
       }},
      {"norm_by_another_tensor",
       [](B& b, TensorId x) {
         const TensorId other = b.relu(x);
         const auto mean = [&](TensorId of) {
           return b.node("ReduceMean", {of}, {{"axes", {std::vector<std::int64_t>{-1}}}});
         };
         const TensorId d = b.node("Sub", {x, mean(other)});
         const TensorId sum = b.node("Add", {mean(b.node("Mul", {d, d})), number(b, 1e-5F)});
         return b.node("Div", {d, b.node("Sqrt", {sum})});
       }},
      {"gelu_by_another_root", gelu({.divisor = 1.4143F})},
      {"gelu_plus_two", gelu({.one = 2})},
      {"gelu_by_another_half", gelu({.half = 0.51F})},
      {"gelu_gates_another_tensor",
       [](B& b, TensorId x) {
         const TensorId gate = b.node(
             "Add",
             {b.node("Erf", {b.node("Div", {b.relu(x), number(b, 1.41421354F)})}), number(b, 1)});
         return half_of(b, b.node("Mul", {x, gate}));
       }},
      {"tanh_by_another_cubic", soft(0.0447F, 0.7978846F, 3)},
      {"tanh_by_another_factor", soft(0.044715F, 0.7979F, 3)},
      {"tanh_by_another_power", soft(0.044715F, 0.7978846F, 2)},
      {"sigmoid_of_another_tensor",
       [](B& b, TensorId x) {
         return b.node("Mul", {x, b.node("Sigmoid", {b.relu(x)})});
       }},
      {"sigmoid_times_two",
       [](B& b, TensorId x) {
         return b.node("Mul", {b.node("Mul", {x, number(b, 2)}), b.node("Sigmoid", {x})});
       }},
      {"hard_sigmoid_by_default",
       [](B& b, TensorId x) {
         return b.node("Mul", {x, b.node("HardSigmoid", {x})});
       }},
      {"clip_of_another_shift", hard(2, 0, 6, 6)},
      {"clip_from_another_bound", hard(3, -1, 6, 6)},
      {"clip_to_another_bound", hard(3, 0, 5, 6)},
      {"clip_without_lower_bound",
       [](B& b, TensorId x) {
         const TensorId shifted = b.node("Add", {x, number(b, 3)});
         const TensorId clipped = b.node("Clip", {shifted}, {{"max", {6.0F}}});
         return b.node("Div", {b.node("Mul", {x, clipped}), number(b, 6)});
       }},
      {"clip_over_another_divisor", hard(3, 0, 6, 5)},
  };
}

class NearMisses : public testing::TestWithParam<NearMiss> {};

TEST_P(NearMisses, StayAsTheyAre) {
  GraphBuilder b;
  const TensorId x = b.add(b.input({5, kWidth}), b.parameter({kWidth}, 0.5F));
  Graph graph = b.finish(GetParam().build(b, x));
  const std::vector<std::string> before = op_types(graph);
  EXPECT_THAT(fuse_patterns(&graph), IsEmpty());
  EXPECT_EQ(op_types(graph), before);
  EXPECT_TRUE(infer_shapes(graph, 3).ok());
}

INSTANTIATE_TEST_SUITE_P(Chains, NearMisses, testing::ValuesIn(near_misses()),
                         [](const auto& miss) { return miss.param.name; });

TEST(Fuse, WantsTheMeanToKeepItsDimension) {
  for (const std::int64_t keepdims : {0, 1}) {
    GraphBuilder b;
    // (1, 8), of which a mean of either shape can be subtracted.
    const TensorId x =
        b.node("ReduceMean", {b.input({kWidth})}, {{"axes", {std::vector<std::int64_t>{0}}}});
    Graph graph = b.finish(layer_norm_chain(b, x, {.keepdims = keepdims}));
    ASSERT_TRUE(infer_shapes(graph, 3).ok());
    EXPECT_EQ(fuse_patterns(&graph).size(), static_cast<std::size_t>(keepdims));
  }
}

TEST(Fuse, WantsFeaturesThatDoNotDependOnTheBatch) {
  GraphBuilder b;
  const TensorId x = b.node("Transpose", {b.input({kWidth})});  // (8, N)
  Graph graph = b.finish(layer_norm_chain(b, x));
  EXPECT_THAT(fuse_patterns(&graph), IsEmpty());
}

TEST(Fuse, WantsFeaturesThatFit) {
  // A scale that broadcasts over another dimension as well is none of LayerNormalization's.
  GraphBuilder b;
  const TensorId x = b.input({5, kWidth});
  const TensorId y = b.node("Mul", {layer_norm_chain(b, x), b.parameter({5, kWidth}, 1)});
  Graph graph = b.finish(b.node("Add", {y, b.parameter({kWidth}, 1)}));
  EXPECT_THAT(fuse_patterns(&graph), ElementsAre(Pair("LayerNormalization", 1)));
  EXPECT_THAT(op_types(graph), ElementsAre("LayerNormalization", "Mul", "Add"));
}

TEST(Fuse, IsBlockedByEveryOtherReader) {
  for (const DecomposedForm& form : decomposed_forms()) {
    const Graph chain = graph_of(form);
    for (std::size_t i = 1; i + 2 < chain.nodes.size();
         ++i) {  // what Add makes is x, what comes last is read
      SCOPED_TRACE(form.name + ", node " + std::to_string(i));
      const TensorId inside = chain.nodes[i].outputs[0];
      Graph as_output = chain;
      as_output.outputs.push_back(inside);
      Graph read_again = chain;
      read_again.tensors.push_back({.name = "again"});
      const auto again = static_cast<TensorId>(read_again.tensors.size() - 1);
      read_again.nodes.push_back({.op_type = "Relu",
                                  .name = "again",
                                  .opset = 13,
                                  .inputs = {inside},
                                  .outputs = {again}});
      read_again.outputs.push_back(again);
      for (Graph* graph : {&as_output, &read_again}) {
        fuse_patterns(graph);
        int makers = 0;
        for (const Node& node : graph->nodes) {
          makers += static_cast<int>(node.outputs[0] == inside);
        }
        EXPECT_EQ(makers, 1) << "somebody still makes the tensor";
        EXPECT_TRUE(infer_shapes(*graph, 3).ok());
        // A normalisation may still be one node when it is its scale or bias that is in the way.
        const std::size_t all_fused = graph == &as_output ? 3 : 4;
        EXPECT_GT(graph->nodes.size(), all_fused);
      }
    }
  }
}

TEST(Fuse, LeavesALongProductAlone) {
  GraphBuilder b;
  TensorId x = b.input({kWidth});
  for (int i = 0; i < 20000; ++i) x = b.node("Mul", {x, number(b, 1)});
  Graph graph = b.finish(x);
  EXPECT_THAT(fuse_patterns(&graph), IsEmpty());
  EXPECT_EQ(graph.nodes.size(), 20000U);
}

}  // namespace
}  // namespace tempo
