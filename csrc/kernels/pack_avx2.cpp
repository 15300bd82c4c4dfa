// Packing in AVX2: where the bytes of a weight lie along one of its dimensions, whole vectors of
// them are transposed.
#include <immintrin.h>

#include "pack_simd.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kHalf = 8;  // columns of a transpose

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void store128(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }

// 8 columns x 8 quads, to 8 rows of a panel's half.
inline void transpose_half(const int8_t* weight, int64_t column_stride, __m256i flip,
                           int8_t* rows) {
  __m256i x[kHalf], y[kHalf];
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) {
    x[i] = _mm256_xor_si256(load256(weight + i * column_stride), flip);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kHalf; i += 2) {
    y[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < kHalf; i += 4) {
    x[i] = _mm256_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm256_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm256_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm256_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kHalf / 2; ++i) {
    store256(rows + i * kPanelRow, _mm256_permute2x128_si256(x[i], x[i + 4], 0x20));
    store256(rows + (i + 4) * kPanelRow, _mm256_permute2x128_si256(x[i], x[i + 4], 0x31));
  }
}

struct Transpose {
  static constexpr int64_t step = 32;  // bytes of a column

  static void columns(const int8_t* weight, int64_t column_stride, uint8_t flip, int8_t* rows) {
    const __m256i flips = _mm256_set1_epi8(static_cast<char>(flip));
    transpose_half(weight, column_stride, flips, rows);
    transpose_half(weight + kHalf * column_stride, column_stride, flips, rows + kPanelRow / 2);
  }

  // 4 rows of the depth, 16 columns each, to one row of a panel.
  static void quad(const int8_t* weight, int64_t k_stride, uint8_t flip, int8_t* row) {
    const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
    __m128i x[kQuad];
#pragma GCC unroll 4
    for (int i = 0; i < kQuad; ++i) x[i] = _mm_xor_si128(load128(weight + i * k_stride), flips);
    const __m128i low = _mm_unpacklo_epi8(x[0], x[1]), low2 = _mm_unpacklo_epi8(x[2], x[3]);
    const __m128i high = _mm_unpackhi_epi8(x[0], x[1]), high2 = _mm_unpackhi_epi8(x[2], x[3]);
    store128(row, _mm_unpacklo_epi16(low, low2));
    store128(row + 16, _mm_unpackhi_epi16(low, low2));
    store128(row + 32, _mm_unpacklo_epi16(high, high2));
    store128(row + 48, _mm_unpackhi_epi16(high, high2));
  }
};

void pack(const int8_t* weight, int64_t column_stride, int64_t k_stride, int64_t columns, int64_t k,
          uint8_t flip, int8_t* panels) {
  pack_with<Transpose>(weight, column_stride, k_stride, columns, k, flip, panels);
}

// vpmaddubsw does not saturate where one side is ones: 2 * 128 at most.
void sum(const int8_t* panel, int64_t quads, int32_t* sums) {
  const __m256i one_bytes = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  __m256i left = _mm256_setzero_si256(), right = left;
  for (const int8_t* end = panel + quads * kPanelRow; panel != end; panel += kPanelRow) {
    const __m256i a = _mm256_maddubs_epi16(one_bytes, load256(panel));
    const __m256i b = _mm256_maddubs_epi16(one_bytes, load256(panel + kPanelRow / 2));
    left = _mm256_add_epi32(left, _mm256_madd_epi16(a, ones));
    right = _mm256_add_epi32(right, _mm256_madd_epi16(b, ones));
  }
  store256(sums, left);
  store256(sums + kHalf, right);
}

void unpack(const int8_t* panel, int64_t columns, int64_t k, int8_t* weight) {
  pack_scalar.unpack(panel, columns, k, weight);
}

}  // namespace

const PackKernels pack_avx2 = {pack, sum, unpack};

}  // namespace torchquant::kernels
