// File: lab/replay_device.h
// A worker device that remembers. It computes what it has not seen; the same product of the same
// operands is answered from memory, after the time that a modelled accelerator and its link would
// have taken, while the processor is left to the enclave. So a machine without an accelerator can
// measure the enclave that would feed one. A measuring instrument: it protects nothing and computes
// next to nothing, and it only works for an enclave that repeats itself (lab/enclave_hooks.h).
//
// An operand is known by a fingerprint of its shape and of kFingerprintWords of its words, a
// product by those of what it is made of: in which order tasks come does not matter. What a
// fingerprint does not see, the enclave's checks do.
//
// Once as many products in a row were known as there were up to the last unknown one, at least a
// whole step was known and the recording is complete. From then on an unknown product is a
// mismatch: computed, counted, said in the log, and forgotten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/error.h"
#include "lab/device_model.h"
#include "worker/cpu_device.h"

namespace tempo::lab {

struct ReplayOptions {
  std::string model_path;                              // of read_device_model
  int threads = 0;                                     // for what is computed
  std::uint64_t limit_bytes = std::uint64_t{8} << 30;  // of what is remembered
  // When complete, a JSON line each time that the products begin again: {"wall_ms", "products",
  // "mismatches", "device_ms", "link_to_device_ms", "link_from_device_ms", "bytes_to_device",
  // "bytes_from_device", "worker_cpu_ms"}; device_ms and link_*_ms are the model's.
  std::string step_log;  // empty: none
  // The link to the off-loader is a real one: the model's, which would come on top, takes no time.
  bool has_real_link = false;
};

class ReplayDevice final : public Device {
 public:
  static constexpr std::size_t kFingerprintWords = 1024;

  // Errors: those of read_device_model; kIo for the log.
  static Result<std::unique_ptr<ReplayDevice>> open(const ReplayOptions& options);
  ~ReplayDevice() override;

  std::string name() const override { return "replay (lab): computes nothing"; }
  std::uint64_t default_memory_bytes() const override { return cpu_.default_memory_bytes(); }
  // Memory is taken when it is needed; the process ends (std::bad_alloc) when there is none then.
  std::unique_ptr<DeviceMatrix> allocate(std::uint32_t rows, std::uint32_t cols) override;
  void upload(const std::byte* host, DeviceMatrix& matrix) override;
  void download(const DeviceMatrix& matrix, std::byte* host) override;
  void multiply(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b, Transpose trans_b,
                bool accumulate, DeviceMatrix& out) override;
  bool multiply_to_host(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                        Transpose trans_b, std::byte* host) override;
  Time done_at() const override { return done_at_; }

  bool is_complete() const { return is_complete_; }
  std::uint64_t replayed() const { return replayed_; }  // products, as are these
  std::uint64_t recorded() const { return recorded_; }
  std::uint64_t mismatches() const { return mismatches_; }  // since it is complete

 private:
  using Key = std::uint64_t;
  using Values = std::shared_ptr<const DeviceMatrix>;  // of cpu_
  class Matrix;

  ReplayDevice(const ReplayOptions& options, const DeviceModel& model);
  std::unique_ptr<DeviceMatrix> allocate_values(std::uint32_t rows, std::uint32_t cols);
  Values compute(const Matrix& a, Transpose trans_a, const Matrix& b, Transpose trans_b,
                 const Matrix* sum, std::uint32_t rows, std::uint32_t cols);
  void remember(Key key, const Values& values);
  void count_known(Key key);
  void count_unknown(std::uint32_t rows, std::uint32_t cols, std::uint64_t inner);
  void end_of_step();

  const ReplayOptions options_;
  const DeviceModel model_;
  CpuDevice cpu_;
  DeviceTimeline timeline_;
  Time done_at_ = Time::min();

  std::unordered_map<Key, Values> known_;
  std::uint64_t known_bytes_ = 0;
  bool is_full_ = false;
  bool is_complete_ = false;
  std::uint64_t recorded_ = 0;
  std::uint64_t replayed_ = 0;
  std::uint64_t until_unknown_ = 0;                           // products up to the last unknown one
  std::unordered_map<Key, std::uint64_t> replayed_in_a_row_;  // how often each, since that one
  std::uint64_t mismatches_ = 0;

  std::ofstream step_log_;
  // The product that a step of the log begins with. Others may be there twice in a step, for
  // instance those of gradients that are all zero.
  Key first_of_step_ = 0;
  struct Mark {
    Time time;
    double cpu_s = 0;
    DeviceTimeline::Busy busy;
    std::uint64_t products = 0;
    std::uint64_t mismatches = 0;
  };
  std::optional<Mark> mark_;
};

}  // namespace tempo::lab
