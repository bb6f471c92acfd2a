#include "enclave/train/schedule.h"

#include <cmath>
#include <numbers>
#include <string>

namespace tempo {
namespace {

Error bad_value(const char* where, const char* expected, double got) {
  return {ErrorCode::kUsage,
          "the learning-rate schedule makes no sense",
          where,
          expected,
          std::to_string(got),
          "correct this value"};
}

}  // namespace

Status check_schedule(const ScheduleSpec& spec) {
  constexpr double kMaxEpochs = 1e6;
  if (!(spec.warmup_epochs >= 0 && spec.warmup_epochs <= kMaxEpochs)) {
    return bad_value("warm-up epochs", "0 or more", spec.warmup_epochs);
  }
  if (spec.step_epochs < 1) return bad_value("step epochs", "1 or more", spec.step_epochs);
  if (!(spec.step_gamma >= 0 && std::isfinite(spec.step_gamma))) {
    return bad_value("step gamma", "0 or more", spec.step_gamma);
  }
  if (!(spec.final_fraction >= 0 && spec.final_fraction <= 1)) {
    return bad_value("final fraction", "0 to 1", spec.final_fraction);
  }
  return {};
}

Schedule::Schedule(const ScheduleSpec& spec, double base_rate, std::int64_t steps_per_epoch,
                   std::int64_t epochs)
    : spec_(spec),
      base_rate_(base_rate),
      steps_per_epoch_(steps_per_epoch),
      warmup_steps_(static_cast<std::int64_t>(
          std::ceil(spec.warmup_epochs * static_cast<double>(steps_per_epoch)))),
      total_steps_(steps_per_epoch * epochs) {
  TEMPO_ASSERT(steps_per_epoch >= 1 && check_schedule(spec).ok());
}

double Schedule::rate(std::int64_t step) const {
  double rate = base_rate_;
  if (spec_.kind == ScheduleKind::kStep) {
    const std::int64_t drops = step / steps_per_epoch_ / spec_.step_epochs;
    rate *= std::pow(spec_.step_gamma, static_cast<double>(drops));
  }
  if (step < warmup_steps_) {
    return rate * static_cast<double>(step + 1) / static_cast<double>(warmup_steps_);
  }
  if (spec_.kind == ScheduleKind::kCosine && total_steps_ > warmup_steps_) {
    const double done = static_cast<double>(step - warmup_steps_) /
                        static_cast<double>(total_steps_ - warmup_steps_);
    const double wave = (1 + std::cos(std::numbers::pi * std::min(done, 1.0))) / 2;
    rate *= spec_.final_fraction + (1 - spec_.final_fraction) * wave;
  }
  return rate;
}

}  // namespace tempo
