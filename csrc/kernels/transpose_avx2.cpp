// Transposition by squares of 8 x 8 elements that stay in registers.
#include <immintrin.h>

#include "element.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kSquare = 8;

inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

inline void store128(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }

// Halves of rows r and r + 4, so that the shuffles, which work by 128 bits, do the rest.
inline void transpose_square(const uint32_t* from, int64_t from_stride, uint32_t* to,
                             int64_t to_stride) {
  __m256 half[8], pair[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float* low = at<float>(from, i * from_stride);
    const float* high = at<float>(from, (i + 4) * from_stride);
    half[i] = _mm256_set_m128(_mm_loadu_ps(high), _mm_loadu_ps(low));
    half[i + 4] = _mm256_set_m128(_mm_loadu_ps(high + 4), _mm_loadu_ps(low + 4));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    pair[i] = _mm256_unpacklo_ps(half[i], half[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(half[i], half[i + 1]);
    pair[i + 2] = _mm256_unpacklo_ps(half[i + 2], half[i + 3]);
    pair[i + 3] = _mm256_unpackhi_ps(half[i + 2], half[i + 3]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    float* rows = at<float>(to, i * to_stride);
    _mm256_storeu_ps(rows, _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44));
    _mm256_storeu_ps(rows + to_stride, _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee));
    _mm256_storeu_ps(rows + 2 * to_stride, _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44));
    _mm256_storeu_ps(rows + 3 * to_stride, _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee));
  }
}

inline void transpose_square(const uint16_t* from, int64_t from_stride, uint16_t* to,
                             int64_t to_stride) {
  __m128i pair[8], four[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m128i even = load128(from + 2 * i * from_stride);
    const __m128i odd = load128(from + (2 * i + 1) * from_stride);
    pair[i] = _mm_unpacklo_epi16(even, odd);
    pair[i + 4] = _mm_unpackhi_epi16(even, odd);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    four[i] = _mm_unpacklo_epi32(pair[i], pair[i + 1]);
    four[i + 1] = _mm_unpackhi_epi32(pair[i], pair[i + 1]);
    four[i + 2] = _mm_unpacklo_epi32(pair[i + 2], pair[i + 3]);
    four[i + 3] = _mm_unpackhi_epi32(pair[i + 2], pair[i + 3]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    uint16_t* rows = to + i * to_stride;
    store128(rows, _mm_unpacklo_epi64(four[i], four[i + 2]));
    store128(rows + to_stride, _mm_unpackhi_epi64(four[i], four[i + 2]));
    store128(rows + 2 * to_stride, _mm_unpacklo_epi64(four[i + 1], four[i + 3]));
    store128(rows + 3 * to_stride, _mm_unpackhi_epi64(four[i + 1], four[i + 3]));
  }
}

inline __m128i load64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }

inline void store_halves(uint8_t* to, int64_t to_stride, __m128i x) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), x);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to + to_stride), _mm_unpackhi_epi64(x, x));
}

inline void transpose_square(const uint8_t* from, int64_t from_stride, uint8_t* to,
                             int64_t to_stride) {
  __m128i pair[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pair[i] = _mm_unpacklo_epi8(load64(from + 2 * i * from_stride),
                                load64(from + (2 * i + 1) * from_stride));
  }
  const __m128i low[2] = {_mm_unpacklo_epi16(pair[0], pair[1]),
                          _mm_unpackhi_epi16(pair[0], pair[1])};
  const __m128i high[2] = {_mm_unpacklo_epi16(pair[2], pair[3]),
                           _mm_unpackhi_epi16(pair[2], pair[3])};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    uint8_t* rows = to + 4 * i * to_stride;
    store_halves(rows, to_stride, _mm_unpacklo_epi32(low[i], high[i]));
    store_halves(rows + 2 * to_stride, to_stride, _mm_unpackhi_epi32(low[i], high[i]));
  }
}

template <class T>
inline void transpose_rest(const T* from, int64_t from_stride, T* to, int64_t to_stride,
                           int64_t rows, int64_t columns) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      store(to, r * to_stride + c, load<T>(from, c * from_stride + r));
    }
  }
}

template <class T>
inline void transpose(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows,
                      int64_t columns) {
  const int64_t square_rows = rows - rows % kSquare;
  int64_t c = 0;
  for (; c + kSquare <= columns; c += kSquare) {
    for (int64_t r = 0; r < square_rows; r += kSquare) {
      transpose_square(from + c * from_stride + r, from_stride, to + r * to_stride + c, to_stride);
    }
    transpose_rest(from + c * from_stride + square_rows, from_stride,
                   to + square_rows * to_stride + c, to_stride, rows - square_rows, kSquare);
  }
  transpose_rest(from + c * from_stride, from_stride, to + c, to_stride, rows, columns - c);
}

void transpose_tile(const void* from, int64_t from_stride, void* to, int64_t to_stride,
                    int64_t rows, int64_t columns, int64_t size) {
  const auto with = [&](auto element) {
    using T = decltype(element);
    transpose(at<T>(from, 0), from_stride, at<T>(to, 0), to_stride, rows, columns);
  };
  if (size == 4) return with(uint32_t());
  if (size == 2) return with(uint16_t());
  with(uint8_t());
}

}  // namespace

const TransposeKernels transpose_avx2 = {transpose_tile};

}  // namespace torchquant::kernels
