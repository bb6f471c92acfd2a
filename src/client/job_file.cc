#include "client/job_file.h"

#include <fmt/format.h>

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

namespace tempo {
namespace {

bool scalar_text(const toml::node& node, std::string* text, JobFileEntry::Kind* kind) {
  if (const auto* value = node.as_string()) {
    *text = value->get();
    *kind = JobFileEntry::Kind::kText;
  } else if (const auto* number = node.as_integer()) {
    *text = std::to_string(number->get());
    *kind = JobFileEntry::Kind::kNumber;
  } else if (const auto* real = node.as_floating_point()) {
    *text = fmt::format("{}", real->get());  // the shortest text that reads back the same
    *kind = JobFileEntry::Kind::kNumber;
  } else if (const auto* boolean = node.as_boolean()) {
    *text = boolean->get() ? "true" : "false";
    *kind = JobFileEntry::Kind::kBoolean;
  } else {
    return false;
  }
  return true;
}

Error bad_value(const std::string& name, const std::string& key) {
  return {ErrorCode::kUsage,
          "a value of the job file is of the wrong kind",
          name + ": " + key,
          "text, a number, true, false or a list of numbers or texts",
          "",
          ""};
}

}  // namespace

Result<std::vector<JobFileEntry>> parse_job_file(std::string_view text, const std::string& name) {
  if (text.size() > kMaxJobFileBytes) {
    return Error{ErrorCode::kUsage,
                 "the job file is too long",
                 name,
                 "at most " + std::to_string(kMaxJobFileBytes) + " bytes",
                 "",
                 ""};
  }
  const toml::parse_result parsed = toml::parse(text, name);
  if (!parsed) {
    const auto& error = parsed.error();
    return Error{ErrorCode::kUsage,
                 "the job file is not TOML",
                 name + ":" + std::to_string(error.source().begin.line),
                 "",
                 std::string(error.description()),
                 ""};
  }
  std::vector<JobFileEntry> entries;
  for (const auto& [key, node] : parsed.table()) {
    JobFileEntry entry;
    entry.key = std::string(key.str());
    if (const toml::array* list = node.as_array()) {
      entry.kind = JobFileEntry::Kind::kList;
      for (const toml::node& element : *list) {
        std::string value;
        JobFileEntry::Kind kind;
        if (!scalar_text(element, &value, &kind) || kind == JobFileEntry::Kind::kBoolean) {
          return bad_value(name, entry.key);
        }
        entry.values.push_back(std::move(value));
      }
      if (entry.values.empty()) continue;
    } else {
      std::string value;
      if (!scalar_text(node, &value, &entry.kind)) return bad_value(name, entry.key);
      entry.values.push_back(std::move(value));
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace tempo
