#include "base/random.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace tempo {
namespace {
constexpr std::size_t kBufferBytes = std::size_t{64} << 10;
}

SystemRandom::SystemRandom() : buffer_(kBufferBytes), used_(kBufferBytes) {}

SystemRandom::~SystemRandom() {
  wipe(buffer_.data(), buffer_.size());
}

void SystemRandom::fill(std::span<std::byte> out) {
  while (!out.empty()) {
    if (used_ == buffer_.size()) {
      TEMPO_ASSERT(RAND_priv_bytes(reinterpret_cast<unsigned char*>(buffer_.data()),
                                   static_cast<int>(buffer_.size())) == 1);
      used_ = 0;
    }
    const std::size_t n = std::min(out.size(), buffer_.size() - used_);
    std::memcpy(out.data(), buffer_.data() + used_, n);
    wipe(buffer_.data() + used_, n);
    used_ += n;
    out = out.subspan(n);
  }
}

std::uint32_t random_u32(RandomSource& random) {
  std::uint32_t value = 0;
  random.fill(std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

std::uint64_t random_u64(RandomSource& random) {
  std::uint64_t value = 0;
  random.fill(std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

std::uint32_t random_below(RandomSource& random, std::uint32_t bound) {
  TEMPO_ASSERT(bound >= 1);
  std::uint64_t product = std::uint64_t{random_u32(random)} * bound;
  if (static_cast<std::uint32_t>(product) < bound) {
    const std::uint32_t threshold = (0U - bound) % bound;
    while (static_cast<std::uint32_t>(product) < threshold) {
      product = std::uint64_t{random_u32(random)} * bound;
    }
  }
  return static_cast<std::uint32_t>(product >> 32);
}

void random_permutation(RandomSource& random, std::span<std::uint32_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::uint32_t>(i);
  for (std::size_t i = out.size(); i > 1; --i) {
    std::swap(out[i - 1], out[random_below(random, static_cast<std::uint32_t>(i))]);
  }
}

void wipe(void* data, std::size_t bytes) {
  if (bytes != 0) OPENSSL_cleanse(data, bytes);
}

}  // namespace tempo
