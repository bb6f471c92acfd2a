// File: worker/cpu_device.h
// The processor as a worker device: matrix/gemm.h on host memory.
#pragma once

#include "worker/device.h"

namespace tempo {

class CpuDevice final : public Device {
 public:
  // threads >= 0; 0: as many as there are cores.
  explicit CpuDevice(int threads);

  std::string name() const override;
  // Half of what the host (or its control group) has free now.
  std::uint64_t default_memory_bytes() const override;
  std::unique_ptr<DeviceMatrix> allocate(std::uint32_t rows, std::uint32_t cols) override;
  void upload(const std::byte* host, DeviceMatrix& matrix) override;
  void download(const DeviceMatrix& matrix, std::byte* host) override;
  void multiply(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b, Transpose trans_b,
                bool accumulate, DeviceMatrix& out) override;
  bool multiply_to_host(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                        Transpose trans_b, std::byte* host) override;

 private:
  const int threads_;
};

}  // namespace tempo
