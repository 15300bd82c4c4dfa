// Packing in AVX-512: where the bytes of a weight lie along one of its dimensions, whole vectors of
// them are transposed.
#include <immintrin.h>

#include "pack_simd.h"

namespace torchquant::kernels {
namespace {

inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

struct Transpose {
  static constexpr int64_t step = 64;  // bytes of a column

  // A transpose of 16 x 16 quads in four stages: within 128 bits, then of the 128-bit parts.
  static void columns(const int8_t* weight, int64_t column_stride, uint8_t flip, int8_t* rows) {
    const __m512i flips = _mm512_set1_epi8(static_cast<char>(flip));
    __m512i x[kPanel], y[kPanel];
#pragma GCC unroll 16
    for (int i = 0; i < kPanel; ++i) {
      x[i] = _mm512_xor_si512(_mm512_loadu_si512(weight + i * column_stride), flips);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPanel; i += 2) {
      y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
      y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPanel; i += 4) {
      x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
      x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
      x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
      x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    // x[4 g + r] holds quads r, r + 4, r + 8 and r + 12 of the columns 4 g to 4 g + 3.
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const __m512i low = _mm512_shuffle_i32x4(x[r], x[4 + r], 0x88);
      const __m512i low2 = _mm512_shuffle_i32x4(x[8 + r], x[12 + r], 0x88);
      const __m512i high = _mm512_shuffle_i32x4(x[r], x[4 + r], 0xdd);
      const __m512i high2 = _mm512_shuffle_i32x4(x[8 + r], x[12 + r], 0xdd);
      _mm512_storeu_si512(rows + r * kPanelRow, _mm512_shuffle_i32x4(low, low2, 0x88));
      _mm512_storeu_si512(rows + (r + 4) * kPanelRow, _mm512_shuffle_i32x4(high, high2, 0x88));
      _mm512_storeu_si512(rows + (r + 8) * kPanelRow, _mm512_shuffle_i32x4(low, low2, 0xdd));
      _mm512_storeu_si512(rows + (r + 12) * kPanelRow, _mm512_shuffle_i32x4(high, high2, 0xdd));
    }
  }

  // 4 rows of the depth, 16 columns each, to one row of a panel: a transpose of 4 x 4 quads over
  // the 128-bit parts, then one of 4 x 4 bytes within each.
  static void quad(const int8_t* weight, int64_t k_stride, uint8_t flip, int8_t* row) {
    const __m512i parts = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m512i x = _mm512_castsi128_si512(load128(weight));
    x = _mm512_inserti32x4(x, load128(weight + k_stride), 1);
    x = _mm512_inserti32x4(x, load128(weight + 2 * k_stride), 2);
    x = _mm512_inserti32x4(x, load128(weight + 3 * k_stride), 3);
    x = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(parts, x), bytes);
    const __m512i flips = _mm512_set1_epi8(static_cast<char>(flip));
    _mm512_storeu_si512(row, _mm512_xor_si512(x, flips));
  }
};

void pack(const int8_t* weight, int64_t column_stride, int64_t k_stride, int64_t columns, int64_t k,
          uint8_t flip, int8_t* panels) {
  pack_with<Transpose>(weight, column_stride, k_stride, columns, k, flip, panels);
}

void sum(const int8_t* panel, int64_t quads, int32_t* sums) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i totals = _mm512_setzero_si512();
  for (int64_t quad = 0; quad < quads; ++quad) {
    totals = _mm512_dpbusd_epi32(totals, ones, _mm512_loadu_si512(panel + quad * kPanelRow));
  }
  _mm512_storeu_si512(sums, totals);
}

void unpack(const int8_t* panel, int64_t columns, int64_t k, int8_t* weight) {
  pack_scalar.unpack(panel, columns, k, weight);
}

}  // namespace

const PackKernels pack_avx512 = {pack, sum, unpack};

}  // namespace torchquant::kernels
