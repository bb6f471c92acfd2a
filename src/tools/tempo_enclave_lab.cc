// tempo-enclave-lab: an enclave with injected randomness and plaintext export, for experiments and
// tests.
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/omp_env.h"
#include "enclave/job/job.h"
#include "enclave/server/enclave_main.h"
#include "lab/enclave_hooks.h"

namespace {

// Takes `--name VALUE` out of the arguments. Null when it is not there.
const char* take_option(std::vector<char*>& arguments, const char* name) {
  for (std::size_t i = 1; i + 1 < arguments.size(); ++i) {
    if (std::strcmp(arguments[i], name) != 0) continue;
    const char* value = arguments[i + 1];
    arguments.erase(arguments.begin() + static_cast<std::ptrdiff_t>(i),
                    arguments.begin() + static_cast<std::ptrdiff_t>(i) + 2);
    return value;
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  tempo::ensure_passive_openmp(argv);
  std::vector<char*> arguments(argv, argv + argc);
  tempo::lab::EnclaveHookOptions lab;
  if (const char* seed = take_option(arguments, "--insecure-key-seed")) {
    lab.seeded = true;
    lab.seed = std::strtoull(seed, nullptr, 10);
  }
  if (const char* directory = take_option(arguments, "--insecure-dump")) {
    lab.dump_directory = directory;
  }
  const tempo::EnclaveHooks hooks = tempo::lab::make_enclave_hooks(lab);
  const int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  return tempo::enclave_main(count, arguments.data(), [&](const tempo::EnclaveOptions& options) {
    return tempo::make_job_runner(options, hooks);
  });
}
