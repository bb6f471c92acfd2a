// File: tools/job_file_flags.h
// From the entries of a job file to the flags of a command.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "client/job_file.h"

namespace CLI {
class App;
}

namespace tempo {

// "--name=value" for every entry whose flag the command line does not give. Error kUsage for a key
// that is no flag of the command, and for a boolean where the flag takes a value or the reverse.
Result<std::vector<std::string>> flags_of_job_file(const CLI::App& command,
                                                   const std::vector<JobFileEntry>& entries,
                                                   const std::string& path);

}  // namespace tempo
