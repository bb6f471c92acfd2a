// File: base/omp_env.h
// OpenMP threads that have run out of work must sleep, not spin: the cores are shared with other
// processes. The runtime reads its environment when it is loaded, before main(), so a program that
// wants this starts itself again.
#pragma once

#include <unistd.h>

#include <cstdlib>

namespace tempo {

// Call first in main(). Returns when OMP_WAIT_POLICY is set (by the user, or by this), or when the
// program cannot be started again: then it is only slower.
inline void ensure_passive_openmp(char** argv) {
  constexpr const char* kPolicy = "OMP_WAIT_POLICY";
  if (std::getenv(kPolicy) != nullptr) return;
  if (::setenv(kPolicy, "passive", 0) != 0) return;
  ::execv("/proc/self/exe", argv);
}

}  // namespace tempo
