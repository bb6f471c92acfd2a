#include "worker/cpu_device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <thread>

#include "base/buffer.h"
#include "base/error.h"

namespace tempo {
namespace {

class CpuMatrix final : public DeviceMatrix {
 public:
  CpuMatrix(std::uint32_t rows, std::uint32_t cols, float* data)
      : DeviceMatrix(rows, cols), data_(data) {}
  ~CpuMatrix() override { std::free(data_); }
  float* data() { return data_; }
  const float* data() const { return data_; }

 private:
  float* const data_;
};

const float* data_of(const DeviceMatrix& matrix) {
  return static_cast<const CpuMatrix&>(matrix).data();
}
float* data_of(DeviceMatrix& matrix) {
  return static_cast<CpuMatrix&>(matrix).data();
}

void product(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b, Transpose trans_b,
             float beta, float* out) {
  const bool ta = trans_a == Transpose::kYes;
  const bool tb = trans_b == Transpose::kYes;
  const std::int64_t rows = ta ? a.cols() : a.rows();
  const std::int64_t inner = ta ? a.rows() : a.cols();
  const std::int64_t cols = tb ? b.rows() : b.cols();
  TEMPO_ASSERT(inner == (tb ? b.cols() : b.rows()));
  gemm(trans_a, trans_b, rows, cols, inner, 1.0F, data_of(a), a.cols(), data_of(b), b.cols(), beta,
       out, cols);
}

std::uint64_t available_host_bytes() {
  std::ifstream info("/proc/meminfo");
  std::string key;
  std::uint64_t kib = 0;
  std::string rest;
  while (info >> key >> kib && std::getline(info, rest)) {
    if (key == "MemAvailable:") return kib * 1024;
  }
  return std::uint64_t{1} << 30;  // no such file: be modest
}

std::uint64_t control_group_bytes() {
  std::ifstream file("/sys/fs/cgroup/memory.max");
  std::uint64_t bytes = 0;
  return file >> bytes ? bytes : std::numeric_limits<std::uint64_t>::max();  // "max", or no file
}

}  // namespace

CpuDevice::CpuDevice(int threads)
    : threads_(threads > 0 ? threads
                           : std::max(1, static_cast<int>(std::thread::hardware_concurrency()))) {
  set_gemm_threads(threads_);
}

std::string CpuDevice::name() const {
  return "cpu, " + std::to_string(threads_) + (threads_ == 1 ? " thread" : " threads");
}

std::uint64_t CpuDevice::default_memory_bytes() const {
  return std::min(available_host_bytes(), control_group_bytes()) / 2;
}

std::unique_ptr<DeviceMatrix> CpuDevice::allocate(std::uint32_t rows, std::uint32_t cols) {
  const std::uint64_t bytes = std::uint64_t{rows} * cols * sizeof(float);
  const std::uint64_t padded = (bytes + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
  auto* data = static_cast<float*>(std::aligned_alloc(kCacheLineBytes, padded));
  if (data == nullptr) return nullptr;
  return std::make_unique<CpuMatrix>(rows, cols, data);
}

void CpuDevice::upload(const std::byte* host, DeviceMatrix& matrix) {
  std::memcpy(data_of(matrix), host, matrix.bytes());
}

void CpuDevice::download(const DeviceMatrix& matrix, std::byte* host) {
  std::memcpy(host, data_of(matrix), matrix.bytes());
}

void CpuDevice::multiply(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                         Transpose trans_b, bool accumulate, DeviceMatrix& out) {
  product(a, trans_a, b, trans_b, accumulate ? 1.0F : 0.0F, data_of(out));
}

bool CpuDevice::multiply_to_host(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                                 Transpose trans_b, std::byte* host) {
  product(a, trans_a, b, trans_b, 0.0F, reinterpret_cast<float*>(host));
  return true;
}

}  // namespace tempo
