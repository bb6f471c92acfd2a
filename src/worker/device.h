// File: worker/device.h
// What a worker computes on: memory for matrices, and their products. One thread at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "matrix/gemm.h"

namespace tempo {

// A row-major matrix of floats in the device's memory.
class DeviceMatrix {
 public:
  DeviceMatrix(std::uint32_t rows, std::uint32_t cols) : rows_(rows), cols_(cols) {}
  virtual ~DeviceMatrix() = default;
  DeviceMatrix(const DeviceMatrix&) = delete;
  DeviceMatrix& operator=(const DeviceMatrix&) = delete;

  std::uint32_t rows() const { return rows_; }
  std::uint32_t cols() const { return cols_; }
  std::uint64_t elements() const { return std::uint64_t{rows_} * cols_; }
  std::uint64_t bytes() const { return elements() * sizeof(float); }

 private:
  const std::uint32_t rows_;
  const std::uint32_t cols_;
};

class Device {
 public:
  using Time = std::chrono::steady_clock::time_point;

  virtual ~Device() = default;

  // At most 55 printable characters.
  virtual std::string name() const = 0;
  // Memory that matrices may use when the user sets no limit.
  virtual std::uint64_t default_memory_bytes() const = 0;

  // Uninitialised; null when the device has no memory for it. Matrices go before their device.
  virtual std::unique_ptr<DeviceMatrix> allocate(std::uint32_t rows, std::uint32_t cols) = 0;
  // The host side has matrix.bytes() bytes, 64-byte aligned, and may be memory that others change.
  virtual void upload(const std::byte* host, DeviceMatrix& matrix) = 0;
  virtual void download(const DeviceMatrix& matrix, std::byte* host) = 0;

  // op(a) op(b) into `out`, added to it when `accumulate`. Shapes fit; out is neither a nor b.
  virtual void multiply(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                        Transpose trans_b, bool accumulate, DeviceMatrix& out) = 0;
  // op(a) op(b) straight to the host; nothing stays. False when the device has no memory for it.
  virtual bool multiply_to_host(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                                Transpose trans_b, std::byte* host) = 0;

  // What the last call did may be told to the peer from then on. Devices that compute are done when
  // the call returns; one that only plays a part (lab/replay_device.h) has times of its own.
  virtual Time done_at() const { return Time::min(); }
};

}  // namespace tempo
