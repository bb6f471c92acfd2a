// tempo infer: predictions of a model for a data set.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/command.h"
#include "tools/job_flags.h"
#include "tools/summary.h"

namespace tempo {
namespace {

class InferCommand final : public Command {
 public:
  CLI::App* add_to(CLI::App& tempo) override {
    CLI::App* app = tempo.add_subcommand(
        "infer", "Predict: the test set of --data, or its only set; labels give the accuracy.");
    flags_.add_to(*app);
    app->add_option("-o,--output", output_,
                    "where the predictions go, a .npy file with a row of class scores a sample");
    app->add_option("--report", report_, "where the report goes, a JSON file");
    return app;
  }

  Status run() override {
    auto request = flags_.request();
    if (!request) return request.error();
    request->predictions_output = output_;
    request->report_output = report_;
    auto result = run_job(*request);
    if (!result) return result.error();
    std::printf("%s", job_summary(*request, *result).c_str());
    if (result->status.ok()) return {};
    return Error{ErrorCode::kInterrupted, "stopped before the end", "", "", "", ""};
  }

 private:
  JobFlags flags_{JobKind::kInfer};
  std::string output_;
  std::string report_;
};

}  // namespace

std::unique_ptr<Command> make_infer_command() {
  return std::make_unique<InferCommand>();
}

}  // namespace tempo
