// tempo ops: the operators that models may use.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "enclave/graph/onnx_import.h"
#include "enclave/nn/op.h"
#include "enclave/server/ops_json.h"
#include "tools/command.h"

namespace tempo {
namespace {

class OpsCommand final : public Command {
 public:
  CLI::App* add_to(CLI::App& tempo) override {
    CLI::App* app = tempo.add_subcommand("ops", "List the ONNX operators that models may use.");
    app->add_flag("--json", json_, "as JSON");
    return app;
  }

  Status run() override {
    if (json_) {
      std::printf("%s\n", ops_to_json(op_table()).c_str());
      return {};
    }
    constexpr const char* kRow = "{:<21} {:<7} {:<7} {:<8} {:<17} {}\n";
    fmt::print(kRow, "operator", "opsets", "forward", "backward", "where", "notes");
    for (const OpDef& op : op_table()) {
      const auto opsets =
          fmt::format("{}-{}", std::max<std::int64_t>(op.min_opset, kOldestOpset), kNewestOpset);
      fmt::print(kRow, op.type, opsets, "yes", has_gradient(op) ? "yes" : "none",
                 op.is_linear ? "worker or enclave" : "enclave", op.notes);
    }
    return {};
  }

 private:
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_ops_command() {
  return std::make_unique<OpsCommand>();
}

}  // namespace tempo
