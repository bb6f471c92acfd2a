#include "enclave/train/normalisation.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <string>

namespace tempo {
namespace {

constexpr std::int64_t kSamplesPerChunk = 512;
constexpr double kUint8Scale = 1.0 / 255.0;

struct Sums {
  double sum = 0;
  double squares = 0;
};

// Sums of v - shift and of its square over one plane. With a value of the channel as shift, squares
// do not cancel, and a constant channel has exactly no variance: uint8 values are summed as whole
// numbers.
Sums plane_sums(const Dataset& data, std::int64_t sample, std::int64_t channel, double shift) {
  const auto plane = static_cast<std::size_t>(data.shape().height * data.shape().width);
  const std::byte* values =
      data.sample(sample) + static_cast<std::size_t>(channel) * plane * value_bytes(data.type());
  Sums sums;
  if (data.type() == ValueType::kUint8) {
    const std::int64_t whole_shift = std::llround(shift / kUint8Scale);
    std::int64_t sum = 0;
    std::int64_t squares = 0;  // a plane is smaller than 2^47 bytes: no overflow
    for (std::size_t i = 0; i < plane; ++i) {
      const std::int64_t d = std::to_integer<std::int64_t>(values[i]) - whole_shift;
      sum += d;
      squares += d * d;
    }
    sums.sum = static_cast<double>(sum) * kUint8Scale;
    sums.squares = static_cast<double>(squares) * kUint8Scale * kUint8Scale;
  } else {
    for (std::size_t i = 0; i < plane; ++i) {
      float v;
      std::memcpy(&v, values + i * sizeof(float), sizeof(float));
      const double d = static_cast<double>(v) - shift;
      sums.sum += d;
      sums.squares += d * d;
    }
  }
  return sums;
}

double first_value(const Dataset& data, std::int64_t channel) {
  const std::size_t at =
      static_cast<std::size_t>(channel * data.shape().height * data.shape().width) *
      value_bytes(data.type());
  if (data.type() == ValueType::kUint8) {
    return std::to_integer<int>(data.sample(0)[at]) * kUint8Scale;
  }
  float v;
  std::memcpy(&v, data.sample(0) + at, sizeof(float));
  return static_cast<double>(v);
}

void moments_of(const Dataset& data, std::int64_t channel, ThreadPool& pool, float& mean,
                float& deviation) {
  const double plane = static_cast<double>(data.shape().height * data.shape().width);
  const double shift = first_value(data, channel);
  const std::int64_t chunks = (data.size() + kSamplesPerChunk - 1) / kSamplesPerChunk;
  std::vector<Sums> partial(static_cast<std::size_t>(chunks));
  pool.parallel_for(data.size(), kSamplesPerChunk, [&](std::int64_t begin, std::int64_t end) {
    Sums& sums = partial[static_cast<std::size_t>(begin / kSamplesPerChunk)];
    for (std::int64_t i = begin; i < end; ++i) {
      const Sums one = plane_sums(data, i, channel, shift);
      sums.sum += one.sum;
      sums.squares += one.squares;
    }
  });
  Sums total;
  for (const Sums& sums : partial) {
    total.sum += sums.sum;
    total.squares += sums.squares;
  }
  const double count = plane * static_cast<double>(data.size());
  const double offset = total.sum / count;
  const double variance = total.squares / count - offset * offset;
  mean = static_cast<float>(shift + offset);
  deviation = variance > 0 ? static_cast<float>(std::sqrt(variance)) : 0;
  // Not finite: float32 values near their limit.
  if (!(deviation >= kMinDeviation) || !std::isfinite(deviation)) deviation = 1;
}

Status expand(const std::vector<float>& given, std::size_t channels, const char* what,
              bool positive, std::vector<float>& out) {
  if (given.size() != 1 && given.size() != channels) {
    return Error{ErrorCode::kUsage,
                 std::string("wrong number of values for ") + what,
                 what,
                 channels == 1 ? "1" : "1 or " + std::to_string(channels),
                 std::to_string(given.size()),
                 "give one value a channel, or leave mean and deviation out"};
  }
  for (const float v : given) {
    if (!std::isfinite(v) || (positive && !(v >= kMinDeviation))) {
      return Error{ErrorCode::kUsage,
                   std::string("value out of range for ") + what,
                   what,
                   positive ? "finite numbers of at least 1e-12" : "finite numbers",
                   std::to_string(v),
                   "correct it, or leave mean and deviation out"};
    }
  }
  out = given.size() == channels ? given : std::vector<float>(channels, given[0]);
  return {};
}

}  // namespace

Result<Normalisation> make_normalisation(const DataSpec& spec, const Dataset& data,
                                         ThreadPool& pool) {
  const auto channels = static_cast<std::size_t>(data.shape().channels);
  Normalisation result;
  if (data.type() == ValueType::kInt32) {  // tokens are no quantities
    result.mean.assign(channels, 0);
    result.deviation.assign(channels, 1);
    result.origin = "none";
    return result;
  }
  if (!spec.mean.empty() || !spec.deviation.empty()) {
    TEMPO_RETURN_IF_ERROR(expand(spec.mean, channels, "mean", false, result.mean));
    TEMPO_RETURN_IF_ERROR(expand(spec.deviation, channels, "deviation", true, result.deviation));
    result.origin = "given";
    return result;
  }
  TEMPO_ASSERT(!data.empty());
  result.mean.resize(channels);
  result.deviation.resize(channels);
  for (std::size_t c = 0; c < channels; ++c) {
    moments_of(data, static_cast<std::int64_t>(c), pool, result.mean[c], result.deviation[c]);
  }
  result.origin = data.source();
  return result;
}

std::string numbers_text(const std::vector<float>& values) {
  std::string text;
  for (const float value : values) {
    std::array<char, 32> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value);
    if (!text.empty()) text += ',';
    text.append(digits.data(), end.ptr);
  }
  return text;
}

Result<std::vector<float>> parse_numbers(const std::string& text, const char* key) {
  std::vector<float> values;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (values.empty() || at != end) {
    if (!values.empty() && *at++ != ',') break;
    float value = 0;
    const auto parsed = std::from_chars(at, end, value);
    if (parsed.ec != std::errc()) break;
    values.push_back(value);
    at = parsed.ptr;
    if (at == end) return values;
  }
  return Error{ErrorCode::kBadModel,
               "metadata of the model is damaged",
               key,
               "numbers with commas between them",
               text.substr(0, 64),
               "give --mean and --std"};
}

}  // namespace tempo
