// tempo plan: what a run of a model would do, before it does it.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/command.h"
#include "tools/job_flags.h"

namespace tempo {
namespace {

class PlanCommand final : public Command {
 public:
  CLI::App* add_to(CLI::App& tempo) override {
    CLI::App* app = tempo.add_subcommand(
        "plan",
        "Show the plan of a training run, or of predictions: where each linear operator is done, "
        "its tiles, bytes, "
        "checks and costs, the work of all others, and the enclave's peak memory.");
    flags_.add_to(*app);
    app->add_flag("--json", json_, "as JSON");
    return app;
  }

  Status run() override {
    auto request = flags_.request();
    if (!request) return request.error();
    auto result = run_job(*request);
    if (!result) return result.error();
    if (!result->status.ok()) return result->status;
    const auto& plan = json_ ? result->plan_json : result->plan_text;
    if (!plan) return Error{ErrorCode::kInternal, "the job made no plan", "", "", "", ""};
    std::printf("%s%s", plan->c_str(), plan->ends_with('\n') ? "" : "\n");
    return {};
  }

 private:
  JobFlags flags_{JobKind::kPlan};
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_plan_command() {
  return std::make_unique<PlanCommand>();
}

}  // namespace tempo
