// File: tools/summary.h
// The end of a job in words, from its report.
#pragma once

#include <string>

#include "tools/run_job.h"

namespace tempo {

// What came out, what was protected, what was checked, where the files are. Several lines, for
// stdout. Members that the report lacks are left out.
std::string job_summary(const JobRequest& request, const JobResult& result);

}  // namespace tempo
