#include <cstring>

#include "enclave/obfuscation/kernels.h"

namespace tempo {
namespace {

constexpr std::size_t kWordBytes = sizeof(std::uint64_t);

// A relaxed atomic load: the compiler may neither split, merge, widen nor repeat it.
inline std::uint64_t load_word(const std::byte* aligned) {
  return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(aligned), __ATOMIC_RELAXED);
}

inline void store_word(std::uint64_t word, float* out) {
  std::memcpy(out, &word, kWordBytes);
}

// One of the two floats of a word, in memory order.
inline void store_half(std::uint64_t word, std::size_t half, float* out) {
  std::byte bytes[kWordBytes];
  std::memcpy(bytes, &word, kWordBytes);
  std::memcpy(out, bytes + half * sizeof(float), sizeof(float));
}

}  // namespace

void copy_in(const std::byte* untrusted, std::size_t n, float* out) {
  if (n == 0) return;
  if (reinterpret_cast<std::uintptr_t>(untrusted) % kWordBytes != 0) {
    store_half(load_word(untrusted - sizeof(float)), 1, out);
    untrusted += sizeof(float);
    ++out;
    --n;
  }
  // Four words in flight: the compiler does not unroll atomic loads.
  const std::size_t words = n / 2;
  std::size_t w = 0;
  for (; w + 4 <= words; w += 4) {
    const std::byte* from = untrusted + w * kWordBytes;
    const std::uint64_t word0 = load_word(from);
    const std::uint64_t word1 = load_word(from + kWordBytes);
    const std::uint64_t word2 = load_word(from + 2 * kWordBytes);
    const std::uint64_t word3 = load_word(from + 3 * kWordBytes);
    store_word(word0, out + 2 * w);
    store_word(word1, out + 2 * w + 2);
    store_word(word2, out + 2 * w + 4);
    store_word(word3, out + 2 * w + 6);
  }
  for (; w < words; ++w) store_word(load_word(untrusted + w * kWordBytes), out + 2 * w);
  if (n % 2 != 0) store_half(load_word(untrusted + words * kWordBytes), 0, out + n - 1);
}

}  // namespace tempo
