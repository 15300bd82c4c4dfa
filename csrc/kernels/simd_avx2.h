// 8 lanes of float32 and int32, and 4 of float64, in AVX2: what the *_simd.h kernels are written
// in.
#pragma once

#include <immintrin.h>

#include "element.h"

namespace torchquant::kernels {
namespace {

struct Simd {
  static constexpr int64_t lanes = 8;
  using F = __m256;
  using I = __m256i;

  static F all(float x) { return _mm256_set1_ps(x); }
  static I all(int32_t x) { return _mm256_set1_epi32(x); }

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const Half* p) { return _mm256_cvtph_ps(load128(p)); }
  static F load(const BFloat16* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
  }
  static I load(const int8_t* p) { return _mm256_cvtepi8_epi32(load64(p)); }
  static I load(const uint8_t* p) { return _mm256_cvtepu8_epi32(load64(p)); }
  static I load(const int16_t* p) { return _mm256_cvtepi16_epi32(load128(p)); }
  static I load(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static I load(const uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }

  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void store(Half* p, F x) { store128(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
  static void store(BFloat16* p, F x) { store128(p, low_halves(bfloat16_bits(x))); }
  static void store(uint32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static void store(int32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  // Codes lie in the range of their type: saturating packs do not change them.
  static void store(int16_t* p, I q) { store128(p, pack16(q)); }
  static void store(int8_t* p, I q) {
    const __m128i half = pack16(q);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(half, half));
  }
  static void store(uint8_t* p, I q) {
    const __m128i half = pack16(q);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(half, half));
  }

  // Four vectors, where narrow codes fill one: packs works by 128 bits, the permutation mends it.
  template <class T, class V>
  static void store(T* p, V a, V b, V c, V d) {
    store(p, a);
    store(p + lanes, b);
    store(p + 2 * lanes, c);
    store(p + 3 * lanes, d);
  }
  static void store(int8_t* p, I a, I b, I c, I d) {
    store256(p, in_order(_mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d))));
  }
  static void store(uint8_t* p, I a, I b, I c, I d) {
    store256(p, in_order(_mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d))));
  }

  // The first `count` elements, fewer than a vector; the lanes beyond are zero. Only 32 bits have
  // masked instructions here, others go through a buffer.
  static F load_first(const float* p, int64_t count) { return _mm256_maskload_ps(p, first(count)); }
  static I load_first(const int32_t* p, int64_t count) {
    return _mm256_maskload_epi32(reinterpret_cast<const int*>(p), first(count));
  }
  static I load_first(const uint32_t* p, int64_t count) {
    return _mm256_maskload_epi32(reinterpret_cast<const int*>(p), first(count));
  }
  template <class T>
  static auto load_first(const T* p, int64_t count) {
    T whole[lanes] = {};
    memcpy(whole, p, static_cast<size_t>(count) * sizeof(T));
    return load(whole);
  }
  static void store_first(float* p, F x, int64_t count) { _mm256_maskstore_ps(p, first(count), x); }
  static void store_first(int32_t* p, I x, int64_t count) {
    _mm256_maskstore_epi32(reinterpret_cast<int*>(p), first(count), x);
  }
  static void store_first(uint32_t* p, I x, int64_t count) {
    _mm256_maskstore_epi32(reinterpret_cast<int*>(p), first(count), x);
  }
  template <class T, class V>
  static void store_first(T* p, V x, int64_t count) {
    T whole[lanes];
    store(whole, x);
    memcpy(p, whole, static_cast<size_t>(count) * sizeof(T));
  }
  // Its first `count` lanes, and those of `rest` beyond.
  static F first_of(F x, int64_t count, F rest) {
    return _mm256_blendv_ps(rest, x, _mm256_castsi256_ps(first(count)));
  }

  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F subtract(F a, F b) { return _mm256_sub_ps(a, b); }
  static F multiply(F a, F b) { return _mm256_mul_ps(a, b); }
  static F divide(F a, F b) { return _mm256_div_ps(a, b); }
  // Where x is NaN the bound is the result, as maxps and minps define it.
  static F at_least(F x, F bound) { return _mm256_max_ps(x, bound); }
  static F at_most(F x, F bound) { return _mm256_min_ps(x, bound); }
  static I add(I a, I b) { return _mm256_add_epi32(a, b); }
  static I subtract(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I multiply(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static I smaller(I a, I b) { return _mm256_min_epi32(a, b); }
  static I larger(I a, I b) { return _mm256_max_epi32(a, b); }
  static I magnitude_bits(F x) { return _mm256_and_si256(_mm256_castps_si256(x), all(0x7fffffff)); }
  static I smaller_unsigned(I a, I b) { return _mm256_min_epu32(a, b); }
  static I larger_unsigned(I a, I b) { return _mm256_max_epu32(a, b); }
  // Of the lanes, none of which is NaN.
  static float least(F x) {
    return fold(x, [](__m128 a, __m128 b) { return _mm_min_ps(a, b); });
  }
  static float greatest(F x) {
    return fold(x, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
  }
  static uint32_t least_unsigned(I x) {
    return fold(x, [](__m128i a, __m128i b) { return _mm_min_epu32(a, b); });
  }
  static uint32_t greatest_unsigned(I x) {
    return fold(x, [](__m128i a, __m128i b) { return _mm_max_epu32(a, b); });
  }
  // To nearest even, as rintf: the rounding mode of the thread, which nobody changes.
  static I round_to_int(F x) { return _mm256_cvtps_epi32(x); }
  static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  // Comparisons, false for NaN, and choices by them.
  using Mask = __m256;
  static Mask is_less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask is_between(F x, F low, F high) {
    return _mm256_and_ps(_mm256_cmp_ps(low, x, _CMP_LE_OQ), _mm256_cmp_ps(x, high, _CMP_LE_OQ));
  }
  static F where(Mask condition, F x, F otherwise) {
    return _mm256_blendv_ps(otherwise, x, condition);
  }
  // float(q - zero_point) where the difference may not fit int32: exact in double, rounded once.
  static F wide_difference(I q, I zero_point) {
    const __m128 low = difference(_mm256_castsi256_si128(q), _mm256_castsi256_si128(zero_point));
    const __m128 high =
        difference(_mm256_extracti128_si256(q, 1), _mm256_extracti128_si256(zero_point, 1));
    return _mm256_set_m128(high, low);
  }

  static constexpr int64_t double_lanes = 4;
  using D = __m256d;
  static D zero() { return _mm256_setzero_pd(); }
  static D load_doubles(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static D load_doubles(const double* p) { return _mm256_loadu_pd(p); }
  static D load_doubles(const Half* p) { return _mm256_cvtps_pd(_mm_cvtph_ps(load64(p))); }
  static D load_doubles(const BFloat16* p) {
    const __m128i bits = _mm_slli_epi32(_mm_cvtepu16_epi32(load64(p)), 16);
    return _mm256_cvtps_pd(_mm_castsi128_ps(bits));
  }
  static D low_doubles(F x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
  static D high_doubles(F x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
  static void store(double* p, D x) { _mm256_storeu_pd(p, x); }
  static D add(D a, D b) { return _mm256_add_pd(a, b); }
  static D subtract(D a, D b) { return _mm256_sub_pd(a, b); }
  static D multiply(D a, D b) { return _mm256_mul_pd(a, b); }
  static D larger(D a, D b) { return _mm256_max_pd(a, b); }
  static D magnitude(D x) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x); }

 private:
  template <class Two>
  static float fold(F x, Two two) {
    __m128 y = two(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = two(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(two(y, _mm_shuffle_ps(y, y, 1)));
  }
  template <class Two>
  static uint32_t fold(I x, Two two) {
    __m128i y = two(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = two(y, _mm_shuffle_epi32(y, 0b1110));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(two(y, _mm_shuffle_epi32(y, 1))));
  }
  static I first(int64_t count) {
    const I index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(all(static_cast<int32_t>(count)), index);
  }
  static I in_order(I packed) {
    return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static __m128i load64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
  static __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static void store128(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
  static void store256(void* p, I x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  static __m128i pack16(I q) {
    return _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  }
  static __m128i low_halves(I x) {
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }
  static I bfloat16_bits(F x) {
    const I bits = _mm256_castps_si256(x);
    const I odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), all(1));
    const I rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, all(0x7fff))), 16);
    const I is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, all(0x7fc0), is_nan);
  }
  static __m128 difference(__m128i q, __m128i zero_point) {
    return _mm256_cvtpd_ps(_mm256_sub_pd(_mm256_cvtepi32_pd(q), _mm256_cvtepi32_pd(zero_point)));
  }
};

}  // namespace
}  // namespace torchquant::kernels
