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
          "keys are the command's long flags, with _ for -"};
}

bool belongs_in_a_file(const std::string& flag) {
  constexpr std::array<std::string_view, 3> kCommandLineOnly = {"--job", "--help", "--version"};
  return std::find(kCommandLineOnly.begin(), kCommandLineOnly.end(), flag) ==
         kCommandLineOnly.end();
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
