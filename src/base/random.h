// File: base/random.h
// RandomSource: where keys, permutations and check vectors come from. The product has one
// implementation, SystemRandom (OpenSSL's private CSPRNG); tests and lab programs inject others.
// Not for what must be repeatable (shuffling, augmentation, dropout): that is base/philox.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tempo {

class RandomSource {
 public:
  virtual ~RandomSource() = default;
  virtual void fill(std::span<std::byte> out) = 0;
};

// Buffers RAND_priv_bytes; the buffer is wiped as it is used and at the end. Aborts the process
// when the CSPRNG fails: there is no safe way to go on. One thread at a time.
class SystemRandom final : public RandomSource {
 public:
  SystemRandom();
  ~SystemRandom() override;
  SystemRandom(const SystemRandom&) = delete;
  SystemRandom& operator=(const SystemRandom&) = delete;
  void fill(std::span<std::byte> out) override;

 private:
  std::vector<std::byte> buffer_;
  std::size_t used_;
};

std::uint32_t random_u32(RandomSource& random);
std::uint64_t random_u64(RandomSource& random);
// Uniform in [0, bound), without bias (Lemire's method with rejection). bound >= 1.
std::uint32_t random_below(RandomSource& random, std::uint32_t bound);
// A uniform permutation of 0 .. out.size()-1 (Durstenfeld's Fisher-Yates).
void random_permutation(RandomSource& random, std::span<std::uint32_t> out);
// Overwrites memory in a way that the compiler may not drop.
void wipe(void* data, std::size_t bytes);

}  // namespace tempo
