// File: tools/machine.h
// What this machine has, for `tempo doctor`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tempo {

struct Finding {
  bool found = false;
  std::string text;  // what it is, or why it is not there
};

// The widest vector instructions that the kernels can use.
Finding find_vector_instructions();
int usable_cores();
std::uint64_t available_memory_bytes();  // 0 when unknown
// By name: SGX, Gramine, SEV-SNP or TDX.
std::vector<std::pair<std::string, Finding>> find_enclave_hardware();
std::vector<std::pair<std::string, Finding>> find_accelerators();

}  // namespace tempo
