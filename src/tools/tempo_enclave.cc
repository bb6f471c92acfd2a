// tempo-enclave: the trusted side.
#include "base/omp_env.h"
#include "enclave/job/job.h"
#include "enclave/server/enclave_main.h"

int main(int argc, char** argv) {
  tempo::ensure_passive_openmp(argv);
  const tempo::EnclaveHooks no_hooks;
  return tempo::enclave_main(argc, argv, [&](const tempo::EnclaveOptions& options) {
    return tempo::make_job_runner(options, no_hooks);
  });
}
