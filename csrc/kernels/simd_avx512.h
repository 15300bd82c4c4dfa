// 16 lanes of float32 and int32, and 8 of float64, in AVX-512: what the *_simd.h kernels are
// written in.
#pragma once

#include <immintrin.h>

#include "element.h"

namespace torchquant::kernels {
namespace {

struct Simd {
  static constexpr int64_t lanes = 16;
  using F = __m512;
  using I = __m512i;

  static F all(float x) { return _mm512_set1_ps(x); }
  static I all(int32_t x) { return _mm512_set1_epi32(x); }

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const Half* p) { return _mm512_cvtph_ps(load256(p)); }
  static F load(const BFloat16* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(p)), 16));
  }
  static I load(const int8_t* p) { return _mm512_cvtepi8_epi32(load128(p)); }
  static I load(const uint8_t* p) { return _mm512_cvtepu8_epi32(load128(p)); }
  static I load(const int16_t* p) { return _mm512_cvtepi16_epi32(load256(p)); }
  static I load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static I load(const uint32_t* p) { return _mm512_loadu_si512(p); }

  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store(Half* p, F x) { store256(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
  static void store(BFloat16* p, F x) { store256(p, _mm512_cvtepi32_epi16(bfloat16_bits(x))); }
  static void store(uint32_t* p, I x) { _mm512_storeu_si512(p, x); }
  static void store(int32_t* p, I x) { _mm512_storeu_si512(p, x); }
  // Codes lie in the range of their type: truncation does not change them.
  static void store(int16_t* p, I q) { store256(p, _mm512_cvtepi32_epi16(q)); }
  static void store(int8_t* p, I q) { store128(p, _mm512_cvtepi32_epi8(q)); }
  static void store(uint8_t* p, I q) { store128(p, _mm512_cvtepi32_epi8(q)); }

  // Four vectors, where narrow codes fill one: packs works by 128 bits, the permutation mends it.
  template <class T, class V>
  static void store(T* p, V a, V b, V c, V d) {
    store(p, a);
    store(p + lanes, b);
    store(p + 2 * lanes, c);
    store(p + 3 * lanes, d);
  }
  static void store(int8_t* p, I a, I b, I c, I d) {
    _mm512_storeu_si512(p, in_order(_mm512_packs_epi16(pack16(a, b), pack16(c, d))));
  }
  static void store(uint8_t* p, I a, I b, I c, I d) {
    _mm512_storeu_si512(p, in_order(_mm512_packus_epi16(pack16(a, b), pack16(c, d))));
  }

  // The first `count` elements, fewer than a vector; the lanes beyond are zero.
  static F load_first(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(first(count), p);
  }
  static F load_first(const Half* p, int64_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), p));
  }
  static F load_first(const BFloat16* p, int64_t count) {
    const I halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
  }
  static I load_first(const int8_t* p, int64_t count) {
    return _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(count), p));
  }
  static I load_first(const uint8_t* p, int64_t count) {
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), p));
  }
  static I load_first(const int16_t* p, int64_t count) {
    return _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(first(count), p));
  }
  static I load_first(const int32_t* p, int64_t count) {
    return _mm512_maskz_loadu_epi32(first(count), p);
  }
  static I load_first(const uint32_t* p, int64_t count) {
    return _mm512_maskz_loadu_epi32(first(count), p);
  }

  static void store_first(float* p, F x, int64_t count) {
    _mm512_mask_storeu_ps(p, first(count), x);
  }
  static void store_first(Half* p, F x, int64_t count) {
    _mm256_mask_storeu_epi16(p, first(count), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static void store_first(BFloat16* p, F x, int64_t count) {
    _mm256_mask_storeu_epi16(p, first(count), _mm512_cvtepi32_epi16(bfloat16_bits(x)));
  }
  static void store_first(uint32_t* p, I x, int64_t count) {
    _mm512_mask_storeu_epi32(p, first(count), x);
  }
  static void store_first(int32_t* p, I x, int64_t count) {
    _mm512_mask_storeu_epi32(p, first(count), x);
  }
  static void store_first(int16_t* p, I q, int64_t count) {
    _mm256_mask_storeu_epi16(p, first(count), _mm512_cvtepi32_epi16(q));
  }
  static void store_first(int8_t* p, I q, int64_t count) {
    _mm_mask_storeu_epi8(p, first(count), _mm512_cvtepi32_epi8(q));
  }
  static void store_first(uint8_t* p, I q, int64_t count) {
    _mm_mask_storeu_epi8(p, first(count), _mm512_cvtepi32_epi8(q));
  }
  // Its first `count` lanes, and those of `rest` beyond.
  static F first_of(F x, int64_t count, F rest) {
    return _mm512_mask_mov_ps(rest, first(count), x);
  }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F subtract(F a, F b) { return _mm512_sub_ps(a, b); }
  static F multiply(F a, F b) { return _mm512_mul_ps(a, b); }
  static F divide(F a, F b) { return _mm512_div_ps(a, b); }
  // Where x is NaN the bound is the result, as maxps and minps define it.
  static F at_least(F x, F bound) { return _mm512_max_ps(x, bound); }
  static F at_most(F x, F bound) { return _mm512_min_ps(x, bound); }
  static I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I subtract(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I multiply(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static I smaller(I a, I b) { return _mm512_min_epi32(a, b); }
  static I larger(I a, I b) { return _mm512_max_epi32(a, b); }
  static I magnitude_bits(F x) { return _mm512_and_si512(_mm512_castps_si512(x), all(0x7fffffff)); }
  static I smaller_unsigned(I a, I b) { return _mm512_min_epu32(a, b); }
  static I larger_unsigned(I a, I b) { return _mm512_max_epu32(a, b); }
  // Of the lanes, none of which is NaN.
  static float least(F x) { return _mm512_reduce_min_ps(x); }
  static float greatest(F x) { return _mm512_reduce_max_ps(x); }
  static uint32_t least_unsigned(I x) { return _mm512_reduce_min_epu32(x); }
  static uint32_t greatest_unsigned(I x) { return _mm512_reduce_max_epu32(x); }
  // To nearest even, as rintf: the rounding mode of the thread, which nobody changes.
  static I round_to_int(F x) { return _mm512_cvtps_epi32(x); }
  static F round(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  // Comparisons, false for NaN, and choices by them.
  using Mask = __mmask16;
  static Mask is_less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask is_between(F x, F low, F high) {
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(low, x, _CMP_LE_OQ), x, high, _CMP_LE_OQ);
  }
  static F where(Mask condition, F x, F otherwise) {
    return _mm512_mask_mov_ps(otherwise, condition, x);
  }
  // float(q - zero_point) where the difference may not fit int32: exact in double, rounded once.
  static F wide_difference(I q, I zero_point) {
    const __m256 low = difference(_mm512_castsi512_si256(q), _mm512_castsi512_si256(zero_point));
    const __m256 high =
        difference(_mm512_extracti64x4_epi64(q, 1), _mm512_extracti64x4_epi64(zero_point, 1));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  }

  static constexpr int64_t double_lanes = 8;
  using D = __m512d;
  static D zero() { return _mm512_setzero_pd(); }
  static D load_doubles(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
  static D load_doubles(const double* p) { return _mm512_loadu_pd(p); }
  static D load_doubles(const Half* p) { return _mm512_cvtps_pd(_mm256_cvtph_ps(load128(p))); }
  static D load_doubles(const BFloat16* p) {
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16);
    return _mm512_cvtps_pd(_mm256_castsi256_ps(bits));
  }
  static D low_doubles(F x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
  static D high_doubles(F x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
  static void store(double* p, D x) { _mm512_storeu_pd(p, x); }
  static D add(D a, D b) { return _mm512_add_pd(a, b); }
  static D subtract(D a, D b) { return _mm512_sub_pd(a, b); }
  static D multiply(D a, D b) { return _mm512_mul_pd(a, b); }
  static D larger(D a, D b) { return _mm512_max_pd(a, b); }
  static D magnitude(D x) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), x); }

 private:
  static __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
  static I pack16(I a, I b) { return _mm512_packs_epi32(a, b); }
  static I in_order(I packed) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), packed);
  }
  static __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static __m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static void store128(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
  static void store256(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  static I bfloat16_bits(F x) {
    const I bits = _mm512_castps_si512(x);
    const I odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), all(1));
    const I rounded =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, all(0x7fff))), 16);
    return _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), all(0x7fc0));
  }
  static __m256 difference(__m256i q, __m256i zero_point) {
    return _mm512_cvtpd_ps(_mm512_sub_pd(_mm512_cvtepi32_pd(q), _mm512_cvtepi32_pd(zero_point)));
  }
};

}  // namespace
}  // namespace torchquant::kernels
