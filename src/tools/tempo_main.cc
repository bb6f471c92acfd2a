#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "client/input_file.h"
#include "tools/command.h"
#include "tools/daemon.h"
#include "tools/job_file_flags.h"

namespace tempo {
namespace {

constexpr const char* kDescription =
    "Tempo trains and runs neural networks on untrusted workers: an enclave encodes the operands "
    "of "
    "large products, checks every result and keeps everything else to itself.";
constexpr const char* kFooter =
    "Start with:\n"
    "  tempo model cnn --image 1x28x28 --classes 10 -o model.onnx\n"
    "  tempo train --model model.onnx --data fashion-mnist -o trained.onnx\n"
    "Exit codes and the job file are described in docs/reference.md.";

struct Commands {
  Commands()
      : all{make_model_command(), make_train_command(), make_infer_command(),
            make_plan_command(),  make_ops_command(),   make_doctor_command()} {}
  std::array<std::unique_ptr<Command>, 6> all;
};

// Flags that stand in the job file and not on the command line are added to it, and all is read
// again, so that both go through the same checks.
Status read_job_file(CLI::App& command, std::vector<std::string>& arguments, bool* changed) {
  const CLI::Option* flag = command.get_option_no_throw("--job");
  if (flag == nullptr || flag->count() == 0) return {};
  const auto path = flag->as<std::string>();
  const auto bytes = read_file(path, kMaxJobFileBytes);
  if (!bytes) return bytes.error();
  const std::string_view text(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  const auto entries = parse_job_file(text, path);
  if (!entries) return entries.error();
  const auto added = flags_of_job_file(command, *entries, path);
  if (!added) return added.error();
  arguments.insert(arguments.end(), added->begin(), added->end());
  *changed = true;
  return {};
}

// Whom to ask about a command line that makes no sense.
std::string help_of(const std::vector<CLI::App*>& subcommands) {
  for (const CLI::App* command : subcommands) {
    if (command->parsed()) return "tempo " + command->get_name() + " --help";
  }
  return "tempo --help";
}

void parse(CLI::App& app, const std::vector<std::string>& arguments) {
  // CLI11 takes them from the back.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  app.parse(reversed);
}

Status run(int argc, char** argv, int* code) {
  CLI::App app(kDescription, "tempo");
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("tempo ") + TEMPO_VERSION);
  app.require_subcommand(1);
  Commands commands;
  std::vector<CLI::App*> subcommands;
  for (const auto& command : commands.all) {
    CLI::App* subcommand = command->add_to(app);
    subcommand->set_version_flag("--version", std::string("tempo ") + TEMPO_VERSION);
    subcommands.push_back(subcommand);
  }
  if (argc <= 1) {
    std::fprintf(stderr, "%s", app.help().c_str());
    *code = static_cast<int>(ErrorCode::kUsage);
    return {};
  }
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool known = std::any_of(subcommands.begin(), subcommands.end(),
                                 [&](const CLI::App* a) { return a->get_name() == arguments[0]; });
  if (!known && !arguments[0].starts_with('-')) {
    return Error{ErrorCode::kUsage, "unknown command", "", "", arguments[0], "see tempo --help"};
  }
  try {
    parse(app, arguments);
    for (std::size_t i = 0; i < subcommands.size(); ++i) {
      if (!subcommands[i]->parsed()) continue;
      bool changed = false;
      TEMPO_RETURN_IF_ERROR(read_job_file(*subcommands[i], arguments, &changed));
      if (changed) parse(app, arguments);
      return commands.all[i]->run();
    }
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      *code = app.exit(error);
      return {};
    }
    return Error{ErrorCode::kUsage, error.what(), "", "", "", "see " + help_of(subcommands)};
  }
  return {};
}

}  // namespace

int tempo_main(int argc, char** argv) {
  int code = 0;
  Status status;
  try {
    status = run(argc, argv, &code);
  } catch (const std::bad_alloc&) {
    status = Error{ErrorCode::kOutOfMemory, "no memory left", "", "", "", ""};
  } catch (const std::exception& error) {
    status = Error{ErrorCode::kInternal, error.what(), "", "", "", "please report this"};
  }
  if (status.ok()) return code;
  std::fflush(stdout);
  std::fprintf(stderr, "tempo: %s\n", status.error().one_line().c_str());
  return static_cast<int>(status.error().code);
}

}  // namespace tempo
