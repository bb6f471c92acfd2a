// File: enclave/obfuscation/gather-inl.h
// Vector gathers of one row, compiled once a target. Measured on rows that lie in L1 (Zen 4, ns an
// element): vgatherdps 0.38 to 0.48, scalar loads through memory 0.34, lanes inserted one by one
// 0.25, a row held in registers 0.04. A gather g gives lane l of g(index) = row[index[l]].

// Included once a target; highway toggles HWY_TARGET_TOGGLE between inclusions.
#if defined(TEMPO_ENCLAVE_OBFUSCATION_GATHER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TEMPO_ENCLAVE_OBFUSCATION_GATHER_INL_H_
#undef TEMPO_ENCLAVE_OBFUSCATION_GATHER_INL_H_
#else
#define TEMPO_ENCLAVE_OBFUSCATION_GATHER_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tempo {
namespace HWY_NAMESPACE {

using GatherTag = hwy::HWY_NAMESPACE::ScalableTag<float>;
using GatherVec = hwy::HWY_NAMESPACE::Vec<GatherTag>;

// Any row.
class LaneGather {
 public:
  explicit LaneGather(const float* row) : row_(row) {}

  HWY_INLINE GatherVec operator()(const std::uint32_t* HWY_RESTRICT index) const {
#if HWY_TARGET == HWY_AVX3
    const __m512 low = _mm512_castps256_ps512(eight(index));
    return GatherVec{_mm512_insertf32x8(low, eight(index + 8), 1)};
#elif HWY_TARGET == HWY_AVX2
    return GatherVec{eight(index)};
#else
    const GatherTag d;
    HWY_ALIGN float lanes[HWY_LANES(float)];
    for (std::size_t i = 0; i < hwy::HWY_NAMESPACE::Lanes(d); ++i) lanes[i] = row_[index[i]];
    return hwy::HWY_NAMESPACE::Load(d, lanes);
#endif
  }

 private:
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  HWY_INLINE __m128 four(const std::uint32_t* i) const {
    return _mm_setr_ps(row_[i[0]], row_[i[1]], row_[i[2]], row_[i[3]]);
  }
  HWY_INLINE __m256 eight(const std::uint32_t* i) const {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(four(i)), four(i + 4), 1);
  }
#endif

  const float* row_;
};

#if HWY_TARGET == HWY_AVX3
// Rows of at most 32 * kTables elements, in 2 * kTables registers.
template <int kTables>
class RegisterGather {
 public:
  HWY_INLINE RegisterGather(const float* row, std::size_t n) {
    for (std::size_t t = 0; t < 2 * kTables; ++t) {
      const std::size_t left = n > 16 * t ? n - 16 * t : 0;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1U << left) - 1);
      // A pointer past the row's end would be undefined, even with an empty mask.
      table_[t] = mask == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, row + 16 * t);
    }
  }

  HWY_INLINE GatherVec operator()(const std::uint32_t* HWY_RESTRICT index) const {
    const __m512i i = _mm512_loadu_si512(index);
    __m512 value = _mm512_permutex2var_ps(table_[0], i, table_[1]);
    for (int t = 1; t < kTables; ++t) {
      const __mmask16 here = _mm512_cmpge_epu32_mask(i, _mm512_set1_epi32(32 * t));
      value = _mm512_mask_blend_ps(here, value,
                                   _mm512_permutex2var_ps(table_[2 * t], i, table_[2 * t + 1]));
    }
    return GatherVec{value};
  }

 private:
  __m512 table_[2 * kTables];
};
#endif  // HWY_TARGET == HWY_AVX3

}  // namespace HWY_NAMESPACE
}  // namespace tempo
HWY_AFTER_NAMESPACE();

#endif  // toggle
