#include "lab/replay_device.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <limits>
#include <new>
#include <utility>

#include "base/buffer.h"

namespace tempo::lab {
namespace {

using Clock = DeviceTimeline::Clock;

// splitmix64's finaliser.
std::uint64_t mix(std::uint64_t key, std::uint64_t word) {
  std::uint64_t z = key * 0x9e3779b97f4a7c15U + word;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

std::uint64_t fingerprint(const std::byte* host, std::uint32_t rows, std::uint32_t cols) {
  std::uint64_t key = mix(rows, cols);
  const std::uint64_t words = std::uint64_t{rows} * cols;
  const std::uint64_t count = std::min<std::uint64_t>(words, ReplayDevice::kFingerprintWords);
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint32_t word = 0;
    std::memcpy(&word, host + i * words / count * sizeof(word), sizeof(word));
    key = mix(key, word);
  }
  return key;
}

double process_cpu_s() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

class ReplayDevice::Matrix final : public DeviceMatrix {
 public:
  using DeviceMatrix::DeviceMatrix;
  Key key = 0;
  Values values;
  Time ready;
};

Result<std::unique_ptr<ReplayDevice>> ReplayDevice::open(const ReplayOptions& options) {
  std::fprintf(stderr,
               "TEMPO LAB PROGRAM: replay: results are remembered, times are modelled; this is a "
               "measuring instrument and protects nothing\n");
  auto model = read_device_model(options.model_path);
  if (!model) return model.error();
  if (options.has_real_link) {
    constexpr double kAtOnce = std::numeric_limits<double>::infinity();
    model->link_to_device_gb_s = model->link_from_device_gb_s = kAtOnce;
    model->link_latency_us = 0;
  }
  std::unique_ptr<ReplayDevice> device(new ReplayDevice(options, *model));
  if (options.step_log.empty()) return device;
  device->step_log_.open(options.step_log, std::ios::app);
  if (device->step_log_) return device;
  return Error{ErrorCode::kIo, "cannot write", options.step_log, "", "", ""};
}

ReplayDevice::ReplayDevice(const ReplayOptions& options, const DeviceModel& model)
    : options_(options), model_(model), cpu_(options.threads), timeline_(model) {}

ReplayDevice::~ReplayDevice() {
  spdlog::info("replay: {} products computed, {} replayed, {} mismatches", recorded_, replayed_,
               mismatches_);
}

std::unique_ptr<DeviceMatrix> ReplayDevice::allocate(std::uint32_t rows, std::uint32_t cols) {
  return std::make_unique<Matrix>(rows, cols);
}

std::unique_ptr<DeviceMatrix> ReplayDevice::allocate_values(std::uint32_t rows,
                                                            std::uint32_t cols) {
  auto values = cpu_.allocate(rows, cols);
  if (values == nullptr) throw std::bad_alloc();
  return values;
}

void ReplayDevice::upload(const std::byte* host, DeviceMatrix& matrix) {
  auto& held = static_cast<Matrix&>(matrix);
  held.ready = timeline_.arrives(Clock::now(), held.bytes());
  done_at_ = timeline_.returns(held.ready, 0);
  held.key = fingerprint(host, held.rows(), held.cols());
  if (const auto known = known_.find(held.key); known != known_.end()) {
    held.values = known->second;
    return;
  }
  auto values = allocate_values(held.rows(), held.cols());
  cpu_.upload(host, *values);
  held.values = std::move(values);
  remember(held.key, held.values);
}

void ReplayDevice::download(const DeviceMatrix& matrix, std::byte* host) {
  const auto& held = static_cast<const Matrix&>(matrix);
  done_at_ = timeline_.returns(held.ready, held.bytes());
  cpu_.download(*held.values, host);
}

void ReplayDevice::multiply(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                            Transpose trans_b, bool accumulate, DeviceMatrix& out) {
  const auto& left = static_cast<const Matrix&>(a);
  const auto& right = static_cast<const Matrix&>(b);
  auto& result = static_cast<Matrix&>(out);
  const std::uint64_t inner = trans_a == Transpose::kYes ? left.rows() : left.cols();
  const std::uint64_t transposes =
      (trans_a == Transpose::kYes ? 1U : 0U) + (trans_b == Transpose::kYes ? 2U : 0U);
  Key key = mix(mix(left.key, right.key), transposes);
  if (accumulate) key = mix(key, result.key);

  const Time arrived = timeline_.arrives(Clock::now(), 0);
  const bool is_known = known_.contains(key);
  if (is_known) {
    count_known(key);
    result.values = known_.find(key)->second;
  } else {
    count_unknown(result.rows(), result.cols(), inner);
    result.values = compute(left, trans_a, right, trans_b, accumulate ? &result : nullptr,
                            result.rows(), result.cols());
    remember(key, result.values);
  }
  result.key = key;
  Time ready = std::max({arrived, left.ready, right.ready});
  if (accumulate) ready = std::max(ready, result.ready);
  const double seconds = model_.product_s(result.rows(), inner, result.cols(), accumulate);
  result.ready = timeline_.computes(ready, seconds);
  done_at_ = timeline_.returns(result.ready, 0);
}

bool ReplayDevice::multiply_to_host(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                                    Transpose trans_b, std::byte* host) {
  Matrix out(trans_a == Transpose::kYes ? a.cols() : a.rows(),
             trans_b == Transpose::kYes ? b.rows() : b.cols());
  multiply(a, trans_a, b, trans_b, false, out);
  download(out, host);
  return true;
}

ReplayDevice::Values ReplayDevice::compute(const Matrix& a, Transpose trans_a, const Matrix& b,
                                           Transpose trans_b, const Matrix* sum, std::uint32_t rows,
                                           std::uint32_t cols) {
  auto values = allocate_values(rows, cols);
  if (sum != nullptr) {  // which may be remembered as it is
    AlignedBuffer<float> before(sum->elements());
    auto* bytes = reinterpret_cast<std::byte*>(before.data());
    cpu_.download(*sum->values, bytes);
    cpu_.upload(bytes, *values);
  }
  cpu_.multiply(*a.values, trans_a, *b.values, trans_b, sum != nullptr, *values);
  return values;
}

void ReplayDevice::remember(Key key, const Values& values) {
  if (is_complete_ || is_full_) return;
  if (known_bytes_ + values->bytes() > options_.limit_bytes) {
    is_full_ = true;
    spdlog::error("replay: a step is larger than the limit of {} bytes: the rest is computed",
                  options_.limit_bytes);
    return;
  }
  known_bytes_ += values->bytes();
  known_.emplace(key, values);
}

void ReplayDevice::count_known(Key key) {
  ++replayed_;
  if (is_complete_) {
    if (key == first_of_step_) end_of_step();
    return;
  }
  ++replayed_in_a_row_[key];
  if (recorded_ + replayed_ < 2 * until_unknown_) return;
  is_complete_ = true;
  const auto rarest =
      std::min_element(replayed_in_a_row_.begin(), replayed_in_a_row_.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  first_of_step_ = rarest->first;
  spdlog::info("replay: the recording is complete: {} products, {} MiB", recorded_,
               known_bytes_ >> 20);
}

void ReplayDevice::count_unknown(std::uint32_t rows, std::uint32_t cols, std::uint64_t inner) {
  replayed_in_a_row_.clear();
  ++recorded_;
  until_unknown_ = recorded_ + replayed_;
  if (!is_complete_) return;
  ++mismatches_;
  spdlog::error("replay: mismatch {}: a product of {} x {} x {} was not recorded: computed",
                mismatches_, rows, inner, cols);
}

void ReplayDevice::end_of_step() {
  const Mark now{Clock::now(), process_cpu_s(), timeline_.busy(), replayed_, mismatches_};
  if (mark_ && step_log_.is_open()) {
    const auto ms = [](double seconds) { return 1e3 * seconds; };
    step_log_ << fmt::format(
                     R"({{"wall_ms": {}, "products": {}, "mismatches": {}, "device_ms": {}, )"
                     R"("link_to_device_ms": {}, "link_from_device_ms": {}, )"
                     R"("bytes_to_device": {}, "bytes_from_device": {}, "worker_cpu_ms": {}}})",
                     ms(std::chrono::duration<double>(now.time - mark_->time).count()),
                     now.products - mark_->products, now.mismatches - mark_->mismatches,
                     ms(now.busy.device_s - mark_->busy.device_s),
                     ms(now.busy.to_device_s - mark_->busy.to_device_s),
                     ms(now.busy.from_device_s - mark_->busy.from_device_s),
                     now.busy.bytes_to_device - mark_->busy.bytes_to_device,
                     now.busy.bytes_from_device - mark_->busy.bytes_from_device,
                     ms(now.cpu_s - mark_->cpu_s))
              << std::endl;
  }
  mark_ = now;
}

}  // namespace tempo::lab
