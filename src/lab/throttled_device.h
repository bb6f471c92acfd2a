// File: lab/throttled_device.h
// The processor as a worker device of a chosen speed: a product of N multiply-adds takes N / rate
// seconds, or as long as the processor needs if that is longer. Workers of known speeds, whatever
// else the machine does. Never part of a product program.
#pragma once

#include <memory>
#include <string>

#include "worker/cpu_device.h"

namespace tempo::lab {

class ThrottledDevice final : public Device {
 public:
  // rate > 0: multiply-adds a second. threads: as CpuDevice's.
  ThrottledDevice(double rate, int threads) : rate_(rate), cpu_(threads) {}

  std::string name() const override { return "throttled (lab): " + cpu_.name(); }
  std::uint64_t default_memory_bytes() const override { return cpu_.default_memory_bytes(); }
  std::unique_ptr<DeviceMatrix> allocate(std::uint32_t rows, std::uint32_t cols) override {
    return cpu_.allocate(rows, cols);
  }
  void upload(const std::byte* host, DeviceMatrix& matrix) override { cpu_.upload(host, matrix); }
  void download(const DeviceMatrix& matrix, std::byte* host) override {
    cpu_.download(matrix, host);
  }
  void multiply(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b, Transpose trans_b,
                bool accumulate, DeviceMatrix& out) override;
  bool multiply_to_host(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                        Transpose trans_b, std::byte* host) override;

 private:
  // When a product that begins now is done.
  Time end_of(const DeviceMatrix& a, const DeviceMatrix& b, Transpose trans_b) const;

  const double rate_;
  CpuDevice cpu_;
};

}  // namespace tempo::lab
