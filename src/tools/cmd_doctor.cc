// tempo doctor: what this machine has, what is missing, and whether the programs work together.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <string>

#include "client/data_files.h"
#include "client/local_system.h"
#include "client/models/model_zoo.h"
#include "client/output_file.h"
#include "client/runtime_directory.h"
#include "tools/command.h"
#include "tools/machine.h"
#include "tools/run_job.h"

namespace tempo {
namespace {

void say(const char* mark, const char* what, const std::string& text) {
  fmt::print("{:<8} {:<12} {}\n", mark, what, text);
}

void report_finding(const char* what, const Finding& finding) {
  say(finding.found ? "ok" : "missing", what, finding.text);
}

class DoctorCommand final : public Command {
 public:
  CLI::App* add_to(CLI::App& tempo) override {
    return tempo.add_subcommand(
        "doctor", "Check this machine: programs, processor, memory, data, enclave hardware.");
  }

  Status run() override {
    bool complete = true;
    for (const char* name : {"tempo-enclave", "tempo-offloader", "tempo-worker"}) {
      const std::string path = sibling_program(name);
      const bool found = ::access(path.c_str(), X_OK) == 0;
      report_finding("program", {found, path});
      complete = complete && found;
    }
    report_finding("processor", find_vector_instructions());
    say("ok", "cores", std::to_string(usable_cores()));
    say("ok", "memory", fmt::format("{} MiB available", available_memory_bytes() >> 20));
    report_data();
    for (const auto& [name, finding] : find_enclave_hardware()) {
      report_finding(name.c_str(), finding);
    }
    say("note", "enclave",
        "no attestation is implemented yet: the enclave is an ordinary process that simulates one, "
        "and whoever owns this machine can read its memory");
    for (const auto& [name, finding] : find_accelerators()) {
      report_finding(name.c_str(), finding);
    }
    say("note", "workers", "this version has the cpu device alone");
    if (!complete) {
      return Error{ErrorCode::kNotFound,
                   "programs of Tempo are missing",
                   sibling_program(""),
                   "",
                   "",
                   "install or build all of them in one directory"};
    }
    TEMPO_RETURN_IF_ERROR(round_trip());
    say("ok", "round trip", "worker, off-loader and enclave started, planned a model, and ended");
    return {};
  }

 private:
  static void report_data() {
    const auto data = find_data("fashion-mnist", JobKind::kTrain);
    report_finding("data", data ? Finding{true, std::string(kFashionMnistDirectory)}
                                : Finding{false, data.error().one_line()});
  }

  // A plan needs all three processes and nothing from the network.
  static Status round_trip() {
    auto directory = RuntimeDirectory::create();
    if (!directory) return directory.error();
    const auto model = build_model({"mlp", 1, 8, 8, 4, 0});
    if (!model) return model.error();
    JobRequest request;
    request.model_path = directory->file("model.onnx");
    TEMPO_RETURN_IF_ERROR(write_file(
        request.model_path, {reinterpret_cast<const char*>(model->data()), model->size()}));
    request.spec.kind = JobKind::kPlan;
    request.spec.batch = 8;
    request.spec.offload = OffloadPolicy::kAll;
    request.local.workers = 1;
    auto result = run_job(request);
    if (!result) return result.error();
    if (!result->status.ok()) return result->status;
    if (!result->plan_text) {
      return Error{ErrorCode::kInternal, "the enclave made no plan", "", "", "", ""};
    }
    return {};
  }
};

}  // namespace

std::unique_ptr<Command> make_doctor_command() {
  return std::make_unique<DoctorCommand>();
}

}  // namespace tempo
