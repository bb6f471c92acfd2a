#include "enclave/graph/onnx_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "enclave/graph/test_models.h"
#include "enclave/nn/executor.h"
#include "enclave/nn/op.h"
#include "enclave/offload/local_engine.h"

namespace tempo {
namespace {

using namespace test;

constexpr std::int64_t kTokens = 4, kHeads = 2, kWidth = 3;

struct Form {
  std::string name;
  bool has_heads = false;
  bool is_causal = false;
  char mask = ' ';  // 'b' flags, 'f' floats
  double scale = 0;
};

onnx::AttributeProto* add_float(onnx::NodeProto* node, const std::string& name, float value) {
  onnx::AttributeProto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(onnx::AttributeProto::FLOAT);
  attribute->set_f(value);
  return attribute;
}

// Flags or numbers by query and key; every query may look at the first key.
double mask_value(std::int64_t q, std::int64_t k) {
  return k > 0 && (q + k) % 3 == 0 ? 0 : 0.25 * static_cast<double>(k + 1);
}

onnx::ModelProto attention_model(const Form& form) {
  const Shape shape =
      form.has_heads ? Shape{0, kHeads, kTokens, kWidth} : Shape{0, kTokens, kHeads * kWidth};
  onnx::ModelProto proto = empty_model(shape, 23);
  set_value_info(proto.mutable_graph()->add_input(), "k", shape);
  set_value_info(proto.mutable_graph()->add_input(), "v", shape);
  std::vector<std::string> inputs = {"x", "k", "v"};
  if (form.mask != ' ') {
    inputs.push_back("mask");
    onnx::TensorProto* mask = add_floats(&proto, "mask", {kTokens, kTokens});
    mask->clear_float_data();
    if (form.mask == 'b') mask->set_data_type(onnx::TensorProto::BOOL);
    for (std::int64_t i = 0; i < kTokens * kTokens; ++i) {
      const double value = mask_value(i / kTokens, i % kTokens);
      if (form.mask == 'b') {
        mask->add_int32_data(value != 0 ? 1 : 0);
      } else {
        mask->add_float_data(static_cast<float>(value));
      }
    }
  }
  onnx::NodeProto* node = add_node(&proto, "Attention", inputs, {"y"});
  if (!form.has_heads) {
    add_int(node, "q_num_heads", kHeads);
    add_int(node, "kv_num_heads", kHeads);
  }
  if (form.is_causal) add_int(node, "is_causal", 1);
  if (form.scale != 0) add_float(node, "scale", static_cast<float>(form.scale));
  add_output(&proto, "y");
  return proto;
}

// Element of an operand in either form; the operand is in ONNX's order.
std::size_t at(const Form& form, std::int64_t n, std::int64_t h, std::int64_t t, std::int64_t c) {
  const std::int64_t index = form.has_heads ? ((n * kHeads + h) * kTokens + t) * kWidth + c
                                            : ((n * kTokens + t) * kHeads + h) * kWidth + c;
  return static_cast<std::size_t>(index);
}

std::vector<double> oracle(const Form& form, std::int64_t batch, const std::vector<float>& q,
                           const std::vector<float>& k, const std::vector<float>& v) {
  const double scale = form.scale != 0 ? form.scale : 1 / std::sqrt(static_cast<double>(kWidth));
  std::vector<double> y(q.size(), 0.0);
  for (std::int64_t n = 0; n < batch; ++n) {
    for (std::int64_t h = 0; h < kHeads; ++h) {
      for (std::int64_t t = 0; t < kTokens; ++t) {
        std::vector<double> weight(kTokens);
        double sum = 0;
        for (std::int64_t s = 0; s < kTokens; ++s) {
          double score = 0;
          for (std::int64_t c = 0; c < kWidth; ++c) {
            score += static_cast<double>(q[at(form, n, h, t, c)] * k[at(form, n, h, s, c)]);
          }
          score *= scale;
          if (form.mask == 'f') score += mask_value(t, s);
          const bool is_hidden =
              (form.is_causal && s > t) || (form.mask == 'b' && mask_value(t, s) == 0);
          weight[static_cast<std::size_t>(s)] = is_hidden ? 0 : std::exp(score);
          sum += weight[static_cast<std::size_t>(s)];
        }
        for (std::int64_t s = 0; s < kTokens; ++s) {
          for (std::int64_t c = 0; c < kWidth; ++c) {
            y[at(form, n, h, t, c)] += weight[static_cast<std::size_t>(s)] / sum *
                                       static_cast<double>(v[at(form, n, h, s, c)]);
          }
        }
      }
    }
  }
  return y;
}

class Attention : public testing::TestWithParam<Form> {};

TEST_P(Attention, IsWhatItStandsFor) {
  constexpr std::int64_t kBatch = 2;
  Result<OnnxModel> model = import_model(attention_model(GetParam()));
  ASSERT_TRUE(model.ok()) << model.error().one_line();
  ThreadPool pool(1);
  TimeLedger ledger;
  LocalEngine engine(pool, ledger);
  auto executor = Executor::create(model->graph, {.batch = kBatch, .mode = StepMode::kInference},
                                   engine, pool, ledger);
  ASSERT_TRUE(executor.ok()) << executor.error().one_line();
  std::mt19937 rng(5);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<std::vector<float>> operands;
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<float> values(kBatch * kHeads * kTokens * kWidth);
    for (float& value : values) value = uniform(rng);
    const Shape shape = {kBatch, kHeads, kTokens, kWidth};
    from_onnx_order(pool, GetParam().has_heads ? shape : Shape{element_count(shape)}, 0,
                    values.data(), (*executor)->input(i).data());
    operands.push_back(std::move(values));
  }
  ASSERT_TRUE((*executor)->forward(0).ok());
  const std::vector<double> want =
      oracle(GetParam(), kBatch, operands[0], operands[1], operands[2]);
  const auto got = (*executor)->output();
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6) << i;
}

INSTANTIATE_TEST_SUITE_P(Forms, Attention,
                         testing::Values(Form{"packed"}, Form{"causal", false, true},
                                         Form{"by_flags", false, false, 'b'},
                                         Form{"by_numbers", false, false, 'f'},
                                         Form{"by_head", true},
                                         Form{"everything", true, true, 'b', 0.25}),
                         [](const auto& form) { return form.param.name; });

TEST(Attention, RefusesWhatItCannotDo) {
  const auto reason = [](const std::function<void(onnx::NodeProto*)>& change) {
    onnx::ModelProto proto = attention_model({"packed"});
    change(proto.mutable_graph()->mutable_node(0));
    const auto model = import_model(proto);
    return model.ok() ? std::string() : model.error().got;
  };
  EXPECT_EQ(reason([](onnx::NodeProto*) {}), "");
  EXPECT_NE(reason([](onnx::NodeProto* node) { add_float(node, "softcap", 2); }).find("softcap"),
            std::string::npos);
  EXPECT_NE(reason([](onnx::NodeProto* node) {
              node->mutable_attribute(1)->set_i(1);
            }).find("as many heads"),
            std::string::npos);
  EXPECT_NE(reason([](onnx::NodeProto* node) {
              for (const char* past : {"", "k", "v"}) node->add_input(past);
            }).find("past keys"),
            std::string::npos);
  EXPECT_NE(reason([](onnx::NodeProto* node) {
              node->mutable_attribute(0)->set_i(4);
              node->mutable_attribute(1)->set_i(4);
            }).find("divide"),
            std::string::npos);
}

}  // namespace
}  // namespace tempo
