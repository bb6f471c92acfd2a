// tempo train: a model and a data set in, a trained model and a report out.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/command.h"
#include "tools/job_flags.h"
#include "tools/summary.h"

namespace tempo {
namespace {

class TrainCommand final : public Command {
 public:
  CLI::App* add_to(CLI::App& tempo) override {
    CLI::App* app = tempo.add_subcommand("train", "Train a model.");
    flags_.add_to(*app);
    app->add_option("-o,--output", output_, "where the trained model goes, an ONNX file");
    app->add_option("--report", report_, "where the report goes, a JSON file");
    return app;
  }

  Status run() override {
    auto request = flags_.request();
    if (!request) return request.error();
    if (output_.empty()) {
      return Error{ErrorCode::kUsage,    "no path for the trained model", "-o", "", "",
                   "add -o trained.onnx"};
    }
    request->model_output = output_;
    request->report_output = report_;
    auto result = run_job(*request);
    if (!result) return result.error();
    std::printf("%s", job_summary(*request, *result).c_str());
    if (result->status.ok()) return {};
    return Error{ErrorCode::kInterrupted,
                 "stopped before the end",
                 "",
                 "",
                 "",
                 "the model so far is in " + output_};
  }

 private:
  JobFlags flags_{JobKind::kTrain};
  std::string output_;
  std::string report_;
};

}  // namespace

std::unique_ptr<Command> make_train_command() {
  return std::make_unique<TrainCommand>();
}

}  // namespace tempo
