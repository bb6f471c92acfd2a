// File: client/job_file.h
// A job file: TOML whose keys are the long flags of the command, with "_" for "-", and whose values
// are strings, numbers, booleans or lists of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace tempo {

struct JobFileEntry {
  enum class Kind { kText, kNumber, kBoolean, kList };
  std::string key;  // as in the file
  Kind kind = Kind::kText;
  std::vector<std::string> values;  // as a flag would spell them; one unless kList

  bool is_true() const { return values.front() == "true"; }
};

inline constexpr std::size_t kMaxJobFileBytes = std::size_t{256} * 1024;

// In the file's order of keys (TOML sorts them). Error kUsage names the line, or the key whose
// value is none of these. `name` is for messages.
Result<std::vector<JobFileEntry>> parse_job_file(std::string_view text, const std::string& name);

}  // namespace tempo
