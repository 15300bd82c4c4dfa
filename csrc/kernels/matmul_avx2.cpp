// The int8 matmul in AVX2, exact: bytes are widened to int16 and multiplied by vpmaddwd, since
// vpmaddubsw saturates.
#include "simd_avx2.h"
// Simd first: the kernels are written in it.
#include "matmul_simd.h"

namespace torchquant::kernels {
namespace {

// 6 rows x 16 columns are 12 accumulators; 2 weights, 1 activation and 1 product fill the rest of
// the 16 registers.
constexpr int kRows = 6;
constexpr int64_t kActivationBytes = 2;
constexpr int64_t kProductsPerThread = int64_t{1} << 18;  // 75 per ns
constexpr int64_t kStep = 16;                             // activations laid out at a time

// 16 int16 with their quads in the order 0 2 1 3: a 16-bit shift splits 4 weight bytes into the
// pairs (0, 2) and (1, 3).
inline __m256i in_pairs(__m256i values) {
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1,
                                         4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
  return _mm256_shuffle_epi8(values, order);
}

inline __m256i widen(const void* bytes, bool is_signed) {
  const __m128i narrow = _mm_loadu_si128(static_cast<const __m128i*>(bytes));
  return is_signed ? _mm256_cvtepi8_epi16(narrow) : _mm256_cvtepu8_epi16(narrow);
}

inline void store_step(void* prepared, int64_t i, __m256i pairs) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at<int16_t>(prepared, i)), pairs);
}

// Lays out k values: pairs_of(from) gives those of 16 elements from `from` on. The last step reads
// a copy filled up with zeros and stores whole quads.
template <class T, class PairsOf>
inline void lay_out(const void* row, int64_t k, void* prepared, PairsOf pairs_of) {
  int64_t i = 0;
  for (; i + kStep <= k; i += kStep) store_step(prepared, i, pairs_of(at<T>(row, i)));
  if (i == k) return;
  T rest[kStep] = {};
  int16_t pairs[kStep];
  memcpy(rest, at<T>(row, i), static_cast<size_t>(k - i) * sizeof(T));
  store_step(pairs, 0, pairs_of(rest));
  const int64_t stored = (k - i + kQuad - 1) / kQuad * kQuad;
  memcpy(at<int16_t>(prepared, i), pairs, static_cast<size_t>(stored) * sizeof(int16_t));
}

void prepare_row(const void* row, bool is_signed, int64_t k, void* prepared) {
  lay_out<uint8_t>(row, k, prepared, [is_signed](const uint8_t* from) {
    return in_pairs(widen(from, is_signed));
  });
}

void quantize_row(const void* x, Float type, int64_t k, QuantizeParams params, void* prepared) {
  const __m256 inv_scale = Simd::all(params.inv_scale);
  const __m256 low = Simd::all(static_cast<float>(params.quant_min - params.zero_point));
  const __m256 high = Simd::all(static_cast<float>(params.quant_max - params.zero_point));
  const __m256i zero_point = Simd::all(params.zero_point);
  with_type(type, [&](auto element) {
    lay_out<decltype(element)>(x, k, prepared, [&](const auto* from) {
      const __m256i left =
          quantize_vector(Simd::load(from), inv_scale, low, high, zero_point);
      const __m256i right = quantize_vector(Simd::load(from + Simd::lanes), inv_scale, low, high,
                                            zero_point);
      const __m256i packed = _mm256_packs_epi32(left, right);  // within 128 bits: 0 2 1 3
      return in_pairs(_mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
    });
  });
}

QParams quantize_token(const void* x, Float type, int64_t k, void* prepared) {
  return quantize_token_with(quantize_row, x, type, k, prepared);
}

// Adds as written: left to itself GCC joins the products of a quad first, runs out of registers and
// spills every accumulator.
inline void accumulate(__m256i& sum, __m256i activations, __m256i weights) {
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(activations, weights));
  asm("" : "+x"(sum));
}

template <int R>
inline void add_products(const int16_t* const (&rows)[R], int64_t offset, __m256i left,
                         __m256i right, __m256i (&sums)[R][2]) {
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
    const __m256i pair = _mm256_set1_epi32(load_int32(rows[i] + offset));
    accumulate(sums[i][0], pair, left);
    accumulate(sums[i][1], pair, right);
  }
}

// The even or odd ones of 32 bytes, widened to int16.
inline __m256i odd_bytes(const int8_t* p) {
  return _mm256_srai_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 8);
}
inline __m256i even_bytes(const int8_t* p) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
}

template <int R>
void multiply_tile(const MatmulSpan& s, int64_t first_row, int64_t panel) {
  const int16_t* rows[R];
  __m256i sums[R][2];
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
    rows[i] = at<int16_t>(row_of(s, first_row + i), 0);
    sums[i][0] = sums[i][1] = _mm256_setzero_si256();
  }
  const int8_t* weight = panel_of(s, panel);
  for (int64_t quad = 0; quad < s.quads; ++quad, weight += kPanelRow) {
    const int8_t* right = weight + kPanelRow / 2;
    add_products<R>(rows, quad * kQuad, even_bytes(weight), even_bytes(right), sums);
    asm("" ::
            : "memory");  // the odd bytes are loaded again, not kept: there is no register for them
    add_products<R>(rows, quad * kQuad + 2, odd_bytes(weight), odd_bytes(right), sums);
  }
  int32_t stored[R][kPanel];
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
    Simd::store(stored[i], sums[i][0]);
    Simd::store(stored[i] + Simd::lanes, sums[i][1]);
  }
  finish_tile(s, {stored[0], kPanel, first_row, R, panel * kPanel, columns_of(s, panel, 1)});
}

using Tile = void (*)(const MatmulSpan&, int64_t first_row, int64_t panel);
constexpr Tile kTiles[kRows] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                multiply_tile<4>, multiply_tile<5>, multiply_tile<6>};

// A panel stays in L1 or L2 while all rows pass over it.
void multiply(const MatmulSpan& s) {
  for (int64_t panel = s.first_panel; panel < s.last_panel; ++panel) {
    for_each_row_block(s.rows, kRows,
                       [&](int64_t first, int64_t count) { kTiles[count - 1](s, first, panel); });
  }
}

}  // namespace

const MatmulKernels matmul_avx2 = {
    kActivationBytes, 0,        kProductsPerThread, prepare_row, quantize_row,
    quantize_token,   multiply, 0,                  nullptr};

}  // namespace torchquant::kernels
