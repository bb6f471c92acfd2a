// File: enclave/server/enclave_main.h
// The body of an enclave program: command line, job API, one runner.
#pragma once

#include "enclave/server/job_runner.h"

namespace tempo {

// Serves until SIGTERM or SIGINT. Returns the program's exit code.
int enclave_main(int argc, char** argv, const JobRunnerFactory& make_runner);

}  // namespace tempo
