// File: fuzz/fuzz_data.h
// What the fuzzers of data files share: files go through the product's own entry point, and what is
// accepted is read from end to end.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "enclave/train/batcher.h"
#include "enclave/train/load.h"
#include "enclave/train/normalisation.h"

namespace tempo::fuzz {

inline std::vector<std::byte> bytes_of(const std::uint8_t* data, std::size_t size) {
  std::vector<std::byte> bytes(size);
  std::transform(data, data + size, bytes.begin(), [](std::uint8_t b) { return std::byte{b}; });
  return bytes;
}

// Every sample, normalised and augmented, and every label or target of an accepted set.
inline void read_all(const Dataset& data) {
  if (data.empty()) return;
  static ThreadPool pool(1);
  const auto norm = make_normalisation({}, data, pool);
  TEMPO_ASSERT(norm.ok());
  const Augmentation augmentation{data.shape().image, data.shape().image};
  const auto batcher =
      Batcher::create(data, *norm, SampleLayout::kChannelsLast, augmentation, 1, pool);
  TEMPO_ASSERT(batcher.ok());
  std::vector<float> sample(static_cast<std::size_t>(data.shape().elements()));
  for (std::int64_t i = 0; i < data.size(); ++i) {
    const auto index = static_cast<std::uint32_t>(i);
    batcher->fill(std::span(&index, 1), 0, sample);
  }
  TEMPO_ASSERT(data.labels_a_sample() * data.size() == std::ssize(data.labels()));
  for (const std::int32_t label : data.labels()) TEMPO_ASSERT(label >= 0);
  std::vector<float> values(static_cast<std::size_t>(data.target_width()));
  for (std::int64_t i = 0; data.has_target_values() && i < data.size(); ++i) {
    data.copy_target_values(i, values.data());
    for (const float value : values) TEMPO_ASSERT(std::isfinite(value));
  }
}

inline void load(const char* format, std::vector<NamedFile> files) {
  DataSpec spec;
  spec.format = format;
  const auto data = load_datasets(spec, std::move(files));
  if (!data.ok()) {
    TEMPO_ASSERT(data.error().code == ErrorCode::kBadData);
    TEMPO_ASSERT(!data.error().one_line().empty());
    return;
  }
  read_all(data->train);
  read_all(data->test);
}

}  // namespace tempo::fuzz
