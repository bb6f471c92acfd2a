// tempo ops: the operators that models may use.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

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
    fmt::print("{:<20} {:<11} {:<9} {:<13} {}\n", "operator", "from opset", "training", "done by",
               "restrictions");
    for (const OpDef& op : op_table()) {
      fmt::print("{:<20} {:<11} {:<9} {:<13} {}\n", op.type, op.min_opset,
                 op.has_backward ? "yes" : "no", op.is_linear ? "workers" : "enclave", op.notes);
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
