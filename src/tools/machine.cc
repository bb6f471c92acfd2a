#include "tools/machine.h"

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

namespace tempo {
namespace {

// Found, or why not, in the system's words.
Finding find_path(const std::string& path, const std::string& when_found,
                  const std::string& when_missing) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) {
    return {false, path + ": " + std::strerror(errno) + "; " + when_missing};
  }
  if (::access(path.c_str(), R_OK) != 0) {
    return {false, path + " is there, but: " + std::strerror(errno)};
  }
  return {true, path + ": " + when_found};
}

}  // namespace

Finding find_vector_instructions() {
  std::ifstream info("/proc/cpuinfo");
  std::string model;
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) model = line.substr(line.find(':') + 2);
    if (!line.starts_with("flags") && !line.starts_with("Features")) continue;
    std::istringstream words(line);
    bool avx2 = false, avx512 = false, fma = false, neon = false;
    for (std::string word; words >> word;) {
      avx2 = avx2 || word == "avx2";
      avx512 = avx512 || word == "avx512f";
      fma = fma || word == "fma";
      neon = neon || word == "asimd";
    }
    const std::string best = avx512 ? "AVX-512" : avx2 && fma ? "AVX2" : neon ? "NEON" : "";
    if (best.empty()) return {false, model + ": neither AVX2 nor NEON; everything will be slow"};
    return {true, model + (model.empty() ? "" : ": ") + best};
  }
  return {false, "/proc/cpuinfo does not tell"};
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

std::uint64_t available_memory_bytes() {
  std::ifstream info("/proc/meminfo");
  for (std::string line; std::getline(info, line);) {
    std::istringstream words(line);
    std::string key;
    std::uint64_t kib = 0;
    if (words >> key >> kib && key == "MemAvailable:") return kib << 10;
  }
  return 0;
}

std::vector<std::pair<std::string, Finding>> find_enclave_hardware() {
  return {
      {"SGX", find_path("/dev/sgx_enclave", "the driver of Intel SGX",
                        "no SGX processor, or it is off in the firmware, or an old kernel")},
      {"Gramine", find_path("/dev/attestation/quote", "this process runs under Gramine",
                            "not running under Gramine with remote attestation")},
      {"SEV or TDX", find_path("/sys/kernel/config/tsm/report", "a confidential virtual machine",
                               "no SEV-SNP or TDX guest, or configfs is not mounted")},
  };
}

std::vector<std::pair<std::string, Finding>> find_accelerators() {
  return {
      {"NVIDIA", find_path("/dev/nvidiactl", "the driver is loaded", "no NVIDIA driver")},
      {"AMD", find_path("/dev/kfd", "the driver is loaded", "no AMD compute driver")},
      {"Intel GPU", find_path("/dev/dri/renderD128", "a render node", "no render node")},
  };
}

}  // namespace tempo
