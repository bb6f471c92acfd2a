// File: enclave/train/batcher.h
// Turns samples into the model's input: order, augmentation, normalisation, layout. Everything
// random is a function of (seed, epoch, sample number), so that any epoch can be repeated.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "enclave/train/dataset.h"
#include "enclave/train/normalisation.h"

namespace tempo {

// The order of an epoch: a permutation of 0 .. count-1 (Durstenfeld's Fisher-Yates over Philox).
// count < 2^31.
std::vector<std::uint32_t> epoch_order(std::uint64_t seed, std::uint32_t epoch, std::int64_t count);

struct Augmentation {
  bool crop = false;  // pad by kCropPadding on every side with stored zeros, cut the old size out
  bool flip = false;  // mirror left to right, every other time
};
inline constexpr int kCropPadding = 4;

// What happens to one sample in one epoch: the offset of the cut, -kCropPadding .. kCropPadding,
// and the mirroring, which comes after it.
struct AugmentChoice {
  int offset_y = 0;
  int offset_x = 0;
  bool flip = false;
};
AugmentChoice augment_choice(const Augmentation& augmentation, std::uint64_t seed,
                             std::uint32_t epoch, std::uint32_t sample);

// How the model wants a sample: images channels last (an input of rank 4), or rows of values in
// stored order (rank 2).
enum class SampleLayout { kChannelsLast, kRows };

// `data` and `pool` must outlive it. One thread at a time.
class Batcher {
 public:
  // Errors: kUsage when images are to be cropped or mirrored and the data has none.
  static Result<Batcher> create(const Dataset& data, const Normalisation& normalisation,
                                SampleLayout layout, const Augmentation& augmentation,
                                std::uint64_t seed, ThreadPool& pool);

  std::int64_t sample_elements() const { return data_->shape().elements(); }

  // Writes samples one after the other. Preconditions: every number is below the data's size;
  // out.size() >= samples.size() * sample_elements(). What lies behind the samples is zeroed.
  void fill(std::span<const std::uint32_t> samples, std::uint32_t epoch,
            std::span<float> out) const;
  // The same, integers as they are. Precondition: the data are no float32.
  void fill_ints(std::span<const std::uint32_t> samples, std::span<std::int64_t> out) const;

 private:
  Batcher() = default;
  void write_sample(std::uint32_t sample, const AugmentChoice& choice, float* out) const;

  const Dataset* data_ = nullptr;
  ThreadPool* pool_ = nullptr;
  SampleLayout layout_ = SampleLayout::kRows;
  Augmentation augmentation_;
  std::uint64_t seed_ = 0;
  std::vector<float> mean_;
  std::vector<float> inverse_deviation_;
};

}  // namespace tempo
