#include "lab/device_model.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>

#include "client/job_file.h"

namespace tempo::lab {
namespace {

DeviceTimeline::Time::duration to_duration(double seconds) {
  return std::chrono::duration_cast<DeviceTimeline::Time::duration>(
      std::chrono::duration<double>(seconds));
}

Error usage(const std::string& what, const std::string& where, const std::string& expected,
            const std::string& got) {
  return {ErrorCode::kUsage, what, where, expected, got, ""};
}

}  // namespace

double DeviceModel::product_s(std::uint64_t rows, std::uint64_t inner, std::uint64_t cols,
                              bool accumulate) const {
  const auto m = static_cast<double>(rows);
  const auto k = static_cast<double>(inner);
  const auto n = static_cast<double>(cols);
  const double flops = 2 * m * k * n;
  const double bytes = sizeof(float) * (m * k + k * n + (accumulate ? 2 : 1) * m * n);
  return std::max(flops / (tflops * 1e12), bytes / (memory_gb_s * 1e9)) + launch_us * 1e-6;
}

Result<DeviceModel> read_device_model(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Error{ErrorCode::kNotFound, "no such file", path, "", "", ""};
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto entries = parse_job_file(text, path);
  if (!entries) return entries.error();

  DeviceModel model;
  std::map<std::string, double*> missing{
      {"tflops", &model.tflops},
      {"memory_gb_s", &model.memory_gb_s},
      {"launch_us", &model.launch_us},
      {"link_to_device_gb_s", &model.link_to_device_gb_s},
      {"link_from_device_gb_s", &model.link_from_device_gb_s},
      {"link_latency_us", &model.link_latency_us},
  };
  for (const JobFileEntry& entry : *entries) {
    const auto known = missing.find(entry.key);
    if (known == missing.end()) {
      return usage("no such key in a device model", path, "", entry.key);
    }
    const std::string& value = entry.values.front();
    const double number = std::strtod(value.c_str(), nullptr);
    const bool is_time = entry.key.ends_with("_us");  // may be nothing; rates may not
    if (entry.kind != JobFileEntry::Kind::kNumber || !std::isfinite(number) || number < 0 ||
        (number == 0 && !is_time)) {
      return usage("no such value in a device model", path + ": " + entry.key,
                   is_time ? "microseconds" : "a number above 0", value);
    }
    *known->second = number;
    missing.erase(known);
  }
  if (!missing.empty()) {
    return usage("a key is missing in a device model", path, missing.begin()->first, "");
  }
  return model;
}

DeviceTimeline::Time DeviceTimeline::occupy(Time& free, Time from, double seconds) {
  free = std::max(free, from) + to_duration(seconds);
  return free;
}

DeviceTimeline::Time::duration DeviceTimeline::latency() const {
  return to_duration(model_.link_latency_us * 1e-6);
}

DeviceTimeline::Time DeviceTimeline::arrives(Time now, std::uint64_t bytes) {
  const double seconds = static_cast<double>(bytes) / (model_.link_to_device_gb_s * 1e9);
  busy_.to_device_s += seconds;
  busy_.bytes_to_device += bytes;
  return occupy(to_device_free_, now, seconds) + latency();
}

DeviceTimeline::Time DeviceTimeline::computes(Time ready, double seconds) {
  busy_.device_s += seconds;
  return occupy(device_free_, ready, seconds);
}

DeviceTimeline::Time DeviceTimeline::returns(Time ready, std::uint64_t bytes) {
  const double seconds = static_cast<double>(bytes) / (model_.link_from_device_gb_s * 1e9);
  busy_.from_device_s += seconds;
  busy_.bytes_from_device += bytes;
  return occupy(from_device_free_, ready, seconds) + latency();
}

}  // namespace tempo::lab
