// The int8 matmul in AVX-512 VNNI: vpdpbusd adds four products of an unsigned and a signed byte to
// each int32, modulo 2^32.
#include "simd_avx512.h"
// Simd first: the kernels are written in it.
#include "matmul_simd.h"

namespace torchquant::kernels {
namespace {

// 6 rows x 4 panels are 24 accumulators; 4 weights and 1 activation leave 3 of 32 registers free.
constexpr int kRows = 6;
constexpr int kPanels = 4;
constexpr int64_t kActivationBytes = 1;
constexpr int32_t kSignedOffset = 128;  // int8 as an unsigned byte: the sign bit flipped

inline void prepare_row(const void* row, bool is_signed, int64_t k, void* prepared) {
  const int64_t padded = (k + kQuad - 1) / kQuad * kQuad;
  const __m512i flip = _mm512_set1_epi8(is_signed ? -128 : 0);
  for (int64_t i = 0; i < padded; i += 64) {
    const int64_t count = k - i < 64 ? k - i : 64;
    const int64_t stored = padded - i < 64 ? padded - i : 64;
    const __m512i bytes = _mm512_maskz_loadu_epi8(~__mmask64{0} >> (64 - count), at<char>(row, i));
    _mm512_mask_storeu_epi8(at<char>(prepared, i), ~__mmask64{0} >> (64 - stored),
                            _mm512_xor_si512(bytes, flip));
  }
}

template <int R, int P>
void multiply_tile(const MatmulSpan& s, int64_t first_row, int64_t panel) {
  const uint8_t* rows = at<uint8_t>(s.activations, first_row * s.quads * kQuad);
  const int64_t row_stride = s.quads * kQuad;
  const int64_t panel_stride = s.quads * kPanelRow;
  const int8_t* weight = panel_of(s, panel);
  __m512i sums[R][P];
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sums[i][p] = _mm512_setzero_si512();
  }
  for (int64_t quad = 0; quad < s.quads; ++quad, weight += kPanelRow, rows += kQuad) {
    __m512i weights[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) weights[p] = _mm512_loadu_si512(weight + p * panel_stride);
#pragma GCC unroll 6
    for (int i = 0; i < R; ++i) {
      const __m512i activation = _mm512_set1_epi32(load_int32(rows + i * row_stride));
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        sums[i][p] = _mm512_dpbusd_epi32(sums[i][p], activation, weights[p]);
      }
    }
  }
  finish_tile(s, first_row, panel * kPanel, sums);
}

using Tile = void (*)(const MatmulSpan&, int64_t first_row, int64_t panel);

template <int P>
constexpr Tile kTiles[kRows] = {multiply_tile<1, P>, multiply_tile<2, P>, multiply_tile<3, P>,
                                multiply_tile<4, P>, multiply_tile<5, P>, multiply_tile<6, P>};

constexpr const Tile* kTilesOfPanels[kPanels] = {kTiles<1>, kTiles<2>, kTiles<3>, kTiles<4>};

// A group of panels stays in L2 while all rows pass over it.
void multiply(const MatmulSpan& s) {
  for (int64_t panel = s.first_panel; panel < s.last_panel; panel += kPanels) {
    const int64_t panels = s.last_panel - panel < kPanels ? s.last_panel - panel : kPanels;
    for_each_row_block(s.rows, kRows, [&](int64_t first, int64_t count) {
      kTilesOfPanels[panels - 1][count - 1](s, first, panel);
    });
  }
}

}  // namespace

const MatmulKernels matmul_avx512vnni = {kActivationBytes, kSignedOffset, prepare_row, multiply};

}  // namespace torchquant::kernels
