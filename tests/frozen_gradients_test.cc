// Freezing parameters takes their gradients away and leaves the others as they are, bit by bit: in
// every model of the zoo, whatever lies upstream or downstream of what is frozen.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/models/model_zoo.h"
#include "enclave/graph/onnx.h"
#include "enclave/nn/executor.h"
#include "enclave/offload/local_engine.h"
#include "enclave/train/freeze.h"
#include "tests/norms.h"

namespace tempo {
namespace {

constexpr std::int64_t kBatch = 4;

class FrozenGradients : public testing::TestWithParam<std::string> {
 protected:
  using Gradients = std::map<std::string, std::vector<float>>;

  Graph make_graph() const {
    ModelRequest request;
    request.kind = GetParam();
    request.channels = 1;
    request.height = request.width = 8;
    request.classes = 5;
    const auto file = build_model(request);
    EXPECT_TRUE(file.ok());
    auto model = OnnxModel::import(*file, {});
    EXPECT_TRUE(model.ok()) << model.error().one_line();
    return std::move(model->graph);
  }

  // Of one step with a made-up gradient of the output.
  static Gradients gradients_of(Graph graph) {
    ThreadPool pool(1);
    TimeLedger ledger;
    LocalEngine engine(pool, ledger);
    auto executor = Executor::create(graph, {.batch = kBatch, .seed = 3}, engine, pool, ledger);
    EXPECT_TRUE(executor.ok());
    float phase = 0;
    for (float& x : (*executor)->input()) x = std::sin(phase += 1.7F);
    EXPECT_TRUE((*executor)->forward(0).ok());
    for (float& d : (*executor)->d_output()) d = std::sin(phase += 1.7F);
    EXPECT_TRUE((*executor)->backward().ok());
    Gradients gradients;
    for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
      if (graph.tensors[i].kind != TensorKind::kParameter) continue;
      const auto gradient = (*executor)->gradient(static_cast<TensorId>(i));
      gradients[graph.tensors[i].name].assign(gradient.begin(), gradient.end());
    }
    return gradients;
  }
};

TEST_P(FrozenGradients, LeaveTheOthersAsTheyAre) {
  const Gradients all = gradients_of(make_graph());
  std::vector<std::string> names;  // in the order of the map
  for (const auto& [name, gradient] : all) names.push_back(name);
  std::vector<FreezeSpec> specs{{{"*.bias"}, {}, false}, {{"*.weight"}, {}, false}};
  for (const std::size_t offset : {0, 1, 2}) {  // two of three
    FreezeSpec& spec = specs.emplace_back();
    for (std::size_t i = offset; i < names.size() && spec.train_only.size() < kMaxPatterns;
         i += 3) {
      spec.train_only.push_back(names[i]);
    }
  }
  for (const FreezeSpec& spec : specs) {
    Graph graph = make_graph();
    const auto frozen = freeze_parameters(graph, spec);
    ASSERT_TRUE(frozen.ok()) << frozen.error().one_line();
    EXPECT_GT(*frozen, 0);
    const Gradients rest = gradients_of(std::move(graph));
    EXPECT_LT(rest.size(), all.size());
    // Only a transformer has layers that share their input. Those that are trained apart are not
    // stacked, so that their input's gradient is summed in another order; some gradients are zero
    // but for rounding.
    const bool has_stacks = GetParam() == std::string("vit");
    for (const auto& [name, gradient] : rest) {
      if (!has_stacks) {
        EXPECT_EQ(gradient, all.at(name)) << name;
        continue;
      }
      ASSERT_EQ(gradient.size(), all.at(name).size()) << name;
      EXPECT_LE(distance(gradient, all.at(name)), 1e-5 * norm(all.at(name)) + 1e-6) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, FrozenGradients, testing::Values("mlp", "cnn", "resnet20", "vit"));

}  // namespace
}  // namespace tempo
