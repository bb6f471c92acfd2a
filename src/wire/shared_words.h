// File: wire/shared_words.h
// Access to memory that a hostile process may change at any time.
//
// Rule for readers: copy in once, then use the private copy only. All accesses here are aligned
// 8-byte words: a partial word would expose stale processor buffers to or from an enclave
// (INTEL-SA-00615 for writes, INTEL-SA-00657 for reads). Encoded payloads are written elsewhere
// (obfuscation/kernels.h), with partial words at the ends of rows: see docs/security.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tempo {

inline constexpr std::size_t kWordBytes = sizeof(std::uint64_t);

// Exactly one load or store of an 8-byte aligned word.
inline std::uint64_t load_word(const std::byte* shared) {
  return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(shared), __ATOMIC_RELAXED);
}
inline void store_word(std::byte* shared, std::uint64_t value) {
  __atomic_store_n(reinterpret_cast<std::uint64_t*>(shared), value, __ATOMIC_RELAXED);
}

// The same, ordered after and before everything else: for ring indexes and waiting flags.
inline std::uint64_t load_index(const std::byte* shared) {
  return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(shared), __ATOMIC_SEQ_CST);
}
inline void store_index(std::byte* shared, std::uint64_t value) {
  __atomic_store_n(reinterpret_cast<std::uint64_t*>(shared), value, __ATOMIC_SEQ_CST);
}

// Copies `bytes` out of shared memory: 8-byte aligned, readable up to the next multiple of 8.
inline void copy_in(void* destination, const std::byte* shared, std::size_t bytes) {
  auto* out = static_cast<std::byte*>(destination);
  std::size_t done = 0;
  for (; done + kWordBytes <= bytes; done += kWordBytes) {
    const std::uint64_t word = load_word(shared + done);
    std::memcpy(out + done, &word, kWordBytes);
  }
  if (done < bytes) {
    const std::uint64_t word = load_word(shared + done);
    std::memcpy(out + done, &word, bytes - done);
  }
}

// Copies into shared memory (8-byte aligned, writable up to the next multiple of 8), padding the
// last word with zeros.
inline void copy_out(std::byte* shared, const void* source, std::size_t bytes) {
  const auto* in = static_cast<const std::byte*>(source);
  std::size_t done = 0;
  for (; done + kWordBytes <= bytes; done += kWordBytes) {
    std::uint64_t word;
    std::memcpy(&word, in + done, kWordBytes);
    store_word(shared + done, word);
  }
  if (done < bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, in + done, bytes - done);
    store_word(shared + done, word);
  }
}

}  // namespace tempo
