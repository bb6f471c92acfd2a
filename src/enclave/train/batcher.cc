#include "enclave/train/batcher.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/philox.h"

namespace tempo {
namespace {

constexpr std::int64_t kSamplesPerChunk = 8;

// Uniform in [0, bound): the high word of a 64-bit product. The bias is below bound / 2^64.
std::uint32_t below(std::uint32_t bound, std::uint32_t high, std::uint32_t low) {
  // (high * 2^32 + low) * bound / 2^64, in 64-bit arithmetic.
  const std::uint64_t carry = (std::uint64_t{low} * bound) >> 32U;
  return static_cast<std::uint32_t>((std::uint64_t{high} * bound + carry) >> 32U);
}

float load_value(const std::byte* values, std::size_t i, ValueType type) {
  if (type == ValueType::kUint8) {
    return static_cast<float>(std::to_integer<int>(values[i])) * (1.0F / 255.0F);
  }
  float v;
  std::memcpy(&v, values + i * sizeof(float), sizeof(float));
  return v;
}

std::int32_t load_integer(const std::byte* values, std::size_t i, ValueType type) {
  if (type == ValueType::kUint8) return std::to_integer<std::int32_t>(values[i]);
  std::int32_t v;
  std::memcpy(&v, values + i * sizeof(v), sizeof(v));
  return v;
}

struct PixelMap {
  float mean;
  float inverse_deviation;
  float operator()(float v) const { return (v - mean) * inverse_deviation; }
};

// One row of one channel: out[x * step] for x in [0, width). `type` is a constant for the compiler.
template <ValueType type>
void write_row(const std::byte* row, const PixelMap& map, std::int64_t width, int offset, bool flip,
               float* out, std::int64_t step) {
  if (offset == 0 && !flip) {
    for (std::int64_t x = 0; x < width; ++x) {
      out[x * step] = map(load_value(row, static_cast<std::size_t>(x), type));
    }
    return;
  }
  for (std::int64_t x = 0; x < width; ++x) {
    const std::int64_t source = (flip ? width - 1 - x : x) + offset;
    const bool inside = source >= 0 && source < width;
    out[x * step] = map(inside ? load_value(row, static_cast<std::size_t>(source), type) : 0.0F);
  }
}

}  // namespace

std::vector<std::uint32_t> epoch_order(std::uint64_t seed, std::uint32_t epoch,
                                       std::int64_t count) {
  std::vector<std::uint32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0U);
  // One Philox block serves two draws.
  std::array<std::uint32_t, 4> words{};
  for (std::size_t i = order.size(); i-- > 1;) {
    const auto draw = static_cast<std::uint32_t>(order.size() - 1 - i);
    if (draw % 2 == 0) {
      words = philox4x32(seed,
                         {draw / 2, epoch, 0, static_cast<std::uint32_t>(PhiloxPurpose::kShuffle)});
    }
    const std::size_t at = draw % 2 * 2;
    std::swap(order[i], order[below(static_cast<std::uint32_t>(i + 1), words[at], words[at + 1])]);
  }
  return order;
}

AugmentChoice augment_choice(const Augmentation& augmentation, std::uint64_t seed,
                             std::uint32_t epoch, std::uint32_t sample) {
  AugmentChoice choice;
  if (!augmentation.crop && !augmentation.flip) return choice;
  const auto words =
      philox4x32(seed, {sample, epoch, 0, static_cast<std::uint32_t>(PhiloxPurpose::kAugment)});
  if (augmentation.crop) {
    constexpr std::uint32_t kOffsets = 2 * kCropPadding + 1;
    choice.offset_y = static_cast<int>(below(kOffsets, words[0], 0)) - kCropPadding;
    choice.offset_x = static_cast<int>(below(kOffsets, words[1], 0)) - kCropPadding;
  }
  choice.flip = augmentation.flip && (words[2] >> 31U) != 0;
  return choice;
}

Result<Batcher> Batcher::create(const Dataset& data, const Normalisation& normalisation,
                                SampleLayout layout, const Augmentation& augmentation,
                                std::uint64_t seed, ThreadPool& pool) {
  if ((augmentation.crop || augmentation.flip) && !data.shape().image) {
    return Error{ErrorCode::kUsage,
                 "only images can be cropped or mirrored",
                 data.source(),
                 "samples (N,C,H,W)",
                 data.shape().to_string(),
                 "leave crop and flip out"};
  }
  const auto channels = static_cast<std::size_t>(data.shape().channels);
  TEMPO_ASSERT(normalisation.mean.size() == channels && normalisation.deviation.size() == channels);
  Batcher batcher;
  batcher.data_ = &data;
  batcher.pool_ = &pool;
  batcher.layout_ = layout;
  batcher.augmentation_ = augmentation;
  batcher.seed_ = seed;
  batcher.mean_ = normalisation.mean;
  for (const float deviation : normalisation.deviation) {
    batcher.inverse_deviation_.push_back(1.0F / deviation);
  }
  return batcher;
}

void Batcher::write_sample(std::uint32_t sample, const AugmentChoice& choice, float* out) const {
  const SampleShape& shape = data_->shape();
  const std::byte* values = data_->sample(sample);
  const ValueType type = data_->type();
  const bool last = layout_ == SampleLayout::kChannelsLast;
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    const auto channel = static_cast<std::size_t>(c);
    const PixelMap map{mean_[channel], inverse_deviation_[channel]};
    for (std::int64_t y = 0; y < shape.height; ++y) {
      const std::int64_t source = y + choice.offset_y;
      const std::int64_t step = last ? shape.channels : 1;
      float* to = last ? out + y * shape.width * shape.channels + c
                       : out + (c * shape.height + y) * shape.width;
      if (source < 0 || source >= shape.height) {
        for (std::int64_t x = 0; x < shape.width; ++x) to[x * step] = map(0.0F);
        continue;
      }
      const std::byte* row =
          values +
          static_cast<std::size_t>((c * shape.height + source) * shape.width) * value_bytes(type);
      if (type == ValueType::kUint8) {
        write_row<ValueType::kUint8>(row, map, shape.width, choice.offset_x, choice.flip, to, step);
      } else {
        write_row<ValueType::kFloat32>(row, map, shape.width, choice.offset_x, choice.flip, to,
                                       step);
      }
    }
  }
}

void Batcher::fill(std::span<const std::uint32_t> samples, std::uint32_t epoch,
                   std::span<float> out) const {
  const auto elements = static_cast<std::size_t>(sample_elements());
  TEMPO_ASSERT(out.size() >= samples.size() * elements);
  pool_->parallel_for(
      static_cast<std::int64_t>(samples.size()), kSamplesPerChunk,
      [&](std::int64_t begin, std::int64_t end) {
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
          write_sample(samples[i], augment_choice(augmentation_, seed_, epoch, samples[i]),
                       out.data() + i * elements);
        }
      });
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(samples.size() * elements), out.end(), 0.0F);
}

void Batcher::fill_ints(std::span<const std::uint32_t> samples, std::span<std::int64_t> out) const {
  const auto elements = static_cast<std::size_t>(sample_elements());
  TEMPO_ASSERT(out.size() >= samples.size() * elements && data_->type() != ValueType::kFloat32);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const std::byte* values = data_->sample(samples[i]);
    for (std::size_t k = 0; k < elements; ++k) {
      out[i * elements + k] = load_integer(values, k, data_->type());
    }
  }
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(samples.size() * elements), out.end(), 0);
}

}  // namespace tempo
