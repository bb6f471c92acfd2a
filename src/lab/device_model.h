// File: lab/device_model.h
// When an accelerator that is not there would have done what it is given: a device with one queue,
// behind a link with a direction each way. Nothing is measured and nobody waits here. Times in
// seconds, sizes in bytes. For experiments and tests; never part of a product program.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace tempo::lab {

struct DeviceModel {
  double tflops = 0;               // of dense fp32 products, 10^12 a second
  double memory_gb_s = 0;          // 10^9 bytes a second
  double launch_us = 0;            // a product, in the queue
  double link_to_device_gb_s = 0;  // payloads
  double link_from_device_gb_s = 0;
  double link_latency_us = 0;  // one way; the link carries other things meanwhile

  // rows x inner by inner x cols; every operand and the result cross the memory once, the result
  // twice when it is added to.
  double product_s(std::uint64_t rows, std::uint64_t inner, std::uint64_t cols,
                   bool accumulate) const;
};

// A TOML file with the members of DeviceModel as keys, all of them. Errors: kNotFound, kUsage.
Result<DeviceModel> read_device_model(const std::string& path);

// The course of one device. Calls come in the order of the tasks; `now` never falls.
class DeviceTimeline {
 public:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::time_point;

  explicit DeviceTimeline(const DeviceModel& model) : model_(model) {}

  // Something for the device sets out now. Gives when it has arrived; bytes: of its payload.
  Time arrives(Time now, std::uint64_t bytes);
  // A product whose task arrived at, and whose operands are there at, `ready`. Gives its end.
  Time computes(Time ready, double seconds);
  // Bytes of a result that was there at `ready` (0: only its completion). Gives when they are here.
  Time returns(Time ready, std::uint64_t bytes);

  // So far, in all.
  struct Busy {
    double to_device_s = 0, device_s = 0, from_device_s = 0;
    std::uint64_t bytes_to_device = 0, bytes_from_device = 0;
  };
  const Busy& busy() const { return busy_; }

 private:
  // Occupies what is free from `free` on, not before `from`.
  static Time occupy(Time& free, Time from, double seconds);
  Time::duration latency() const;

  const DeviceModel model_;
  Time to_device_free_, device_free_, from_device_free_;
  Busy busy_;
};

}  // namespace tempo::lab
