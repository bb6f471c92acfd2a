// tempo-enclave-lab: an enclave with injected randomness and plaintext export, for experiments and
// tests.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/omp_env.h"
#include "enclave/job/job.h"
#include "enclave/server/enclave_main.h"
#include "lab/enclave_hooks.h"

namespace {

constexpr const char* kHelp =
    "Of this lab program alone, for experiments and tests; none of it protects anything:\n"
    "  --insecure-key-seed N      keys and check vectors follow from this number\n"
    "  --insecure-repeat-steps    every step has the same ones: for workers that replay results\n"
    "  --insecure-dump DIRECTORY  write the operands of linear operators there, in clear\n"
    "  --reorder-sums             with --scheme plain --offload none: linear operators with the\n"
    "                             terms of every sum in the opposite order\n"
    "  --step-pause MS            wait so long before every step\n"
    "  --step-times FILE          append a line for every step: wall and CPU time, waits for a "
    "core\n\n";

// Takes `--name` out of the arguments, as far as it is there.
bool take_flag(std::vector<char*>& arguments, const char* name) {
  return std::erase_if(arguments, [&](const char* a) { return std::strcmp(a, name) == 0; }) > 0;
}

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
  if (const char* path = take_option(arguments, "--step-times")) lab.step_times = path;
  if (const char* ms = take_option(arguments, "--step-pause")) {
    lab.step_pause = std::chrono::milliseconds(std::strtol(ms, nullptr, 10));
  }
  lab.reorders_sums = take_flag(arguments, "--reorder-sums");
  lab.repeats_steps = take_flag(arguments, "--insecure-repeat-steps");
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) std::fputs(kHelp, stdout);
  const tempo::EnclaveHooks hooks = tempo::lab::make_enclave_hooks(lab);
  const int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  return tempo::enclave_main(count, arguments.data(), [&](const tempo::EnclaveOptions& options) {
    return tempo::make_job_runner(options, hooks);
  });
}
