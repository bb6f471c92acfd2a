#include "enclave/obfuscation/key.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace tempo {
namespace {

// Hands out another source's bytes in small pieces, drawn and wiped in large ones. A key draws two
// words an element, and a trip to the CSPRNG for each would cost more than the rest of it.
class BlockSource final : public RandomSource {
 public:
  // `expected_bytes`: what the caller will draw, give or take rejections.
  BlockSource(RandomSource& source, std::size_t expected_bytes)
      : source_(source), block_(std::clamp<std::size_t>(expected_bytes, 64, 4096)) {
    used_ = block_.size();
  }
  ~BlockSource() override { wipe(block_.data(), block_.size()); }
  BlockSource(const BlockSource&) = delete;
  BlockSource& operator=(const BlockSource&) = delete;

  void fill(std::span<std::byte> out) override {
    TEMPO_ASSERT(out.size() <= block_.size());
    if (out.size() > block_.size() - used_) {
      source_.fill(block_);
      used_ = 0;
    }
    if (out.size() == sizeof(std::uint32_t)) {  // the usual draw: a copy of known size is one move
      std::memcpy(out.data(), block_.data() + used_, sizeof(std::uint32_t));
    } else {
      std::memcpy(out.data(), block_.data() + used_, out.size());
    }
    used_ += out.size();
  }

 private:
  RandomSource& source_;
  std::vector<std::byte> block_;
  std::size_t used_ = 0;
};

// Uniform in [0, 1), all 53 bits.
double random_unit(RandomSource& random) {
  return static_cast<double>(random_u64(random) >> 11) * 0x1p-53;
}

float random_coefficient(RandomSource& random, const CoefficientSpace& space) {
  const double range = space.range;
  if (space.real) {
    return std::clamp(static_cast<float>(std::exp(random_unit(random) * std::log(range))), 1.0F,
                      static_cast<float>(range));
  }
  return static_cast<float>(1.0 + random_below(random, space.range));
}

template <class T>
void wipe_vector(std::vector<T>& values) {
  wipe(values.data(), values.size() * sizeof(T));
}

AxisKey sized_key(std::size_t size) {
  TEMPO_ASSERT(size >= 1 && size <= UINT32_MAX);
  AxisKey key;
  key.permutation.resize(size);
  key.inverse.resize(size);
  key.coefficient.resize(size, 1.0F);
  key.reciprocal.resize(size, 1.0F);
  return key;
}

}  // namespace

AxisKey AxisKey::generate(RandomSource& random, std::size_t size, const CoefficientSpace& space) {
  TEMPO_ASSERT(space.range >= 1);
  AxisKey key = sized_key(size);
  BlockSource block(random, size * 2 * sizeof(std::uint32_t));
  random_permutation(block, key.permutation);
  for (std::size_t i = 0; i < size; ++i) {
    key.inverse[key.permutation[i]] = static_cast<std::uint32_t>(i);
    key.coefficient[i] = random_coefficient(block, space);
    key.reciprocal[i] = 1.0F / key.coefficient[i];
  }
  return key;
}

AxisKey::~AxisKey() {
  wipe_vector(permutation);
  wipe_vector(inverse);
  wipe_vector(coefficient);
  wipe_vector(reciprocal);
  wipe_vector(subset);
}

// Both assignments leave the old key to a temporary, whose destructor wipes it.
AxisKey& AxisKey::operator=(const AxisKey& other) {
  AxisKey copy(other);
  swap(copy);
  return *this;
}

AxisKey& AxisKey::operator=(AxisKey&& other) noexcept {
  AxisKey moved(std::move(other));
  swap(moved);
  return *this;
}

void AxisKey::swap(AxisKey& other) noexcept {
  permutation.swap(other.permutation);
  inverse.swap(other.inverse);
  coefficient.swap(other.coefficient);
  reciprocal.swap(other.reciprocal);
  subset.swap(other.subset);
}

std::vector<std::vector<std::uint32_t>> deal_indices(RandomSource& random,
                                                     const std::vector<std::size_t>& sizes) {
  std::vector<std::uint32_t> order(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}));
  BlockSource block(random, order.size() * sizeof(std::uint32_t));
  random_permutation(block, order);
  std::vector<std::vector<std::uint32_t>> parts;
  auto next = order.begin();
  for (const std::size_t size : sizes) {
    const auto end = next + static_cast<std::ptrdiff_t>(size);
    parts.emplace_back(next, end);
    std::sort(parts.back().begin(), parts.back().end());
    next = end;
  }
  wipe_vector(order);
  return parts;
}

KeyTriple KeyTriple::generate(RandomSource& random, std::size_t m, std::size_t n, std::size_t p,
                              const CoefficientSpace& space) {
  return {AxisKey::generate(random, m, space), AxisKey::generate(random, n, space),
          AxisKey::generate(random, p, space)};
}

const AxisKey& KeyTriple::shifted(int phi, int i) const {
  TEMPO_ASSERT(phi >= 0 && i >= 0);
  const std::array<const AxisKey*, 3> keys = {&m, &n, &p};
  return *keys[static_cast<std::size_t>(i + phi) % keys.size()];
}

}  // namespace tempo
