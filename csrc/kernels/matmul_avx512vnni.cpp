// The int8 matmul in AVX-512 VNNI: vpdpbusd on 512 bits, one row of a packed panel.
#include "simd_avx512.h"

namespace torchquant::kernels {
namespace {

// 6 rows x 4 panels are 24 accumulators; 4 weights, 1 activation and the flip leave 2 of 32
// registers free. 16 rows x 1 panel need 17 loads for 16 products, at two of each a cycle.
struct Vnni {
  using V = __m512i;
  static constexpr int64_t bytes = 64;
  static constexpr int vectors = 1;  // of a panel's row
  static constexpr int accumulators = 24;
  static constexpr int max_rows = 16;
  static constexpr int block_rows = 6;

  static V zero() { return _mm512_setzero_si512(); }
  static V all(int32_t byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
  static V load(const int8_t* p) { return _mm512_loadu_si512(p); }
  // One instruction: vpxord takes its operand from memory and broadcasts it.
  static V broadcast(const uint8_t* quad, V flip) {
    return _mm512_xor_si512(_mm512_set1_epi32(kernels::load<int32_t>(quad, 0)), flip);
  }
  static V dot(V sums, V unsigned_bytes, V signed_bytes) {
    return _mm512_dpbusd_epi32(sums, unsigned_bytes, signed_bytes);
  }
};

}  // namespace
}  // namespace torchquant::kernels

// Simd and Vnni first: the kernel is written in them.
#include "matmul_vnni.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kProductsPerThread = int64_t{1} << 20;  // an estimate: 2 x 64 bytes a cycle

// The rows of both sides lie along the depth: 64 products of each pair are added into 16 sums, and
// these at the end. For 4 rows and no more: every further row makes packing, once for all, cheaper
// in comparison.
constexpr int kUnpackedRows = 4;
constexpr int kUnpackedColumns = 4;
constexpr int64_t kStep = 64;

inline __m512i first_bytes(const void* p, int64_t count) {
  return _mm512_maskz_loadu_epi8(~__mmask64{0} >> (kStep - count), p);
}

inline int32_t sum_of(const void* row, bool is_signed, int64_t depth) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums = _mm512_setzero_si512();
  for (int64_t k = 0; k < depth; k += kStep) {
    const __m512i bytes = first_bytes(at<char>(row, k), depth - k < kStep ? depth - k : kStep);
    sums =
        is_signed ? _mm512_dpbusd_epi32(sums, ones, bytes) : _mm512_dpbusd_epi32(sums, bytes, ones);
  }
  return _mm512_reduce_add_epi32(sums);
}

// The unsigned operand is an unsigned activation, or else the weight; `flip` gives the weight the
// other signedness where it has that of the activations. Activations behind the end are zero.
template <bool Signed, int R, int C>
inline void add_products(const UnpackedSpan& s, int64_t n, int64_t k, int64_t count, __m512i flip,
                         __m512i (&sums)[R][C]) {
  __m512i rows[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    rows[r] = first_bytes(at<char>(s.activations, r * s.activation_stride + k), count);
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    const void* weight = at<char>(s.weight, (n + c) * s.weight_stride + k);
    // What follows these columns: a column is too short for the processor to notice by itself.
    _mm_prefetch(at<char>(weight, C * s.weight_stride), _MM_HINT_T0);
    const __m512i column = _mm512_xor_si512(first_bytes(weight, count), flip);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      sums[r][c] = Signed ? _mm512_dpbusd_epi32(sums[r][c], column, rows[r])
                          : _mm512_dpbusd_epi32(sums[r][c], rows[r], column);
    }
  }
}

template <bool Signed, int R, int C>
inline void multiply_columns(const UnpackedSpan& s, int64_t n, const int32_t* offsets) {
  const __m512i flip = _mm512_set1_epi8(Signed == s.weight_is_signed ? -128 : 0);
  __m512i sums[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sums[r][c] = _mm512_setzero_si512();
  }
  int64_t k = 0;
  for (; k + kStep <= s.depth; k += kStep) add_products<Signed>(s, n, k, kStep, flip, sums);
  if (k < s.depth) add_products<Signed>(s, n, k, s.depth - k, flip, sums);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const int32_t sum = subtract_product(_mm512_reduce_add_epi32(sums[r][c]), offsets[r], -1);
      store(s.out, r * s.out_stride + n + c, sum);
    }
  }
}

template <bool Signed, int R>
void multiply_rows(const UnpackedSpan& s) {
  // What the flip added to the weight, or took from it, times the activations.
  const int32_t flipped = Signed != s.weight_is_signed ? 0 : Signed ? -128 : 128;
  int32_t offsets[R];
  for (int r = 0; r < R; ++r) {
    const void* row = at<char>(s.activations, r * s.activation_stride);
    offsets[r] = flipped == 0 ? 0 : subtract_product(0, -flipped, sum_of(row, Signed, s.depth));
  }
  int64_t n = 0;
  for (; n + kUnpackedColumns <= s.columns; n += kUnpackedColumns) {
    multiply_columns<Signed, R, kUnpackedColumns>(s, n, offsets);
  }
  for (; n < s.columns; ++n) multiply_columns<Signed, R, 1>(s, n, offsets);
}

using Unpacked = void (*)(const UnpackedSpan&);

template <bool Signed>
constexpr Unpacked kUnpacked[kUnpackedRows] = {multiply_rows<Signed, 1>, multiply_rows<Signed, 2>,
                                               multiply_rows<Signed, 3>, multiply_rows<Signed, 4>};

void multiply_unpacked(const UnpackedSpan& s) {
  (s.is_signed ? kUnpacked<true> : kUnpacked<false>)[s.rows - 1](s);
}

}  // namespace

const MatmulKernels matmul_avx512vnni = {kActivationBytes, kSignedOffset, kProductsPerThread,
                                         prepare_row,      quantize_row,  quantize_token,
                                         multiply,         kUnpackedRows, multiply_unpacked};

}  // namespace torchquant::kernels
