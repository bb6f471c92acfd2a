#include "tools/job_file_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>

namespace tempo {
namespace {

Error wrong_key(const char* what, const std::string& path, const std::string& key) {
  return {ErrorCode::kUsage,
          what,
          path + ": " + key,
          "",
          "",
          "keys are the long flags of train, infer and plan, with _ for -"};
}

bool belongs_in_a_file(const std::string& flag) {
  constexpr std::array<std::string_view, 3> kCommandLineOnly = {"--job", "--help", "--version"};
  return std::find(kCommandLineOnly.begin(), kCommandLineOnly.end(), flag) ==
         kCommandLineOnly.end();
}

// A job file may serve several commands: `tempo plan` has no use for a learning rate.
bool another_command_has(const CLI::App& command, const std::string& flag) {
  const CLI::App* parent = command.get_parent();
  if (parent == nullptr) return false;
  const auto others = parent->get_subcommands([](const CLI::App*) { return true; });
  return std::any_of(others.begin(), others.end(), [&](const CLI::App* other) {
    return other->get_option_no_throw("--job") != nullptr &&
           other->get_option_no_throw(flag) != nullptr;
  });
}

}  // namespace

Result<std::vector<std::string>> flags_of_job_file(const CLI::App& command,
                                                   const std::vector<JobFileEntry>& entries,
                                                   const std::string& path) {
  std::vector<std::string> flags;
  for (const JobFileEntry& entry : entries) {
    std::string flag = "--" + entry.key;
    std::replace(flag.begin(), flag.end(), '_', '-');
    const CLI::Option* option = command.get_option_no_throw(flag);
    if (option == nullptr && another_command_has(command, flag)) continue;
    if (option == nullptr || !belongs_in_a_file(flag)) {
      return wrong_key("unknown key in the job file", path, entry.key);
    }
    const bool is_switch = option->get_items_expected_max() == 0;
    if (is_switch != (entry.kind == JobFileEntry::Kind::kBoolean)) {
      return wrong_key(is_switch ? "the key wants true or false" : "the key wants a value", path,
                       entry.key);
    }
    if (option->count() > 0) continue;
    if (is_switch) {
      if (entry.is_true()) flags.push_back(flag);
      continue;
    }
    const bool repeated = option->get_items_expected_max() > 1;
    if (repeated) {
      for (const std::string& value : entry.values) flags.push_back(flag + "=" + value);
      continue;
    }
    std::string joined;
    for (const std::string& value : entry.values) joined += (joined.empty() ? "" : ",") + value;
    flags.push_back(flag + "=" + joined);
  }
  return flags;
}

}  // namespace tempo
