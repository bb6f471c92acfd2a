// What import takes apart gives what the operator stands for: through import and executor, against
// the operator's definition.
#include "enclave/graph/onnx_decompose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "enclave/graph/test_models.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/feature_view.h"
#include "enclave/nn/graph_builder.h"
#include "enclave/offload/local_engine.h"

namespace tempo {
namespace {

using namespace test;
using ::testing::HasSubstr;
using Floats = std::vector<float>;

constexpr std::int64_t kBatch = 3;

float input_value(std::int64_t i) {
  return hashed_value(7, static_cast<std::uint32_t>(i));
}

// The model's output for input_value() at kBatch samples.
Floats run(const onnx::ModelProto& proto) {
  Result<OnnxModel> model = import_model(proto);
  if (!model.ok()) throw std::runtime_error(model.error().one_line());
  ThreadPool pool(2);
  TimeLedger ledger;
  LocalEngine engine(pool, ledger);
  auto executor = Executor::create(model->graph, {.batch = kBatch, .mode = StepMode::kInference},
                                   engine, pool, ledger);
  if (!executor.ok()) throw std::runtime_error(executor.error().one_line());
  Shape shape = model->graph.tensors[static_cast<std::size_t>(model->graph.inputs[0])].declared;
  shape[0] = kBatch;
  Floats input;
  for (std::int64_t i = 0; i < element_count(shape); ++i) input.push_back(input_value(i));
  from_onnx_order(pool, shape, 0, input.data(), (*executor)->input().data());
  EXPECT_TRUE((*executor)->forward(0).ok());
  return {(*executor)->output().begin(), (*executor)->output().end()};
}

void expect_near(const Floats& got, const Floats& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-4) << i;
}

onnx::AttributeProto* add_float(onnx::NodeProto* node, const std::string& name, float value) {
  onnx::AttributeProto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(onnx::AttributeProto::FLOAT);
  attribute->set_f(value);
  return attribute;
}

void add_scalar(onnx::ModelProto* model, const std::string& name, std::int64_t value) {
  add_ints(model, name, {value})->clear_dims();
}

TEST(Decompose, OperandsOfOpset6StartAtTheirAxis) {
  onnx::ModelProto proto = empty_model({0, 2, 3, 4}, 6);
  add_floats(&proto, "bias", {2});
  add_floats(&proto, "rows", {3, 4});
  onnx::NodeProto* add = add_node(&proto, "Add", {"x", "bias"}, {"a"});
  add_int(add, "broadcast", 1);
  add_int(add, "axis", 1);
  add_int(add_node(&proto, "Mul", {"a", "rows"}, {"b"}), "broadcast", 1);
  add_node(&proto, "Flatten", {"b"}, {"y"});
  add_output(&proto, "y");
  Floats want;
  for (std::int64_t i = 0; i < kBatch * 24; ++i) {
    const auto bias = static_cast<float>(i / 12 % 2 + 1);
    want.push_back((input_value(i) + bias) * static_cast<float>(i % 12 + 1));
  }
  expect_near(run(proto), want);
  // A bias is trained all the same.
  const OnnxModel model = std::move(*import_model(proto));
  EXPECT_EQ(model.graph.tensors[static_cast<std::size_t>(model.graph.find("bias"))].kind,
            TensorKind::kParameter);
}

TEST(Decompose, OperandsOfOpset6DoNotBroadcastUnasked) {
  onnx::ModelProto proto = empty_model({0, 2, 3}, 6);
  add_floats(&proto, "bias", {3});
  add_int(add_node(&proto, "Add", {"x", "bias"}, {"y"}), "broadcast", 0);
  add_output(&proto, "y");
  EXPECT_THAT(import_model(proto).error().one_line(), HasSubstr("do not broadcast"));
}

TEST(Decompose, SequencesAreSlices) {
  struct Case {
    std::vector<std::int64_t> split;  // one: of each part, as a scalar
    std::int64_t at;
    std::int64_t begin, end;  // of the element in the dimension of 7
  };
  for (const Case& c : std::vector<Case>{
           {{3}, 0, 0, 3}, {{3}, 2, 6, 7}, {{3}, -2, 3, 6}, {{7}, 0, 0, 7}, {{2, 4, 1}, 1, 2, 6}}) {
    onnx::ModelProto proto = empty_model({0, 2, 7}, 20);
    if (c.split.size() == 1) {
      add_scalar(&proto, "split", c.split[0]);
    } else {
      add_ints(&proto, "split", c.split);
    }
    add_scalar(&proto, "at", c.at);
    add_int(add_node(&proto, "SplitToSequence", {"x", "split"}, {"parts"}), "axis", -1);
    add_node(&proto, "SequenceAt", {"parts", "at"}, {"y"});
    add_output(&proto, "y");
    Floats want;
    for (std::int64_t row = 0; row < kBatch * 2; ++row) {
      for (std::int64_t i = c.begin; i < c.end; ++i) want.push_back(input_value(row * 7 + i));
    }
    EXPECT_EQ(run(proto), want) << c.at;
  }
}

TEST(Decompose, SequencesOfSinglesLoseTheirAxis) {
  onnx::ModelProto proto = empty_model({0, 4, 3}, 20);
  add_scalar(&proto, "at", 2);
  onnx::NodeProto* split = add_node(&proto, "SplitToSequence", {"x"}, {"parts"});
  add_int(split, "axis", 1);
  add_int(split, "keepdims", 0);
  add_node(&proto, "SequenceAt", {"parts", "at"}, {"y"});
  add_output(&proto, "y");
  Floats want;
  for (std::int64_t i = 0; i < kBatch * 3; ++i) want.push_back(input_value(i / 3 * 12 + 6 + i % 3));
  EXPECT_EQ(run(proto), want);
  const OnnxModel model = std::move(*import_model(proto));
  EXPECT_EQ((*infer_shapes(model.graph, 5))[static_cast<std::size_t>(model.graph.outputs[0])],
            (Shape{5, 3}));
}

// alpha * x' * B' + beta * C, with B a weight or of the data.
TEST(Decompose, GemmIsWhatItSays) {
  for (const bool by_weight : {true, false}) {
    onnx::ModelProto proto = empty_model({0, 4}, 13);
    add_floats(&proto, "w", {4, 3});
    add_floats(&proto, "c", {3, 3});  // kBatch rows
    std::string b = "w";
    if (!by_weight) {
      add_node(&proto, "Transpose", {"x"}, {"b"});  // (4, N)
      b = "b";
    }
    onnx::NodeProto* gemm = add_node(&proto, "Gemm", {"x", b, "c"}, {"y"});
    if (by_weight) gemm->mutable_input()->DeleteSubrange(2, 1);
    add_float(gemm, "alpha", 0.5F);
    add_float(gemm, "beta", 2);
    add_output(&proto, "y");
    if (!by_weight) {  // its columns are the batch, which C cannot be for every size
      EXPECT_THAT(import_model(proto).error().one_line(), HasSubstr("C does not broadcast"));
      gemm->mutable_input()->DeleteSubrange(2, 1);
    }
    Floats want;
    for (std::int64_t row = 0; row < kBatch; ++row) {
      for (std::int64_t column = 0; column < 3; ++column) {
        float sum = 0;
        for (std::int64_t k = 0; k < 4; ++k) {
          const float other =
              by_weight ? static_cast<float>(k * 3 + column + 1) : input_value(column * 4 + k);
          sum += input_value(row * 4 + k) * other;
        }
        want.push_back(0.5F * sum);
      }
    }
    expect_near(run(proto), want);
  }
}

TEST(Decompose, GemmsAddendIsScaledAndTrained) {
  onnx::ModelProto proto = empty_model({0, 4}, 13);
  add_floats(&proto, "w", {3, 4});
  add_floats(&proto, "c", {3});
  onnx::NodeProto* gemm = add_node(&proto, "Gemm", {"x", "w", "c"}, {"y"});
  add_int(gemm, "transB", 1);
  add_float(gemm, "beta", 0.25F);
  add_output(&proto, "y");
  Floats want;
  for (std::int64_t i = 0; i < kBatch * 3; ++i) {
    float sum = 0.25F * static_cast<float>(i % 3 + 1);
    for (std::int64_t k = 0; k < 4; ++k) {
      sum += input_value(i / 3 * 4 + k) * static_cast<float>(i % 3 * 4 + k + 1);
    }
    want.push_back(sum);
  }
  expect_near(run(proto), want);
  const OnnxModel model = std::move(*import_model(proto));
  for (const char* name : {"w", "c"}) {
    EXPECT_EQ(model.graph.tensors[static_cast<std::size_t>(model.graph.find(name))].kind,
              TensorKind::kParameter)
        << name;
  }
}

TEST(Decompose, MeanAndPowersByIntegers) {
  onnx::ModelProto proto = empty_model({0, 5}, 13);
  add_floats(&proto, "w", {5});
  add_ints(&proto, "three", {3});
  add_node(&proto, "Pow", {"x", "three"}, {"cube"});
  add_node(&proto, "Mean", {"x", "w", "cube"}, {"y"});
  add_output(&proto, "y");
  Floats want;
  for (std::int64_t i = 0; i < kBatch * 5; ++i) {
    const float x = input_value(i);
    want.push_back((x + static_cast<float>(i % 5 + 1) + x * x * x) / 3);
  }
  expect_near(run(proto), want);
}

TEST(Decompose, CastLikeTakesTheTypeOfTheOther) {
  onnx::ModelProto proto = empty_model({0, 3}, 15);
  add_ints(&proto, "ints", {0, 0, 0});
  add_node(&proto, "CastLike", {"x", "ints"}, {"cut"});  // towards 0
  add_node(&proto, "CastLike", {"cut", "x"}, {"back"});
  add_node(&proto, "Sub", {"x", "back"}, {"y"});
  add_output(&proto, "y");
  Floats want;
  for (std::int64_t i = 0; i < kBatch * 3; ++i) {
    want.push_back(input_value(i) - std::trunc(input_value(i)));
  }
  expect_near(run(proto), want);
  // Flags and numbers are one type here, and CastLike would have to know.
  proto = empty_model({0, 3}, 15);
  add_floats(&proto, "zero", {1});
  add_node(&proto, "Greater", {"x", "zero"}, {"flags"});
  add_node(&proto, "CastLike", {"x", "flags"}, {"y"});
  add_output(&proto, "y");
  EXPECT_THAT(import_model(proto).error().one_line(), HasSubstr("is not known"));
}

}  // namespace
}  // namespace tempo
