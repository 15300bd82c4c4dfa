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
constexpr int64_t kProductsPerThread = int64_t{1} << 17;  // 75 per ns
constexpr int64_t kRowBlock = 192;                        // rows of sums that wait for the epilogue
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

inline __m256i load_step(const int16_t* from, int64_t i) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
}

inline void store_step(void* prepared, int64_t i, __m256i pairs) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at<int16_t>(prepared, i)), pairs);
}

// Lays out k values: values_of(from) gives those of 16 elements from `from` on. The last step reads
// a copy that is filled up, makes zeros of what it has too much, and stores whole quads.
template <class T, class ValuesOf>
inline void lay_out(const void* row, int64_t k, void* prepared, ValuesOf values_of) {
  int64_t i = 0;
  for (; i + kStep <= k; i += kStep) store_step(prepared, i, in_pairs(values_of(at<T>(row, i))));
  const int64_t left = k - i;
  if (left == 0) return;
  T rest[kStep] = {};
  int16_t values[kStep];
  memcpy(rest, at<T>(row, i), static_cast<size_t>(left) * sizeof(T));
  store_step(values, 0, values_of(rest));
  memset(values + left, 0, static_cast<size_t>(kStep - left) * sizeof(int16_t));
  store_step(values, 0, in_pairs(load_step(values, 0)));
  const auto stored = static_cast<size_t>(quads_of(left) * kQuad) * sizeof(int16_t);
  memcpy(at<int16_t>(prepared, i), values, stored);
}

void prepare_row(const void* row, bool is_signed, int64_t k, void* prepared) {
  lay_out<uint8_t>(row, k, prepared,
                   [is_signed](const uint8_t* from) { return widen(from, is_signed); });
}

void quantize_row(const void* x, Float type, int64_t k, QuantizeParams params, void* prepared) {
  const Bounds b = bounds_of(params);
  const __m256i zero_point = Simd::all(params.zero_point);
  const auto quantize = [&](const auto* from) {
    return quantize_vector(Simd::load(from), b.inv_scale, b.low, b.high, zero_point);
  };
  with_type(type, [&](auto element) {
    lay_out<decltype(element)>(x, k, prepared, [&](const auto* from) {
      const __m256i halves = _mm256_packs_epi32(quantize(from), quantize(from + Simd::lanes));
      return _mm256_permute4x64_epi64(halves, _MM_SHUFFLE(3, 1, 2, 0));  // it packs by 128 bits
    });
  });
}

QParams quantize_token(const void* x, Float type, int64_t k, void* prepared) {
  return quantize_token_with(quantize_row, x, type, k, prepared);
}

// One vpaddd: left to itself GCC adds up the products of a quad first, and then moves or spills the
// sums for want of a register.
inline void accumulate(__m256i& sum, __m256i products) {
  asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
}

// The even or odd ones of 32 bytes, widened to int16.
inline __m256i odd_bytes(const int8_t* p) {
  return _mm256_srai_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 8);
}
inline __m256i even_bytes(const int8_t* p) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
}

inline __m256i broadcast_pair(const int16_t* p) { return _mm256_set1_epi32(load_int32(p)); }

// Few rows or little depth: the weight is widened in registers, for each tile anew.

template <int R>
inline void add_products(const int16_t* rows, int64_t stride, __m256i left, __m256i right,
                         __m256i (&sums)[R][2]) {
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
    const __m256i pair = broadcast_pair(rows + i * stride);
    accumulate(sums[i][0], _mm256_madd_epi16(pair, left));
    accumulate(sums[i][1], _mm256_madd_epi16(pair, right));
  }
}

template <int R>
inline void store_sums(const __m256i (&sums)[R][2], int32_t* stored) {
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
    Simd::store(stored + i * kPanel, sums[i][0]);
    Simd::store(stored + i * kPanel + Simd::lanes, sums[i][1]);
  }
}

template <int R>
void sum_tile(const int16_t* rows, int64_t stride, const int8_t* weight, int64_t quads,
              int32_t* stored) {
  __m256i sums[R][2];
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
  for (int64_t quad = 0; quad < quads; ++quad, weight += kPanelRow, rows += kQuad) {
    const int8_t* right = weight + kPanelRow / 2;
    prefetch_ahead(weight);
    add_products<R>(rows, stride, even_bytes(weight), even_bytes(right), sums);
    // The odd bytes are loaded again, not kept: there is no register for them.
    asm("" ::: "memory");
    add_products<R>(rows + 2, stride, odd_bytes(weight), odd_bytes(right), sums);
  }
  store_sums(sums, stored);
}

using SumTile = void (*)(const int16_t*, int64_t, const int8_t*, int64_t, int32_t*);
constexpr SumTile kSumTile[kRows] = {sum_tile<1>, sum_tile<2>, sum_tile<3>,
                                     sum_tile<4>, sum_tile<5>, sum_tile<6>};

// Some rows of the activations, and their sums over one panel.
struct RowSpan {
  const int16_t* rows;
  int64_t stride;  // int16 from row to row
  int64_t count;   // at most kRowBlock
  int32_t* sums;   // [count][kPanel]
};

inline void sum_panel(const RowSpan& a, const int8_t* weight, int64_t quads) {
  for_each_row_block(a.count, kRows, [&](int64_t first, int64_t rows) {
    kSumTile[rows - 1](a.rows + first * a.stride, a.stride, weight, quads, a.sums + first * kPanel);
  });
}

// Many rows: half the multiplications, by Winograd's identity (1968) for inner products,
//   (a0 + w1) (a1 + w0) = a0 w0 + a1 w1 + a0 a1 + w0 w1,
// whose last two terms belong to a row and a column and are subtracted at the end. The sums in
// brackets fit 9 bits, the rest is modulo 2^32. vpmaddwd has two ports where vpaddw has four, so
// additions in its place are faster (170 GOPS a core of Zen 3 instead of 161). The weight is
// widened once for all rows, in blocks of the depth that stay in L1 or near it.

constexpr int64_t kManyRows = 24;     // widening costs as much as a row or two
constexpr int64_t kDeep = 64;         // quads: in less depth the sums cost more than the products
constexpr int64_t kDepthBlock = 256;  // quads: 32 KB of widened weight
constexpr int kPairRows = 4;          // x 16 columns: 8 sums, 4 weights, 2 activations, 2 products
constexpr int64_t kWideRow = 4 * 16;  // int16 of a quad: left even and odd, right even and odd

// The products a0 a1 + a2 a3 of a row's quads, which lie in the order 0 2 1 3, added up: each pair
// is multiplied with the one beside it, so that every second lane repeats its neighbour.
int32_t sum_row_products(const int16_t* row, int64_t quads) {
  __m256i sums = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + kStep <= quads * kQuad; i += kStep) {
    const __m256i pairs = load_step(row, i);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1)));
  }
  if (i < quads * kQuad) {
    int16_t rest[kStep] = {};
    memcpy(rest, at<int16_t>(row, i), static_cast<size_t>(quads * kQuad - i) * sizeof(int16_t));
    const __m256i pairs = load_step(rest, 0);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1)));
  }
  int32_t lanes[Simd::lanes];
  Simd::store(lanes, sums);
  return lanes[0] + lanes[2] + lanes[4] + lanes[6];
}

// Also adds the products of each column to `left` and `right`.
inline void widen_weight(const int8_t* weight, int64_t quads, int16_t* wide, __m256i& left,
                         __m256i& right) {
  for (int64_t quad = 0; quad < quads; ++quad, weight += kPanelRow, wide += kWideRow) {
    const __m256i even[2] = {even_bytes(weight), even_bytes(weight + kPanelRow / 2)};
    const __m256i odd[2] = {odd_bytes(weight), odd_bytes(weight + kPanelRow / 2)};
    for (int half = 0; half < 2; ++half) {
      store_step(wide, half * 32, even[half]);
      store_step(wide, half * 32 + 16, odd[half]);
    }
    left = _mm256_add_epi32(left, _mm256_madd_epi16(even[0], odd[0]));
    right = _mm256_add_epi32(right, _mm256_madd_epi16(even[1], odd[1]));
  }
}

inline void accumulate_pairs(__m256i& sum, __m256i a02, __m256i a13, __m256i w02, __m256i w13) {
  accumulate(sum, _mm256_madd_epi16(_mm256_add_epi16(a02, w13), _mm256_add_epi16(a13, w02)));
}

template <int R>
void add_pairs(const int16_t* rows, int64_t stride, const int16_t* wide, int64_t quads,
               int32_t* stored) {
  __m256i sums[R][2];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
    sums[i][0] = Simd::load(stored + i * kPanel);
    sums[i][1] = Simd::load(stored + i * kPanel + Simd::lanes);
  }
  for (int64_t quad = 0; quad < quads; ++quad, wide += kWideRow, rows += kQuad) {
    const __m256i left02 = load_step(wide, 0), left13 = load_step(wide, 16);
    const __m256i right02 = load_step(wide, 32), right13 = load_step(wide, 48);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const __m256i a02 = broadcast_pair(rows + i * stride);
      const __m256i a13 = broadcast_pair(rows + i * stride + 2);
      accumulate_pairs(sums[i][0], a02, a13, left02, left13);
      accumulate_pairs(sums[i][1], a02, a13, right02, right13);
    }
  }
  store_sums(sums, stored);
}

using AddPairs = void (*)(const int16_t*, int64_t, const int16_t*, int64_t, int32_t*);
constexpr AddPairs kAddPairs[kPairRows] = {add_pairs<1>, add_pairs<2>, add_pairs<3>, add_pairs<4>};

// Subtracts what the row and the columns brought into each sum.
inline void subtract_products(const RowSpan& a, const int32_t* row_products, __m256i left,
                              __m256i right) {
  for (int64_t i = 0; i < a.count; ++i) {
    int32_t* row = a.sums + i * kPanel;
    const __m256i products = Simd::all(row_products[i]);
    const __m256i left_sums = Simd::load(row), right_sums = Simd::load(row + Simd::lanes);
    Simd::store(row, Simd::subtract(left_sums, Simd::add(left, products)));
    Simd::store(row + Simd::lanes, Simd::subtract(right_sums, Simd::add(right, products)));
  }
}

void sum_panel_by_identity(const RowSpan& a, const int32_t* row_products, const int8_t* weight,
                           int64_t quads) {
  int16_t wide[kDepthBlock * kWideRow];
  memset(a.sums, 0, static_cast<size_t>(a.count * kPanel) * sizeof(int32_t));
  __m256i left = _mm256_setzero_si256(), right = left;
  for (int64_t quad = 0; quad < quads; quad += kDepthBlock) {
    const int64_t count = quads - quad < kDepthBlock ? quads - quad : kDepthBlock;
    widen_weight(weight + quad * kPanelRow, count, wide, left, right);
    for_each_row_block(a.count, kPairRows, [&](int64_t first, int64_t rows) {
      kAddPairs[rows - 1](a.rows + first * a.stride + quad * kQuad, a.stride, wide, count,
                          a.sums + first * kPanel);
    });
  }
  subtract_products(a, row_products, left, right);
}

void multiply_rows(const MatmulSpan& s, int64_t first, int64_t count) {
  int32_t sums[kRowBlock * kPanel], row_products[kRowBlock];
  const int64_t stride = s.activation_stride / kActivationBytes;
  const RowSpan a = {at<int16_t>(row_of(s, first), 0), stride, count, sums};
  const bool by_identity = count >= kManyRows && s.quads >= kDeep;
  for (int64_t i = 0; by_identity && i < count; ++i) {
    row_products[i] = sum_row_products(a.rows + i * stride, s.quads);
  }
  for (int64_t panel = s.first_panel; panel < s.last_panel; ++panel) {
    if (by_identity) {
      sum_panel_by_identity(a, row_products, panel_of(s, panel), s.quads);
    } else {
      sum_panel(a, panel_of(s, panel), s.quads);
    }
    finish_tile(s, {sums, kPanel, first, count, panel * kPanel, columns_of(s, panel, 1)});
  }
}

void multiply(const MatmulSpan& s) {
  for_each_row_block(s.rows, kRowBlock,
                     [&](int64_t first, int64_t count) { multiply_rows(s, first, count); });
}

}  // namespace

const MatmulKernels matmul_avx2 = {
    kActivationBytes, 0, kProductsPerThread, prepare_row, quantize_row, quantize_token, multiply, 0,
    nullptr};

}  // namespace torchquant::kernels
